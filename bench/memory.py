"""The memory of one side: what both sides make from a seed, populated; and what a process has beside it.

All of it happens before the clock starts, and so does every page fault.
"""

from __future__ import annotations

import mmap
import re
import time
from pathlib import Path

import numpy as np
import xxhash

from bench.contents import SEED, pieces
from bench.scenario import MEMORY
from multifd.limits import KIB
from multifd.memory import populate

WIPED = 0xFF
"""In every byte that is still to arrive. Not zero: zeros would be right before they have arrived."""
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Memory:
    """`size` bytes of anonymous memory, on huge pages where the kernel gives them."""

    def __init__(self, size: int) -> None:
        self.buffer = populate.allocate(size)
        self.pages = populate.populate(self.buffer)
        self._bytes = np.frombuffer(self.buffer, dtype=np.uint8)

    def fill(self, work: str = MEMORY, seed: int = SEED) -> None:
        """Contents of a work, the same for the same seed."""
        start = 0
        for piece in pieces(work, self._bytes.size, seed):
            self._bytes[start : start + piece.size] = piece
            start += piece.size

    def digest(self) -> str:
        """Of all of it."""
        return xxhash.xxh3_128_hexdigest(self.buffer)

    def wipe(self) -> None:
        """Contents that no work has; the pages stay."""
        self._bytes[:] = WIPED

    def cool(self) -> None:
        """Give all pages back: as it was before it was populated."""
        self.buffer.madvise(mmap.MADV_DONTNEED)


class Meter:
    """What this process uses from now on: processor time, and the most memory that it has at once."""

    def __init__(self, state_bytes: int) -> None:
        self._state_bytes = state_bytes
        self._counts_peak = _reset_peak()
        self._cpu_s_before = time.process_time()

    def cpu_s(self) -> float:
        """User and system time since."""
        return time.process_time() - self._cpu_s_before

    def peak_bytes(self) -> int | None:
        """The most since, interpreter and libraries included, without the state; None if the kernel can't say."""
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
        if found is None or not self._counts_peak:
            return None
        return max(0, int(found[1]) * KIB - self._state_bytes)


def _reset_peak() -> bool:
    """Forget what this process once had; false if it may not."""
    try:
        _CLEAR_REFS.write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def cpu_s_of(pid: int) -> float:
    """Processor seconds of a process so far, by the clock that clock_getcpuclockid(3) gives: Python has no function for
    that, and /proc counts in ticks of 10 ms, as long as a small round.
    """
    return time.clock_gettime(~pid << 3 | 2)
