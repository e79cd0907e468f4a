"""Sockets: addresses, connecting, listening, and whole reads and writes. The only place that knows socket options.

What a connection begins with is `Connection`'s (on the loop, and TLS's handshake); what follows on a data channel is
`DataSocket`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from multifd import limits
from multifd.errors import TransportError
from multifd.slot import Buffer, pour

_BACKLOG = 256
CUT = "the connection ended inside a slot"
_LOCAL_BUFFER_BYTES = limits.MIB
"""Within one host nothing is on its way for long, and what waits in a socket falls out of the processor's cache: the
system lets it grow to tens of megabytes, with which a stock QEMU's channels were a fifth slower, and slots of our own
no faster (docs/BENCHMARKS.md). The system may give less (net.core.rmem_max).
"""
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""A host that vanished is noticed after 30 s, as long as STALL_DEADLINE_S."""


@dataclass(frozen=True, slots=True)
class Address:
    """`tcp://HOST:PORT` (IPv6 in brackets) or `unix:///PATH`; read in QEMU's forms too, `tcp:HOST:PORT` and
    `unix:PATH`.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raise `ValueError` with what was expected."""
        scheme, _, rest = text.partition(":")
        if scheme == "unix" and rest and not rest.startswith("//"):
            return cls(path=str(Path(rest).absolute()))  # so that what is written can be read again, anywhere
        usual = f"tcp://{rest}" if scheme == "tcp" and not rest.startswith("//") else text
        with contextlib.suppress(ValueError):  # its own words say nothing of what is expected here
            parts = urlsplit(usual)
            if parts.scheme == "unix" and not parts.netloc and parts.path:
                return cls(path=parts.path)
            if parts.scheme == "tcp" and parts.hostname and parts.path in ("", "/") and parts.port is not None:
                return cls(host=parts.hostname, port=parts.port)
        raise ValueError(f"an address is tcp://HOST:PORT or unix:///PATH (or tcp:HOST:PORT, unix:PATH), not {text!r}")

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Options of data channels; None leaves the system's default, but for `buffer` on a connection within one host that
    was accepted: that asks for `_LOCAL_BUFFER_BYTES`.
    """

    congestion_control: str | None = None
    buffer: int | None = None


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the system's errors into `TransportError`, once, at the border."""
    try:
        yield
    except (OSError, EOFError, TimeoutError) as error:
        raise TransportError(f"{doing}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)  # asyncio puts the address in its place
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


async def connect(address: Address, options: SocketOptions | None = None) -> socket.socket:
    """A connected, non-blocking socket. Raises `TransportError`."""
    loop = asyncio.get_running_loop()
    with translated(f"can't connect to {address}"):
        async with asyncio.timeout(limits.CONNECT_DEADLINE_S):
            if address.path:
                return await _connect_one(loop, socket.AF_UNIX, address.path, options)
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            last: OSError = OSError(errno.EADDRNOTAVAIL, "no address found")
            for family, _, _, _, target in found:
                try:
                    return await _connect_one(loop, family, target, options)
                except OSError as error:
                    last = error
            raise last


async def _connect_one(
    loop: asyncio.AbstractEventLoop, family: int, target: object, options: SocketOptions | None
) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        tune(connection, options)
        await loop.sock_connect(connection, target)  # type: ignore[arg-type]  # one of getaddrinfo's or a path
    except BaseException:
        connection.close()
        raise
    return connection


def listen_socket(address: Address) -> tuple[socket.socket, Address]:
    """A listening, non-blocking socket and the address that it really has. Raises `TransportError`."""
    with translated(f"can't listen on {address}"):
        if address.path:
            _remove_stale(address.path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            target: object = address.path
        else:
            family, _, _, _, target = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(target)  # type: ignore[arg-type]
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    if address.path:
        return listener, address
    return listener, Address(host=address.host, port=listener.getsockname()[1])


class SocketPath:
    """The path of a unix socket that we listen on, or of none: removed only while it is still ours."""

    def __init__(self, address: Address) -> None:
        self._path = Path(address.path) if address.path else None
        self._file = _identity(self._path) if self._path else None

    def remove(self) -> None:
        """Remove it, unless somebody else has put something there. Idempotent."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                if _identity(self._path) == self._file:
                    self._path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more; leave anything else for bind to complain about."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # whoever listens there may take nobody
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink()


def tune(connection: socket.socket, options: SocketOptions | None) -> None:
    """Set what every connection needs, and the options of a data channel."""
    if options is not None and (buffer := options.buffer or (_LOCAL_BUFFER_BYTES if _is_local(connection) else 0)):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, name, value)
    if options is not None and options.congestion_control:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, options.congestion_control.encode())
        except FileNotFoundError as error:
            cause = (
                f"this system has no congestion control {options.congestion_control!r}: choose one of "
                "net.ipv4.tcp_available_congestion_control"
            )
            raise OSError(errno.ENOENT, cause) from error


def _is_local(connection: socket.socket) -> bool:
    """Whether it is a TCP connection within this host; false as long as it is none at all."""
    if connection.family == socket.AF_UNIX:
        return False
    try:
        return bool(connection.getpeername()[0] == connection.getsockname()[0])
    except OSError:
        return False


def congestion_control(connection: socket.socket) -> str:
    """What is really in use; empty for a unix socket."""
    if connection.family == socket.AF_UNIX:
        return ""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


class DataSocket:
    """A data channel's connection, blocking, for one worker thread. `shut` may be called by any thread and wakes the
    worker.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._socket = connection
        self._given_back = memoryview(b"")
        self.security = "plain"
        """Or TLS's version and cipher."""

    @property
    def congestion_control(self) -> str:
        """What is really in use."""
        return congestion_control(self._socket)

    def tune(self, options: SocketOptions) -> None:
        """*loop*: set options that are only known now. Raises `OSError`."""
        tune(self._socket, options)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """*worker*: send all of it. Raises `OSError`."""
        length = sum(map(len, buffers))
        sent = self._socket.sendmsg(buffers)
        while sent < length:  # a blocking sendmsg is cut short by a signal only
            buffers = _rest(buffers, sent)
            length -= sent
            sent = self._socket.sendmsg(buffers)

    def receive_some(self, buffer: memoryview) -> int:
        """*worker*: take what is there, at least a byte and at most what `buffer` has room for. Returns how much, 0 if
        the connection has ended. Raises `OSError`.
        """
        if self._given_back:
            return len(buffer) - sum(map(len, self._take_given_back((buffer,))))
        return self._take_some(buffer)

    def _take_some(self, buffer: memoryview) -> int:
        return self._socket.recv_into(buffer)

    def give_back(self, data: memoryview) -> None:
        """*worker*: what is received next begins with these bytes: `receive_some` took them, and they are to be read in
        another way.
        """
        self._given_back = memoryview(bytes(data) + bytes(self._given_back))

    def receive(self, buffers: Sequence[memoryview]) -> bool:
        """*worker*: fill all of it. False if the connection ended before its first byte; raises `EOFError` after it, or
        `OSError`.
        """
        length = sum(map(len, buffers))
        if not length:  # for which the system would wait
            return True
        got = self.receive_until_end(buffers)
        if 0 < got < length:
            raise EOFError(CUT)
        return got > 0

    def receive_until_end(self, buffers: Sequence[memoryview]) -> int:
        """*worker*: fill all of it, a byte at least. Returns how many bytes came: fewer only if the connection ended
        before. Raises `OSError`.
        """
        if not self._given_back:
            return self._fill(buffers)
        rest = self._take_given_back(buffers)
        left = sum(map(len, rest))
        return sum(map(len, buffers)) - left + (self._fill(rest) if left else 0)

    def _take_given_back(self, buffers: Sequence[memoryview]) -> Sequence[memoryview]:
        """Returns what is still to be filled."""
        rest = pour(self._given_back, buffers)
        self._given_back = self._given_back[sum(map(len, buffers)) - sum(map(len, rest)) :]
        return rest

    def _fill(self, buffers: Sequence[memoryview]) -> int:
        if len(buffers) == 1:
            filled = got = self._socket.recv_into(buffers[0], 0, socket.MSG_WAITALL)
        else:
            filled = got = self._socket.recvmsg_into(buffers, 0, socket.MSG_WAITALL)[0]
        length = sum(map(len, buffers))
        while got and filled < length:
            rest = [memoryview(each) for each in _rest(buffers, filled)]
            got = self._socket.recvmsg_into(rest, 0, socket.MSG_WAITALL)[0]
            filled += got
        return filled

    def shut(self) -> None:
        """*any*: end it for both directions."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """*loop*: after the worker has ended."""
        self._socket.close()


def _rest(buffers: Sequence[Buffer], done: int) -> list[Buffer]:
    """The buffers without their first `done` bytes."""
    rest: list[Buffer] = []
    for each in buffers:
        if done >= len(each):
            done -= len(each)
            continue
        rest.append(memoryview(each)[done:] if done else each)
        done = 0
    return rest
