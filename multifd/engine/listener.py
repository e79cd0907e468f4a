"""Listening: finds out what each connection is, and brings it to its session. Whatever strangers send, it goes on
listening.

A connection that has not said what it is costs a place among `PENDING_CONNECTIONS_MAX` and a few hundred bytes, and
both for `PREAMBLE_DEADLINE_S` at most, with TLS `TLS_HANDSHAKE_DEADLINE_S` more; when there are too many the oldest
goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
from typing import Protocol

from multifd import limits
from multifd import messages as m
from multifd.engine.connection import Connection
from multifd.engine.inventory_room import InventoryRoom
from multifd.engine.main_stream import MainStream
from multifd.engine.tls import Tls
from multifd.engine.transport import Address, SocketPath, listen_socket
from multifd.errors import Code, LocalProtocolError, MultifdError, RemoteProtocolError
from multifd.session.outcomes import OutcomeBook
from multifd.wire.preamble import DATA_PREAMBLE_BYTES, PREAMBLE_BYTES, DataPreamble, Role, parse_role

_log = logging.getLogger("multifd")
_ACCEPT_PAUSE_S = 0.1
"""After accept failed (out of descriptors): long enough for some to be given back."""


class Session(Protocol):
    """A destination's session, as the listener sees it."""

    secret: bytes
    decided: asyncio.Event
    task: asyncio.Task[None] | None
    """The one that serves it."""

    def attach(self, channel: int, connection: Connection) -> bool:
        """Take a data channel over; False if it is not awaited."""

    def outcome_asked(self) -> None:
        """The source asks what became of its COMMIT."""


class Host(Protocol):
    """Who serves main connections: a `Destination` that is running."""

    async def serve(self, stream: MainStream, hello: m.Hello) -> None:
        """One session, from its HELLO to its end."""


