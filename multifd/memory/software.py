"""Dirty tracking by the owner's own word: it marks what it wrote. For owners whose writes the kernel does not show
(docs/guides/memory.md).
"""

from __future__ import annotations

import threading

import numpy as np

from multifd.memory.extents import Extents, runs
from multifd.memory.tracker import Tracker


class SoftwareTracker(Tracker):
    """One flag a page, set by `mark`, which any number of threads may call at any time."""

    mode = "software"

    def __init__(self, length: int, page_size: int = 4096) -> None:
        """For a block of `length` bytes. `page_size`: a power of two, the block's; what is marked is rounded outward to
        it.
        """
        self.length = length
        self.page_size = page_size
        count = -(-length // page_size)
        self._shift = page_size.bit_length() - 1
        self._lock = threading.Lock()
        self._flags = np.zeros(count, dtype=np.bool_)  # under the lock
        self._spare = np.zeros(count, dtype=np.bool_)  # the collecting thread's

    def mark(self, offset: int, length: int) -> None:
        """*any thread*: the range was written. Call it *after* the write: marked before, a sweep in between would clear
        the mark and send what was old.

        Raise `ValueError` if the range is not in the block.
        """
        if offset < 0 or length < 0 or offset + length > self.length:
            raise ValueError(f"marked {length} bytes at {offset} of a block of {self.length} bytes")
        if length:
            first, last = offset >> self._shift, (offset + length - 1) >> self._shift
            with self._lock:
                self._flags[first : last + 1] = True

    def start(self) -> None:
        """Forget all marks."""
        with self._lock:
            self._flags[:] = False

    def collect(self) -> Extents:
        """What was marked since the last `collect` or `start`."""
        with self._lock:
            self._flags, self._spare = self._spare, self._flags
        extents, _ = runs(np.flatnonzero(self._spare), page_size=self.page_size, length=self.length)
        self._spare[:] = False
        return extents

    def count(self) -> int:
        """Bytes of the marked pages."""
        return min(int(np.count_nonzero(self._flags)) * self.page_size, self.length)

    def stop(self) -> None:
        """Nothing to do: marks cost the owner next to nothing."""
