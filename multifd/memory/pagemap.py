"""PAGEMAP_SCAN (linux/fs.h): which pages of a process were written, with the clearing done in the same step. Linux 6.7
or later.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

import numpy as np

from multifd.errors import TrackingError
from multifd.memory.extents import Extents, empty

_SCAN = 0xC0606610  # _IOWR('f', 16, 96): twelve u64, in the order of _request
_SIZE, _FLAGS, _START, _END, _WALK_END = range(5)
_MASK, _RETURN = 9, 11
_CLEAR = 1  # PM_SCAN_WP_MATCHING: write-protect what is reported
_CHECK = 2  # PM_SCAN_CHECK_WPASYNC: fail if part of the range is not registered
_REGISTERED, _WRITTEN = 1 << 0, 1 << 1  # categories of pages
_REGIONS = 65536  # 1.5 MiB of results a call: a GiB of which every other page is dirty takes two


class PageMap:
    """The pagemap of one process. Not for several threads at a time."""

    def __init__(self, process: str) -> None:
        """Open that of `process`: "self" or a pid. Raise `TrackingError` if it does not exist or can't be looked at."""
        self.process = process
        try:
            self._fd = os.open(f"/proc/{process}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TrackingError(f"process {process} does not exist (any more)") from error
        except OSError as error:
            raise TrackingError(f"the memory of process {process} can't be looked at: {error.strerror}") from error
        self._regions = np.zeros((_REGIONS, 3), dtype=np.uint64)
        self._request = np.array([96, 0, 0, 0, 0, self._regions.ctypes.data, _REGIONS, 0, 0, 0, 0, 0], dtype=np.uint64)

    def scan(self, start: int, end: int, *, clear: bool) -> Extents:
        """Rows (address, length) of what was written between the page-aligned addresses, adjacent pages joined within
        one call's results.

        With `clear` these pages are write-protected again, each in the same step as it is found. Raise `TrackingError`.
        """
        first, last, parts = start, end - mmap.PAGESIZE, []
        while start < end:
            count = self._ask(start, end, _WRITTEN, _CHECK | (_CLEAR if clear else 0))
            found = self._regions[:count]
            parts.append(np.stack([found[:, 0], found[:, 1] - found[:, 0]], axis=1).astype(np.int64))
            start = int(self._request[_WALK_END])
        # Memory that is not there any more has no written pages, which is no error to the kernel: an owner that ended
        # before the scan is found by this look after it.
        for page in (first, last):
            if not self._ask(page, page + mmap.PAGESIZE, _REGISTERED, _CHECK):
                raise TrackingError(f"memory of process {self.process} is gone: the process has ended or unmapped it")
        return np.concatenate([empty(), *parts])

    def close(self) -> None:
        """Give it back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ask(self, start: int, end: int, category: int, flags: int) -> int:
        """Scan for pages of `category`; return how many regions were found."""
        request = self._request
        request[_FLAGS], request[_START], request[_END] = flags, start, end
        request[_MASK] = request[_RETURN] = category
        try:
            return int(fcntl.ioctl(self._fd, _SCAN, request.data))
        except OSError as error:
            raise TrackingError(self._cause(error)) from error

    def _cause(self, error: OSError) -> str:
        if error.errno == errno.ESRCH:
            return f"process {self.process} has ended"
        if error.errno == errno.EPERM:
            return f"memory of process {self.process} is not registered for tracking (or was mapped anew since)"
        if error.errno == errno.ENOTTY:
            return "PAGEMAP_SCAN needs Linux 6.7 or later"
        return f"the memory of process {self.process} can't be scanned: {error.strerror}"
