"""A file as memory to receive into: mapped, shared, and its storage reserved a step ahead of every write. Page contents
then go from a socket straight into the page cache, and a full disk is `StorageError` where the pages are placed, not
SIGBUS where they are written.

Called by several threads at once. Threads may reserve the same step at the same time, which costs little and does no
harm; the usual look at what is reserved takes no lock.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from multifd.errors import LocalProtocolError, StorageError
from multifd.limits import KIB, MIB
from multifd.memory.extents import runs
from multifd.memory.file_calls import begin_writeback, is_tmpfs
from multifd.memory.flat import flat
from multifd.memory.libc import fallocate, madvise

Offsets = npt.NDArray[np.int64]

# Measured with 4 threads that fill 1 GiB in packets of 512 KiB on 2 cores, milliseconds of CPU time. Steps of 2 MiB are
# shared by four packets, whose threads then all populate the same pages, and get in each other's way: on tmpfs 2000 in
# place of 700. 256 KiB and 1 MiB are as good as 512 KiB.
_POPULATE_BYTES = 512 * KIB
_POPULATE_SHIFT = _POPULATE_BYTES.bit_length() - 1
# On ext4, with steps of 512 KiB populated: allocated 512 KiB at a time 320, 2 MiB 180, 8 MiB 210, not at all 270.
_ALLOCATE_BYTES = 2 * MIB
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # modes of fallocate(2)
_HOLE_BYTES = 64 * KIB  # runs of fewer are left: each costs a call, and the file some of its order
_HOLE_PAGES = 1 << 20  # looked at in one go
_FAST_PAGES = 512  # what a packet of 512 KiB can list with pages of 1 KiB
_ONES = b"\1" * _FAST_PAGES


class ReservedFile:
    """A file that is mapped whole, from its beginning.

    On tmpfs a step is reserved by populating it: a page that is there stays. To allocate it first would cost it its
    huge pages, which make it eight times as fast where the kernel gives them. On a disk the step is allocated first,
    which gives the file's blocks a good order, and then populated, so that the faults of many pages are taken at once.
    Where the file system can't allocate, or the kernel can't populate, the other of the two has to do.

    There is nothing to close: the mapping stays until nobody refers to it, or to a view into it, any more. So a thread
    that is late places its page in a file that has no name, and not in memory that is somebody else's by now.
    """

    def __init__(self, fd: int, length: int) -> None:
        """Make the file behind the descriptor, of which a duplicate is kept, `length` bytes long and map it. Raises
        `StorageError`.
        """
        self.length = length
        try:
            self._fd = os.dup(fd)
            weakref.finalize(self, os.close, self._fd)
            os.ftruncate(fd, length)
            self._map = mmap.mmap(fd, length)
            self._allocates = not is_tmpfs(fd)
            self._allocated = bytearray(-(-length // _ALLOCATE_BYTES))
            self._ready = bytearray(-(-length // _POPULATE_BYTES))
        except (OSError, OverflowError, ValueError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StorageError(f"can't have a file of {length} bytes in memory: {reason}") from error
        self.view = memoryview(self._map)
        self._address = flat(self.view).ctypes.data
        self._populates = True
        with suppress(OSError):  # a kernel without huge pages. Disks gain as well: large folios in the page cache
            madvise(self._address, length, _MADV_HUGEPAGE)

    def reserve(self, first: int, end: int) -> None:
        """*any*: have storage for the bytes from `first` up to `end`. Raises `StorageError`."""
        stop = ((end - 1) >> _POPULATE_SHIFT) + 1
        step = self._ready.find(0, first >> _POPULATE_SHIFT, stop)
        while step >= 0:
            self._reserve_step(step)
            step = self._ready.find(0, step + 1, stop)

    def reserve_ahead(self, first: int, end: int) -> None:
        """*any*: have storage for a range that may be written to much later, or never; both ends at multiples of 2 MiB,
        or at the file's end. On a disk it is allocated and no more: what is populated goes to the disk as zeros. Raises
        `StorageError`.
        """
        if not self._allocates:
            self.reserve(first, end)
            return
        try:
            self._allocate(first, end)
        except OSError as error:
            raise _no_room(error) from error
        regions = slice(first // _ALLOCATE_BYTES, -(-end // _ALLOCATE_BYTES))
        self._allocated[regions] = b"\1" * len(self._allocated[regions])

    def is_reserved(self, first: int, end: int) -> bool:
        """*any*: whether all of it has storage."""
        return self._ready.find(0, first >> _POPULATE_SHIFT, ((end - 1) >> _POPULATE_SHIFT) + 1) < 0

    def punch_hole(self, first: int, length: int) -> None:
        """*any*: give the storage of a range back, which then reads as zeros: for when no more is received. Does
        nothing where the file system can't.
        """
        with suppress(OSError):
            fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, first, length)

    def begin_writeback(self) -> None:
        """*any*: have the kernel write what is dirty, while more comes. Not waited for: whether it reached the disk is
        what `fsync` tells.
        """
        with suppress(OSError):
            begin_writeback(self._fd)

    def _reserve_step(self, step: int) -> None:
        first = step << _POPULATE_SHIFT
        try:
            if self._allocates:
                self._allocate_around(first)
            if self._populates:
                self._populate(first)
        except OSError as error:
            raise _no_room(error) from error
        self._ready[step] = 1

    def _allocate_around(self, place: int) -> None:
        region = place // _ALLOCATE_BYTES
        if not self._allocated[region]:
            first = region * _ALLOCATE_BYTES
            self._allocate(first, min(first + _ALLOCATE_BYTES, self.length))
            self._allocated[region] = 1

    def _allocate(self, first: int, end: int) -> None:
        try:
            fallocate(self._fd, 0, first, end - first)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            self._allocates = False

    def _populate(self, first: int) -> None:
        length = min(_POPULATE_BYTES, self.length - first)
        try:
            madvise(self._address + first, length, _MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno == errno.EINVAL:  # an older kernel
                self._populates, self._allocates = False, True
                self._allocate_around(first)
                return
            if error.errno != errno.EFAULT:  # which stands for the SIGBUS of a page without storage
                raise
            # Says why there is none, or finds some that has become free.
            fallocate(self._fd, 0, first, length)
            madvise(self._address + first, length, _MADV_POPULATE_WRITE)


def _no_room(error: OSError) -> StorageError:
    return StorageError(f"no room for what is received: {error.strerror}")


class ReservedMap:
    """A range of a `ReservedFile` whose pages are placed in any order: a RAM block.

    `present` has a flag for each page: whether it was placed and not been zero since. No byte is written for a page
    that is zero, so the file holds anything there.
    """

    def __init__(self, file: ReservedFile, offset: int, length: int, *, page_size: int, name: str) -> None:
        """Over `length` bytes, whole pages, at `offset`. `name` is for errors. Raises `StorageError` if there is no
        memory for the flags.
        """
        self.length = length
        try:
            self.present: npt.NDArray[np.bool_] = np.zeros(length // page_size, dtype=np.bool_)
        except MemoryError:
            raise StorageError(f"no memory for {length // page_size} flags of {name}") from None
        self._flags = self.present.view(np.uint8).data  # a few are set quicker than through numpy
        self.touched = False
        """Whether `place` or `zero` was ever called for a page."""
        self._file = file
        self._offset = offset
        self.page_size = page_size
        self._name = name
        self.view = file.view[offset : offset + length]
        self._run = (np.arange(_FAST_PAGES, dtype=np.int64) * page_size).tobytes()

    def place(self, offsets: Offsets) -> list[memoryview]:
        """*any*: writable views for the pages at `offsets`, in their order, adjacent ones as one view; they count as
        present from here on. Offsets are multiples of the page size.

        Raises `StorageError` if there is no storage for them, `LocalProtocolError` if they reach beyond the block.
        """
        count = len(offsets)
        if not count:
            return []
        first = int(offsets[0])
        # Compared as bytes: a third of what numpy takes to compare so few.
        if (offsets - first).tobytes() != self._run[: count * 8]:
            return self._place_runs(offsets)
        return [self.place_run(first, count * self.page_size)]

    def place_run(self, first: int, length: int) -> memoryview:
        """*any*: as `place`, for neighbouring pages."""
        end = first + length
        self._check(first, end)
        self._file.reserve(self._offset + first, self._offset + end)
        self.touched = True
        pages = length // self.page_size
        number = first // self.page_size
        self._flags[number : number + pages] = _ONES[:pages] if pages <= _FAST_PAGES else b"\1" * pages
        return self.view[first:end]

    def zero(self, offsets: Offsets) -> None:
        """*any*: these pages are zero from now on. Raises `LocalProtocolError` if they reach beyond the block."""
        if len(offsets):
            self._check(int(offsets.min()), int(offsets.max()) + self.page_size)
            self.touched = True
            self.present[offsets // self.page_size] = False

    def punch_holes(self) -> None:
        """Give the storage of pages that are not present back, but for short runs: steps are reserved whole, and pages
        that became zero keep theirs. For when no more is received.
        """
        for first in range(0, len(self.present), _HOLE_PAGES):
            numbers = first + np.flatnonzero(~self.present[first : first + _HOLE_PAGES])
            extents, _ = runs(numbers, page_size=self.page_size, length=self.length)
            for start, length in extents[extents[:, 1] >= _HOLE_BYTES].tolist():
                self._file.punch_hole(self._offset + start, length)

    def _place_runs(self, offsets: Offsets) -> list[memoryview]:
        """As `place`, in several runs."""
        lowest, highest = int(offsets.min()), int(offsets.max()) + self.page_size
        self._check(lowest, highest)
        apart = np.flatnonzero(np.diff(offsets) != self.page_size)
        starts = offsets[np.append(0, apart + 1)].tolist()
        ends = (offsets[np.append(apart, len(offsets) - 1)] + self.page_size).tolist()
        if not self._file.is_reserved(self._offset + lowest, self._offset + highest):
            for start, end in zip(starts, ends, strict=True):
                self._file.reserve(self._offset + start, self._offset + end)
        self.touched = True
        self.present[offsets // self.page_size] = True
        view = self.view
        return [view[start:end] for start, end in zip(starts, ends, strict=True)]

    def _check(self, first: int, end: int) -> None:
        if first < 0 or end > self.length:
            raise LocalProtocolError(f"block {self._name}", f"pages within its {self.length} bytes", (first, end))
