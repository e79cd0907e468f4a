"""Main of the native dialect: control frames over a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

from multifd import limits
from multifd.engine.connection import Connection
from multifd.engine.tls import Tls
from multifd.engine.transport import Address
from multifd.errors import TransportError
from multifd.messages import Message
from multifd.wire.control import ControlReader, serialize

_READ_BYTES = 64 * limits.KIB


class MainStream:
    """Messages in both directions. One task reads at a time."""

    def __init__(self, connection: Connection) -> None:
        connection.name = "the main connection"
        self._connection = connection
        self._parser = ControlReader(limits.FIRST_FRAME_BYTES_MAX)
        self._ready: list[Message] = []
        self._has_heard = False

    @classmethod
    async def open(cls, address: Address, preamble: bytes, tls: Tls | None = None) -> Self:
        """Connect and write the preamble. Raises `TransportError`, `CredentialsError`."""
        connection = await Connection.connect(address, tls=tls)
        connection.write(preamble)
        return cls(connection)

    @property
    def security(self) -> str:
        """`plain`, or TLS's version and cipher."""
        return self._connection.security

    @property
    def why_ended(self) -> str:
        """What may be behind an end, to be added to the words that tell of it; empty if nothing can be said."""
        return "; perhaps it takes TLS only" if self.security == "plain" and not self._has_heard else ""

    def send(self, message: Message) -> None:
        """Write one message, without waiting. Raises `TransportError` if the connection is lost, or the peer reads so
        little that it piles up.
        """
        if self._connection.backlog > limits.MAIN_BACKLOG_BYTES_MAX:
            raise TransportError("the peer does not read its main connection")
        self._connection.write(serialize(message))

    async def send_when_read(self, message: Message) -> None:
        """Write one message when most of what was written before has left: for what does not fit the backlog at once,
        however slow the link is. Raises `TransportError`.
        """
        await self._connection.drain()
        self.send(message)

    async def receive(self) -> Message | None:
        """The next message, or None at the end of the connection. Raises `TransportError`, `RemoteProtocolError`."""
        while not self._ready:
            data = await self._connection.read(_READ_BYTES)
            if not data:
                return None
            self._has_heard = True
            self._ready = self._parser.feed(data)
        return self._ready.pop(0)

    async def messages(self) -> AsyncIterator[Message]:
        """All messages until the end of the connection."""
        while (message := await self.receive()) is not None:
            yield message

    async def close(self) -> None:
        """Flush, say that nothing follows, and wait for the peer to do so, within `LAST_WORDS_S`."""
        await self._connection.close()

    def abort(self) -> None:
        """Close now."""
        self._connection.abort()
