"""A tracker that is told beforehand what each sweep will find, and notes when the engine asks for it.

A round of a class begins only when the one before is settled. So where the next sweep has something to find already, a
round lasts from one `collect` to the next: sending, settling, the barrier and the look at what is dirty, all of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from multifd.memory import Tracker
from multifd.memory.extents import Extents, Numbers, empty, runs

PAGE_BYTES = 4096


@dataclass(frozen=True)
class RoundTook:
    """One round. Seconds; `cpu_s` of all processes that take part."""

    seconds: float
    cpu_s: float


class KnownDirty(Tracker):
    """Page numbers, ascending, for one sweep after the other; after the last nothing is dirty any more."""

    mode = "told beforehand"

    def __init__(self, sweeps: Iterable[Numbers], *, length: int, cpu_s: Callable[[], float]) -> None:
        """For a block of `length` bytes. `cpu_s`: processor seconds so far of all processes that take part."""
        self._sweeps = deque(sweeps)
        self._length = length
        self._cpu_s = cpu_s
        self._asked: list[tuple[float, float]] = []
        """When, and the processor seconds until then: at the start, and at each sweep after the first."""

    def rounds(self) -> list[RoundTook]:
        """Every round but the first, which sends everything, and those two that have no full one after them: the one
        with the last of the sweeps, and the one of the stop.
        """
        return [RoundTook(after[0] - at, after[1] - cpu_s) for (at, cpu_s), after in pairwise(self._asked[1:-1])]

    def start(self) -> None:
        """The first sweep begins."""
        self._note()

    def collect(self) -> Extents:
        """The next of the sweeps."""
        self._note()
        if not self._sweeps:
            return empty()
        extents, _ = runs(self._sweeps.popleft(), page_size=PAGE_BYTES, length=self._length)
        return extents

    def count(self) -> int:
        """Bytes of the next sweep."""
        return len(self._sweeps[0]) * PAGE_BYTES if self._sweeps else 0

    def stop(self) -> None:
        """Nothing to do."""

    def _note(self) -> None:
        self._asked.append((time.perf_counter(), self._cpu_s()))
