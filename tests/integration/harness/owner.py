"""The owner at the source: a task that writes to the memory while it runs, and a record of when it did."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from harness.job import PAGE_BYTES, Spells
from multifd import EmulatedDevice, Owner, SoftwareTracker

_PAUSE_S = 0.002
_WORD = 8


class WritingOwner(Owner):
    """Writes a word to some page every few milliseconds while it runs, and some more just before it stops.

    What it wrote is kept in `shadow` as well: memory that differs from it was changed by somebody else. `at_stop` is
    awaited at the end of every stop; what it raises, `stop` raises.
    """

    def __init__(self, memory: bytearray, tracker: SoftwareTracker, devices: Sequence[EmulatedDevice]) -> None:
        self.shadow = bytearray(memory)
        self.spells = Spells()
        self.stops = 0
        self.writes = 0
        self.busy = True
        """Whether it writes while it runs."""
        self.at_stop: Callable[[], Awaitable[None]] | None = None
        self.at_start: Callable[[], Awaitable[None]] | None = None
        """Awaited at the end of every start but the first."""
        self.faults: list[str] = []
        """Calls that no owner should get."""
        self._memory = memory
        self._tracker = tracker
        self._devices = devices
        self._random = random.Random(1)
        self._writing: asyncio.Task[None] | None = None
        self._stop_called = False

    async def start(self) -> None:
        """Run (again)."""
        if len(self.spells.all) > 0 and not self._stop_called:
            self.faults.append("it was started though nobody had asked it to stop")
        self._stop_called = False
        again = bool(self.spells.all)
        self.spells.begin()
        for device in self._devices:
            device.owner_started()
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_on())
        if again and self.at_start is not None:
            await self.at_start()

    async def stop(self) -> None:
        """Stop; when it returns nothing is written any more."""
        self.stops += 1
        if self._stop_called:
            self.faults.append("it was asked to stop twice")
        self._stop_called = True
        if self.busy:
            for _ in range(3):
                self.write()
        await self.rest()
        for device in self._devices:
            device.owner_stopped()
        if self.at_stop is not None:
            await self.at_stop()
        self.spells.end()

    async def rest(self) -> None:
        """End the writing."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None

    def write(self) -> None:
        """One word, marked after it is written."""
        if not self._memory:
            return
        offset = self._random.randrange(len(self._memory) // PAGE_BYTES) * PAGE_BYTES
        word = self._random.randbytes(_WORD)
        self._memory[offset : offset + _WORD] = word
        self.shadow[offset : offset + _WORD] = word
        self._tracker.mark(offset, _WORD)
        self.writes += 1

    async def writes_on(self) -> None:
        """Until it has written once more."""
        before = self.writes
        while self.writes == before:  # noqa: ASYNC110 - what it looks at is what is to be shown
            await asyncio.sleep(_PAUSE_S)

    async def _write_on(self) -> None:
        while True:
            if self.busy:
                self.write()
            await asyncio.sleep(_PAUSE_S)
