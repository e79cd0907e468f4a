"""Main of a source: elements, in the order in which they were asked for, at the pace at which the destination reads.
Loop only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from multifd import limits
from multifd.elements import Phase, RamBegins, StreamElement, ZeroRecords
from multifd.engine.connection import Connection
from multifd.wire.qemu_serialize import StreamWriter


class MainWriter:
    """Writes one stream. Drawn from lazily: what is not yet written takes no memory beyond `MAIN_BACKLOG_BYTES_MAX`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._writer = StreamWriter()
        self._queue: deque[tuple[Iterable[StreamElement], Callable[[], None] | None]] = deque()
        self._more = asyncio.Event()
        self._written_bytes = 0
        self.parts = 0
        """PARTs of RAM begun."""
        self.zero_pages = 0
        """In records."""

    @property
    def sent_bytes(self) -> int:
        """What the connection has taken off our hands."""
        return self._written_bytes - self._connection.backlog

    def put(self, elements: Iterable[StreamElement], done: Callable[[], None] | None = None) -> None:
        """Write these after all that was put before; when the system has taken all of it, call `done`."""
        self._queue.append((elements, done))
        self._more.set()

    async def run(self) -> None:
        """Write until cancelled. Raises `TransportError` when the connection is lost, `LocalProtocolError` for elements
        that can't be written, and whatever the elements' iterator raises.
        """
        while True:
            while self._queue:
                elements, done = self._queue.popleft()
                for element in elements:
                    await self._write(element)
                if done is not None:
                    await self._connection.drain(0)
                    done()
            self._more.clear()
            await self._more.wait()

    async def _write(self, element: StreamElement) -> None:
        data = self._writer.write(element)
        self._connection.write(data)
        self._written_bytes += len(data)
        if isinstance(element, ZeroRecords):
            self.zero_pages += len(element.offsets)
        elif isinstance(element, RamBegins):
            self.parts += element.phase is Phase.PART
        if self._connection.backlog > limits.MAIN_BACKLOG_BYTES_MAX:
            await self._connection.drain()