class Listener:
    """A listening address. Keep it open for some time after a migration: it answers sources that missed its end."""

    def __init__(self, listener: socket.socket, address: Address, tls: Tls | None = None) -> None:
        self._socket = listener
        self._tls = tls
        self._address = address
        self._path = SocketPath(address)
        self._loop = asyncio.get_running_loop()
        self._host: Host | None = None
        self._sessions: dict[bytes, Session] = {}
        self._unconfirmed: set[bytes] = set()
        self._told: set[bytes] = set()
        """Sessions that are not closed yet, and whose source has asked and knows already."""
        self._confirmed = asyncio.Event()
        self._pending: dict[asyncio.Task[None], None] = {}
        self._serving: dict[asyncio.Task[None], MainStream] = {}
        self._book = OutcomeBook()
        self.inventories = InventoryRoom()
        self._accepting = self._loop.create_task(self._accept())

    @property
    def address(self) -> str:
        """Where it really listens (with the port that was chosen for port 0)."""
        return str(self._address)

    async def close(self) -> None:
        """Stop listening, and remove a unix socket's path. If the source of a completed migration has not confirmed
        that it knows, wait for its question, `OUTCOME_LINGER_S` at most.
        """
        if self._unconfirmed:
            _log.info("the source has not confirmed the end: answering it for up to %g s", limits.OUTCOME_LINGER_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.OUTCOME_LINGER_S):
                    await self._confirmed.wait()
        self._accepting.cancel()
        await asyncio.sleep(0)  # what was just accepted begins: it could not close its connection otherwise
        tasks = [self._accepting, *self._pending, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._path.remove()
        self._socket.close()

    # -- for destinations

    @contextlib.contextmanager
    def hosted_by(self, host: Host):  # type: ignore[no-untyped-def]
        """Serve main connections by `host` for a while."""
        if self._host is not None:
            raise LocalProtocolError("Listener", "one destination at a time")
        self._host = host
        try:
            yield
        finally:
            self._host = None

    def open_session(self, session: bytes, run: Session) -> bool:
        """A session is under way: its data channels and its OUTCOME come to `run`. False if its id is known already."""
        if session in self._sessions:
            return False
        try:
            self._book.open(session, run.secret)
        except MultifdError:
            return False
        self._sessions[session] = run
        return True

    def decide(self, session: bytes, fate: m.Fate, cause: str) -> None:
        """What became of it, for as long as somebody may ask."""
        self._book.decide(session, fate, cause, self._loop.time())

    def close_session(self, session: bytes, *, confirmed: bool) -> None:
        """The session has ended; `confirmed` if the source knows how, or it does not matter to it."""
        self._sessions.pop(session, None)
        if not confirmed and session not in self._told:
            self._unconfirmed.add(session)
            self._confirmed.clear()
        self._told.discard(session)

    # -- connections

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
            while len(self._pending) >= limits.PENDING_CONNECTIONS_MAX:
                oldest = next(iter(self._pending))
                del self._pending[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._greet(connection))
            self._pending[task] = None
            task.add_done_callback(lambda done: self._pending.pop(done, None))

    async def _greet(self, accepted: socket.socket) -> None:
        """Find out what a connection is. Whatever is wrong with it, it is closed and that is all."""
        connection: Connection | None = None
        taken = False
        try:
            connection = await Connection.accept(accepted, self._tls)
            async with asyncio.timeout(limits.PREAMBLE_DEADLINE_S):
                first = await connection.read_exactly(PREAMBLE_BYTES)
                if parse_role(first) is Role.DATA:
                    rest = await connection.read_exactly(DATA_PREAMBLE_BYTES - PREAMBLE_BYTES)
                    self._attach(DataPreamble.parse(first + rest), connection)
                    taken = True
                    return
                stream = MainStream(connection)
                message = await stream.receive()
            self._serve(stream, message)
            taken = True
        except (MultifdError, OSError) as error:
            _log.info("a connection was dropped: %s", str(error) or type(error).__name__)
        finally:  # the task may also have been cancelled: too many connections, or the listener closes
            if not taken and connection is not None:
                connection.abort()

    def _attach(self, preamble: DataPreamble, connection: Connection) -> None:
        session = self._sessions.get(preamble.session)
        known = session is not None and hmac.compare_digest(session.secret, preamble.secret)
        if session is None or not known or not session.attach(preamble.channel, connection):
            raise RemoteProtocolError(
                "data preamble", "a session, secret and channel that are awaited", preamble.channel
            )

    def _serve(self, stream: MainStream, message: m.Message | None) -> None:
        """The first message of a main connection says what it wants."""
        if isinstance(message, m.AskOutcome):
            work = self._answer(stream, message)
        elif isinstance(message, m.Hello) and self._host is not None:
            work = self._host.serve(stream, message)
        elif isinstance(message, m.Hello):
            work = self._turn_away(stream, "nobody receives here at the moment")
        else:
            stream.abort()
            raise RemoteProtocolError("main", "HELLO or OUTCOME first", type(message).__name__)
        known = [session.task for session in self._sessions.values()]
        strangers = [task for task in self._serving if task not in known]
        if len(strangers) >= limits.HANDSHAKES_MAX:
            self._serving.pop(strangers[0]).abort()  # no last words for it: those would hold its place
            strangers[0].cancel()
        task = self._loop.create_task(work)
        self._serving[task] = stream
        task.add_done_callback(lambda done: self._served(done, stream))

    def _served(self, task: asyncio.Task[None], stream: MainStream) -> None:
        self._serving.pop(task, None)
        stream.abort()  # if it was cancelled, perhaps before it began, nobody else has
        if not task.cancelled() and task.exception() is not None:
            _log.warning("a session ended badly: %s", task.exception())

    async def _turn_away(self, stream: MainStream, cause: str) -> None:
        stream.send(m.Aborted(Code.BUSY, cause))
        await stream.close()

    async def _answer(self, stream: MainStream, asked: m.AskOutcome) -> None:
        """OUTCOME: aborts a session that has not seen COMMIT, waits for one that is starting (proto/states.md section
        5).
        """
        session = self._sessions.get(asked.session)
        if session is not None and hmac.compare_digest(session.secret, asked.secret):
            session.outcome_asked()
            await session.decided.wait()
        answer = self._book.fate(asked.session, asked.secret, self._loop.time())
        stream.send(answer or m.OutcomeIs(m.Fate.UNKNOWN, "undecided"))
        await stream.close()
        if answer is not None and answer.outcome is not m.Fate.UNKNOWN:
            if asked.session in self._sessions:
                self._told.add(asked.session)
            self._unconfirmed.discard(asked.session)
            if not self._unconfirmed:
                self._confirmed.set()


async def listen(address: str, tls: Tls | None = None) -> Listener:
    """Listen on `tcp://HOST:PORT` (port 0: any) or `unix:///PATH`; with `tls` (loaded with `server=True`) only for
    those who show a certificate. Raises `TransportError`, or `ValueError` for a bad address or a client's `tls`.
    """
    if tls is not None and not tls.server:
        raise ValueError("tls is a client's; to listen it has to be loaded with server=True")
    listener, real = listen_socket(Address.parse(address))
    return Listener(listener, real, tls)
