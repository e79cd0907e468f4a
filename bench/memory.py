"""The memory of one side: random bytes that both sides make from a seed, populated; and what a process has beside it.

All of it happens before the clock starts, and so does every page fault.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import xxhash

from multifd.limits import KIB, MIB
from multifd.memory import populate

FILL_BYTES = 32 * MIB  # random bytes made at a time: as fast as larger pieces, and small beside what is measured
SEED = 2026
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Memory:
    """`size` bytes of anonymous memory, on huge pages where the kernel gives them."""

    def __init__(self, size: int) -> None:
        self.buffer = populate.allocate(size)
        self.pages = populate.populate(self.buffer)
        self._bytes = np.frombuffer(self.buffer, dtype=np.uint8)

    def fill(self, seed: int = SEED) -> None:
        """Random bytes, the same for the same seed."""
        random = np.random.Generator(np.random.SFC64(seed))
        for start in range(0, self._bytes.size, FILL_BYTES):
            piece = self._bytes[start : start + FILL_BYTES]
            piece[:] = np.frombuffer(random.bytes(piece.size), dtype=np.uint8)

    def digest(self) -> str:
        """Of all of it."""
        return xxhash.xxh3_128_hexdigest(self.buffer)

    def wipe(self) -> None:
        """Zeros; the pages stay."""
        self._bytes[:] = 0


class Meter:
    """What this process uses from now on: processor time, and the most memory that it has at once."""

    def __init__(self, state_bytes: int) -> None:
        self._state_bytes = state_bytes
        self._counts_peak = _reset_peak()
        self._cpu_s_before = _cpu_s()

    def cpu_s(self) -> float:
        """User and system time since."""
        return _cpu_s() - self._cpu_s_before

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


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
