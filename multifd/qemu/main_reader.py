"""The main stream at a destination: from what arrives to elements, each handed over when it can be taken. Meanwhile
nothing is read: what comes waits in the socket, so that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from multifd import elements as e
from multifd import limits
from multifd.engine.connection import Connection
from multifd.errors import RemoteProtocolError, TransportError
from multifd.wire.qemu_stream import StreamReader

_READ_BYTES = 256 * limits.KIB


@dataclass(slots=True)
class MainCounts:
    """What came on main."""

    bytes: int = 0
    parts: int = 0
    zero_records: int = 0
    """Pages."""
    page_records: int = 0
    return_path: bool = False
    stopped_at: float = 0.0
    """When the stream first showed that the guest is stopped; 0 before."""

    def add(self, element: e.StreamElement, now: float) -> None:
        """One more element."""
        match element:
            case e.RamBegins(phase=e.Phase.PART):
                self.parts += 1
            case e.RamBegins(phase=e.Phase.END) | e.Command(number=e.CommandNumber.SWITCHOVER_START):
                self.stopped_at = self.stopped_at or now
            case e.Command(number=e.CommandNumber.OPEN_RETURN_PATH):
                self.return_path = True
            case e.ZeroRecords(offsets=offsets):
                self.zero_records += len(offsets)
            case e.PageRecord():
                self.page_records += 1
            case _:
                pass


class MainReader:
    """*loop*: one session's. `take` gets each element and the offset where it ends, while `is_blocked` says no and
    until `is_over` says yes; then only the end of the stream is waited for.
    """

    def __init__(
        self,
        *,
        description: bool,
        take: Callable[[e.StreamElement, int], None],
        is_blocked: Callable[[], bool],
        is_over: Callable[[], bool],
    ) -> None:
        self.counts = MainCounts()
        self.blocked_at = 0.0
        """Since when nothing can be taken; 0 while something can."""
        self._reader = StreamReader(description=description)
        self._take = take
        self._is_blocked = is_blocked
        self._is_over = is_over
        self._look_again = asyncio.Event()

    def look_again(self) -> None:
        """What is told by `is_blocked` and `is_over` may have changed."""
        self._look_again.set()

    async def run(self, main: Connection, data: bytes) -> None:
        """Read main to its end; `data` was read before. Raises `TransportError`, also if something is missing at the
        end, and `RemoteProtocolError`.
        """
        while data:
            self.counts.bytes += len(data)
            if not self._is_over():
                await self._parse(data)
            data = await main.read(_READ_BYTES)
        try:
            self._reader.end()
        except RemoteProtocolError as error:
            missing = error.got or error.expected
            raise TransportError(f"main ended at {self._reader.offset}, before {missing}") from error

    async def _parse(self, data: bytes) -> None:
        for count, element in enumerate(self._reader.feed(data), start=1):
            if self._is_blocked():
                await self._until_unblocked()
            if self._is_over():
                return
            self.counts.add(element, time.monotonic())
            self._take(element, self._reader.offset)
            if count % limits.QEMU_TURN_ELEMENTS_MAX == 0:
                await asyncio.sleep(0)

    async def _until_unblocked(self) -> None:
        self.blocked_at = time.monotonic()
        while self._is_blocked() and not self._is_over():
            self._look_again.clear()
            await self._look_again.wait()
        self.blocked_at = 0.0
