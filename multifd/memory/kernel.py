"""Dirty tracking by the kernel: userfaultfd write protection finds the first write to each page, PAGEMAP_SCAN gets and
clears what was found.

The owner's code does nothing for it, and pays about a microsecond for the first write to a page after each sweep.
Tracking is per mapping, that is by page table: what is written through another mapping of the same memory, by write()
to its file, by a device or by a forked child is NOT seen. docs/guides/memory.md has the table. Granularity is a page; 2
MiB for huge pages of shared memory, and for hugetlb.
"""

from __future__ import annotations

import abc
from typing import Any

from multifd.errors import TrackingError
from multifd.memory.extents import Extents, merge, total
from multifd.memory.flat import flat, page_range
from multifd.memory.mappings import mapping_at
from multifd.memory.pagemap import PageMap
from multifd.memory.tracker import HINT, Tracker
from multifd.memory.userfault import UserFault


class Registration:
    """Memory of this process whose writes are seen for as long as this is open, here or by another process's
    `KernelTracker.of_process`.

    `address` and `length` are the buffer's own: what the other process has to be told, with the pid. Not inherited over
    fork.
    """

    def __init__(self, buffer: Any) -> None:
        """Made by `register`."""
        self._view = flat(buffer)
        self.address = self._view.ctypes.data
        self.length = self._view.size
        self._fault = UserFault()
        self.user_mode_only = self._fault.user_mode_only
        """Whether the kernel allows us only what it allows to anybody. Tracks all the same."""
        try:
            self._fault.register(*page_range(self.address, self.length))
        except TrackingError:
            self.close()
            raise

    def protect(self) -> None:
        """Have the first write to each page seen from now on. Raise `TrackingError`."""
        self._fault.protect(*page_range(self.address, self.length))

    def close(self) -> None:
        """End: writes are not seen any more. Idempotent."""
        self._fault.close()


def register(buffer: Any) -> Registration:
    """Let another process track `buffer`, which is memory of this one and not empty. Raise `TrackingError` if the
    kernel can't.

    The other process needs the right to look into this one, as for ptrace: the same user, and this process dumpable.
    """
    return Registration(buffer)


class _ScanTracker(Tracker):
    """What the two kinds of kernel tracker share: the scanning."""

    def __init__(self, process: str, address: int, length: int, page_size: int) -> None:
        self.mode = "kernel (not started)"
        self._process = process
        self._address = address
        self._length = length
        self._page_size = page_size
        self._pagemap: PageMap | None = None

    @abc.abstractmethod
    def _protect(self, pagemap: PageMap) -> str:
        """Protect all pages, those never populated as well; return a remark for the mode."""

    def start(self) -> None:
        """Write-protect all of it. Raise `TrackingError`, with nothing held, if that can't be done."""
        try:
            if self._pagemap is None:
                self._pagemap = PageMap(self._process)
            remark = self._protect(self._pagemap)
        except TrackingError:
            self.stop()
            raise
        self.mode = f"kernel (userfaultfd write-protect, {mapping_at(self._address, self._process)}{remark})"

    def collect(self) -> Extents:
        """Get and clear. Raise `TrackingError` if the memory's process has ended, or the memory was mapped anew."""
        return merge([self._scan(clear=True)], page_size=self._page_size, length=self._length)

    def count(self) -> int:
        """Dirty bytes now. Raise `TrackingError` as `collect` does."""
        return min(total(self._scan(clear=False)), self._length)

    def stop(self) -> None:
        """Stop scanning. Idempotent."""
        if self._pagemap is not None:
            self._pagemap.close()
            self._pagemap = None

    def _scan(self, *, clear: bool) -> Extents:
        if self._pagemap is None:
            raise TrackingError("the tracker is not started")
        first, length = page_range(self._address, self._length)
        rows = self._pagemap.scan(first, first + length, clear=clear)
        rows[:, 0] -= self._address
        return rows


class KernelTracker(_ScanTracker):
    """Tracks a buffer of this process."""

    def __init__(self, buffer: Any, page_size: int = 4096) -> None:
        """Nothing is asked of the kernel before `start`. What is collected is rounded outward to `page_size`, the
        block's.

        `buffer` is not empty. It need not begin or end at a page of the system's: a neighbour's write there counts as
        its own. Raise `ValueError` or `TypeError` if it is not a plain buffer.
        """
        self._view = flat(buffer)
        self._registration: Registration | None = None
        super().__init__("self", self._view.ctypes.data, self._view.size, page_size)

    @staticmethod
    def of_process(pid: int, address: int, length: int, block_length: int, *, page_size: int = 4096) -> Tracker:
        """For a block that is the first `block_length` of the `length` bytes at `address` of process `pid`.

        That process holds a `Registration` of them, and told us its `address` and `length`. Raise `ValueError` if the
        block is longer.
        """
        if not 0 < block_length <= length:
            raise ValueError(f"a block of {block_length} bytes in {length} bytes of process {pid}")
        return _ProcessTracker(str(pid), address, block_length, page_size)

    def stop(self) -> None:
        """Give the memory back as it was. Idempotent."""
        super().stop()
        if self._registration is not None:
            self._registration.close()
            self._registration = None

    def _protect(self, pagemap: PageMap) -> str:
        del pagemap
        try:
            if self._registration is None:
                self._registration = register(self._view)
            self._registration.protect()
        except TrackingError as error:
            raise TrackingError(f"the kernel can't track this memory: {error}; {HINT}") from error
        return ", user mode only" if self._registration.user_mode_only else ""


class _ProcessTracker(_ScanTracker):
    """Tracks memory of another process."""

    def _protect(self, pagemap: PageMap) -> str:
        first, length = page_range(self._address, self._length)
        pagemap.scan(first, first + length, clear=True)
        return f", of process {self._process}"
