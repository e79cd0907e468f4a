"""A connection on the loop, plain or TLS, for main and for the beginning of every other, in both dialects.

It reads only what is asked for, so that it can be handed to a worker thread (`detach`) between any two bytes. Writes
are sent at once as far as the socket takes them; the rest is sent by the loop. TLS may have to write in order to read
and the other way round: what a step waits for is what OpenSSL says, not what the step is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Self

from multifd import limits
from multifd.engine.tls import Tls
from multifd.engine.tls_socket import TlsDataSocket, discard, say_end, security_of
from multifd.engine.transport import Address, DataSocket, SocketOptions, connect, translated, tune
from multifd.errors import LocalProtocolError, TransportError
from multifd.slot import Buffer

_WRITE_BYTES = 256 * limits.KIB
"""Handed to a socket at once: what it does not take of it is not encrypted in vain."""
_DRAINED_BYTES = 64 * limits.KIB
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A connected socket that the running loop drives. One task reads at a time; any may write. Not for threads."""

    def __init__(self, connection: socket.socket, tls: Tls | None = None) -> None:
        """Take over a connected, non-blocking socket; with `tls` an `ssl.SSLSocket`, made by `tls`."""
        self.name = "the connection"
        """What errors call it."""
        self.security = "plain"
        """Or TLS's version and cipher: `TLS 1.3, TLS_AES_256_GCM_SHA384`."""
        self._socket = connection
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._fd = connection.fileno()
        self._out = bytearray()
        self._tried = 0
        """Bytes of `_out` that TLS was given and wants to be given again."""
        self._sent = asyncio.Event()
        self._lost: OSError | None = None
        self._ending = self._closed = False
        """What is ending sends what it has, and takes and gives no more."""
        self._watches_reads = self._watches_writes = False
        self._reader: asyncio.Future[None] | None = None
        """Of the task that reads (or shakes hands, or closes), while it waits."""
        self._reader_writes = False
        """It waits until the socket can be written to."""
        self._sends_on_read = False
        """What is to be sent waits until the socket can be read."""

    @classmethod
    async def connect(cls, address: Address, options: SocketOptions | None = None, tls: Tls | None = None) -> Self:
        """Connect, and do TLS's handshake as its client. Raises `TransportError`; `CredentialsError` if there is no
        name to check.
        """
        _check_role(tls, server=False)
        if tls is not None:
            tls.name_of(address)  # before anything is connected
        plain = await connect(address, options)
        return await cls._begin(plain, tls, address, f"can't connect to {address}")

    @classmethod
    async def accept(cls, connection: socket.socket, tls: Tls | None = None) -> Self:
        """Take over a socket that was accepted, and do TLS's handshake as its server. Raises `TransportError`;
        then, and if it is cancelled, the socket is closed.
        """
        _check_role(tls, server=True)
        connection.setblocking(False)
        try:
            with translated("a connection failed"):
                tune(connection, None)
        except TransportError:
            connection.close()
            raise
        return await cls._begin(connection, tls, None, "a connection failed")

    @classmethod
    async def _begin(cls, plain: socket.socket, tls: Tls | None, address: Address | None, doing: str) -> Self:
        if tls is None:
            return cls(plain)
        with translated(doing):
            try:
                wrapped = tls.wrap(plain, address)
            except BaseException:
                plain.close()
                raise
            made = cls(wrapped, tls)
            try:
                await made._shake_hands(wrapped, tls)
            except OSError:  # of the peer's making: it is told why, if it listens
                await made.close()
                raise
            except BaseException:
                made.abort()
                raise
        return made

    async def _shake_hands(self, wrapped: ssl.SSLSocket, tls: Tls) -> None:
        try:
            async with asyncio.timeout(limits.TLS_HANDSHAKE_DEADLINE_S):
                while not self._closed:
                    try:
                        tls.shake_hands(wrapped)
                        break
                    except ssl.SSLWantReadError:
                        await self._until_readable()
                    except ssl.SSLWantWriteError:
                        await self._until_writable()
        except TimeoutError:
            raise TimeoutError(f"no TLS handshake within {limits.TLS_HANDSHAKE_DEADLINE_S:g} s") from None
        self.security = security_of(wrapped)

    # -- what it is

    @property
    def is_closed(self) -> bool:
        """Whether it was closed or handed over here."""
        return self._closed

    @property
    def is_lost(self) -> bool:
        """Whether it is known here that nothing more can be sent: asked after `write`, whether that one failed."""
        return self._lost is not None

    @property
    def backlog(self) -> int:
        """Bytes that were written and not yet sent."""
        return len(self._out)

    # -- reading

    async def read(self, n_max: int) -> bytes:
        """At least one byte and at most `n_max`; none when the peer has ended it, or it was closed here. May be
        cancelled without loss. Raises `TransportError`.
        """
        with self._losing():
            while not self._ending:
                try:
                    if self._has_decrypted() or await self._until_readable():
                        with self._explained():
                            return self._socket.recv(n_max)
                except ssl.SSLWantWriteError:
                    await self._until_writable()
                except _AGAIN:
                    if self._lost is not None:
                        raise self._lost from None
        return b""

    async def read_exactly(self, n: int) -> bytes:
        """`n` bytes. Raises `TransportError`, also when it ends before."""
        data = bytearray()
        while len(data) < n:
            more = await self.read(n - len(data))
            if not more:
                raise TransportError(f"{self.name} ended after {len(data)} of {n} bytes")
            data += more
        return bytes(data)

    def _has_decrypted(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    # -- writing

    def write(self, data: Buffer) -> None:
        """Send it, or what the socket does not take yet later, in order. The buffer may be changed afterwards. Raises
        `TransportError` if the connection was lost before. A loss that this write finds is for who reads, who may find
        the peer's last words first.
        """
        if self._ending:
            raise TransportError(f"{self.name} was closed")
        with self._losing():
            if self._lost is not None:
                raise self._lost
        view = memoryview(data)
        try:
            while view and not self._out:
                sent = self._send(view[:_WRITE_BYTES])
                if not sent:
                    break
                view = view[sent:]
        except OSError as error:
            self._lose(error)
        else:
            self._out += view

    async def drain(self, left: int = _DRAINED_BYTES) -> None:
        """Wait until at most `left` bytes are still to be sent. Raises `TransportError`."""
        with self._losing():
            while len(self._out) > left and self._lost is None:
                self._sent.clear()
                await self._sent.wait()
            if self._lost is not None:
                raise self._lost
        if self._closed:
            raise TransportError(f"{self.name} was closed")

    def _send(self, data: memoryview) -> int:
        """Bytes sent; none if it has to wait, and then the loop goes on with it."""
        self._tried, self._sends_on_read = 0, False
        try:
            with self._explained():
                return self._socket.send(data)
        except ssl.SSLWantReadError:
            self._sends_on_read = True
            self._watch_writes(False)
            self._watch_reads(True)
        except _AGAIN:
            self._watch_writes(True)
        self._tried = len(data)
        return 0

    def _go_on_sending(self) -> None:
        try:
            while self._out:
                with memoryview(self._out)[: self._tried or _WRITE_BYTES] as piece:
                    sent = self._send(piece)
                if not sent:
                    return
                del self._out[:sent]
                self._sent.set()
        except OSError as error:
            self._lose(error)
        self._watch_writes(self._reader_writes)

    def _lose(self, error: OSError) -> None:
        """Nothing more can be sent. Who reads finds what came before, and then this."""
        if self._lost is None:
            self._lost = error
        self._out.clear()
        self._sent.set()
        self._wake_reader()

    # -- ending

    async def close(self) -> None:
        """Send what is left, say that nothing follows (under TLS by close-notify as well), and wait for the peer to do
        so, all within `LAST_WORDS_S`: closing over unread bytes would reset the connection, and the peer might never
        read what was written last. Who reads is told that it ended.
        """
        self._ending = True
        self._wake_reader()
        try:
            with contextlib.suppress(OSError, TimeoutError, TransportError):
                async with asyncio.timeout(limits.LAST_WORDS_S):
                    await asyncio.sleep(0)  # who read has left after that
                    await self.drain(0)
                    while isinstance(self._socket, ssl.SSLSocket) and not say_end(self._socket):
                        await self._until_writable()
                    socket.socket.shutdown(self._socket, socket.SHUT_WR)
                    while not discard(self._socket) and await self._until_readable():
                        pass
        finally:  # also when whoever closes is cancelled
            self.abort()

    def abort(self) -> None:
        """Close now. Who reads is told that it ended."""
        if not self._closed:
            self._leave_loop()
            self._socket.close()

    def detach(self) -> DataSocket:
        """Hand it to a worker thread. Everything that was written must have been sent (`drain(0)`), and nobody may
        read; it can't be used any more. Raises `LocalProtocolError`.
        """
        if self._closed or self._out or self._reader is not None:
            raise LocalProtocolError("Connection.detach", "a connection on which nothing is under way")
        self._leave_loop()
        if isinstance(self._socket, ssl.SSLSocket):
            assert self._tls is not None
            return TlsDataSocket(self._socket, self._tls)
        return DataSocket(self._socket)

    def _leave_loop(self) -> None:
        self._ending = self._closed = True
        self._watch_reads(False)
        self._watch_writes(False)
        self._out.clear()
        self._sent.set()
        self._wake_reader()

    # -- errors

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return self._tls.explained() if self._tls is not None else contextlib.nullcontext()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """An error of the system's means that the connection is lost."""
        with translated(f"{self.name} was lost"):
            try:
                yield
            except OSError as error:
                self._lose(error)
                raise

    # -- the loop

    async def _until_readable(self) -> bool:
        """False if it was closed meanwhile; true also if there may be nothing after all."""
        self._watch_reads(True)
        return await self._wait()

    async def _until_writable(self) -> bool:
        self._reader_writes = True
        self._watch_writes(True)
        try:
            return await self._wait()
        finally:
            self._reader_writes = False

    async def _wait(self) -> bool:
        if self._reader is not None:
            raise LocalProtocolError("Connection.read", "one reader at a time")
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None
        return not self._closed

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _on_readable(self) -> None:
        if self._sends_on_read:
            self._go_on_sending()
        elif self._reader is None:
            self._watch_reads(False)  # until somebody asks
        self._wake_reader()

    def _on_writable(self) -> None:
        self._go_on_sending()
        if self._reader_writes:
            self._wake_reader()

    def _watch_reads(self, wanted: bool) -> None:
        if wanted and not self._watches_reads:
            self._loop.add_reader(self._fd, self._on_readable)
        elif self._watches_reads and not wanted:
            self._loop.remove_reader(self._fd)
        self._watches_reads = wanted

    def _watch_writes(self, wanted: bool) -> None:
        if wanted and not self._watches_writes:
            self._loop.add_writer(self._fd, self._on_writable)
        elif self._watches_writes and not wanted:
            self._loop.remove_writer(self._fd)
        self._watches_writes = wanted


def _check_role(tls: Tls | None, *, server: bool) -> None:
    if tls is not None and tls.server is not server:
        raise LocalProtocolError("Tls", f"one that was loaded with server={server}", tls)
