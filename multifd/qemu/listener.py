"""Listening for a QEMU source: accepts connections, finds out what each is by its first bytes, and hands main and
channels to the destination (proto/qemu.md section 1). Whatever strangers send, it goes on listening.

A connection that has not said what it is costs a place among `QEMU_PENDING_CONNECTIONS_MAX` and a few hundred bytes,
and both for `QEMU_FIRST_BYTES_DEADLINE_S` at most, with TLS `TLS_HANDSHAKE_DEADLINE_S` more; when there are too many
the oldest goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Protocol

from multifd import limits
from multifd.elements import Handshake
from multifd.engine.connection import Connection
from multifd.engine.tls import Tls
from multifd.engine.transport import Address, SocketPath, listen_socket
from multifd.errors import LocalProtocolError, MultifdError, RemoteProtocolError
from multifd.wire.qemu_packet import FIRST_BYTES, HANDSHAKE_BYTES, Role, connection_role, parse_handshake

_log = logging.getLogger("multifd")
_ACCEPT_PAUSE_S = 0.1
"""After accept failed (out of descriptors): long enough for some to be given back."""


class Host(Protocol):
    """Who takes connections: a destination that is running. Both may raise `RemoteProtocolError`: the connection is
    dropped, and that is all.
    """

    def take_main(self, connection: Connection, first: bytes) -> None:
        """Main is there; `first` was read from it."""

    def take_channel(self, connection: Connection, handshake: Handshake) -> None:
        """A channel is there, its handshake read and well-formed."""


class QemuListener:
    """A listening address, for one destination after another. It accepts while a destination runs; before, connections
    wait in the system's queue.
    """

    def __init__(self, listener: socket.socket, address: Address, tls: Tls | None = None) -> None:
        self.dropped = 0
        """Connections that were neither main nor channel of the session, so far."""
        self.last_dropped = ""
        """Why the last of them was dropped."""
        self._socket = listener
        self._address = address
        self._tls = tls
        self._path = SocketPath(address)
        self._loop = asyncio.get_running_loop()
        self._host: Host | None = None
        self._pending: dict[asyncio.Task[None], socket.socket] = {}
        self._accepting: set[asyncio.Task[None]] = set()
        """Of the host there is, and of those before while they end."""

    @classmethod
    def open(cls, address: str | Address, tls: Tls | None = None) -> QemuListener:
        """Listen on `tcp:HOST:PORT` (port 0: any) or `unix:PATH`; with `tls` (a server's) every connection speaks TLS.
        Call it on the loop. Raises `TransportError`, or `ValueError` for a bad address.
        """
        if tls is not None and not tls.server:
            raise LocalProtocolError("Tls", "one that was loaded with server=True", tls)
        listener, real = listen_socket(Address.parse(address) if isinstance(address, str) else address)
        return cls(listener, real, tls)

    @property
    def address(self) -> Address:
        """Where it really listens (with the port that was chosen for port 0)."""
        return self._address

    @property
    def uri(self) -> str:
        """The same as QEMU's `migrate` takes it."""
        where = self._address
        if where.path:
            return f"unix:{where.path}"
        return f"tcp:[{where.host}]:{where.port}" if ":" in where.host else f"tcp:{where.host}:{where.port}"

    @contextlib.contextmanager
    def hosted_by(self, host: Host) -> Iterator[None]:
        """Accept connections for `host`, for a while. Those that are not known yet at its end, or wait to be accepted,
        are dropped: they were meant for it.
        """
        if self._host is not None:
            raise LocalProtocolError("QemuListener", "one destination at a time")
        self._host = host
        accepting = self._loop.create_task(self._accept())
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)
        try:
            yield
        finally:
            self._host = None
            accepting.cancel()
            for task in self._pending:
                task.cancel()
            self._drop_waiting()

    def _drop_waiting(self) -> None:
        with contextlib.suppress(OSError):  # until there are none
            for _ in range(limits.QEMU_PENDING_CONNECTIONS_MAX):
                self._socket.accept()[0].close()

    async def close(self) -> None:
        """Stop listening, and remove a unix socket's path. Idempotent."""
        tasks = [*self._accepting, *self._pending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._path.remove()
        self._socket.close()

    async def _accept(self) -> None:
        while True:
            # asyncio's sock_accept does not suspend while there are connections: a flood of them would be all that runs
            await asyncio.sleep(0)
            try:
                connection, _ = await self._loop.sock_accept(self._socket)
            except OSError as error:
                _log.warning("can't accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            while len(self._pending) >= limits.QEMU_PENDING_CONNECTIONS_MAX:
                oldest = next(iter(self._pending))
                oldest.cancel()
                await asyncio.sleep(0)  # it closes its connection, and goes
            task = self._loop.create_task(self._greet(connection))
            self._pending[task] = connection
            task.add_done_callback(self._greeted)

    def _greeted(self, task: asyncio.Task[None]) -> None:
        accepted = self._pending.pop(task, None)
        if accepted is not None and task.cancelled():
            accepted.close()  # perhaps before it began

    async def _greet(self, accepted: socket.socket) -> None:
        """Find out what a connection is. Whatever is wrong with it, it is closed and that is all."""
        connection: Connection | None = None
        taken = False
        try:
            connection = await Connection.accept(accepted, self._tls)
            async with asyncio.timeout(limits.QEMU_FIRST_BYTES_DEADLINE_S):
                await self._classify(connection)
            taken = True
        except TimeoutError:
            self._drop(f"it did not say what it is within {limits.QEMU_FIRST_BYTES_DEADLINE_S:g} s")
        except (MultifdError, OSError) as error:
            self._drop(str(error))
        finally:  # the task may also have been cancelled: too many connections, or the destination has ended
            if connection is not None and not taken:
                connection.abort()

    async def _classify(self, connection: Connection) -> None:
        first = await connection.read_exactly(FIRST_BYTES)
        role = connection_role(first)
        if role is Role.CHANNEL:
            rest = await connection.read_exactly(HANDSHAKE_BYTES - FIRST_BYTES)
            handshake = parse_handshake(first + rest)
            self._a_host().take_channel(connection, handshake)
        elif role is Role.MAIN:
            self._a_host().take_main(connection, first)
        else:
            raise RemoteProtocolError(
                "a connection's first bytes", "those of QEMU's main stream or of a channel", first
            )

    def _a_host(self) -> Host:
        if self._host is None:
            raise LocalProtocolError("QemuListener", "a destination that is running")
        return self._host

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self.last_dropped = why
        _log.info("a connection was dropped: %s", why)
