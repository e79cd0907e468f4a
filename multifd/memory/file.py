"""Blocks that are regular files, sparse ones with their holes. Who may open which file is the caller's business: a
descriptor will do.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np

from multifd.errors import StorageError
from multifd.limits import MIB
from multifd.memory.block import Block
from multifd.memory.extents import Extents, complement, merge, whole
from multifd.memory.file_pages import read_whole
from multifd.memory.libc import fallocate
from multifd.memory.tracker import StaticTracker, Tracker

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # modes of fallocate(2)
_ZEROS = bytes(MIB)
_REGION = MIB  # granularity at which a file that was all hole remembers what was written: 1 MiB of memory for a TiB


class FileBlock(Block):
    """A block that is a regular file, read and written with pread and pwrite. Its descriptor is a duplicate of the
    caller's.

    Where it was never written, at creation or since, `zero` has nothing to do; elsewhere it punches a hole, or writes
    zeros where the file system can't. As a source it is static unless a tracker is passed.
    """

    def __init__(self, name: str, fd: int, *, page_size: int = 4096, tracker: Tracker | None = None) -> None:
        """Over the open regular file `fd`, as long as that is. Raise `StorageError` if it is none."""
        self._file = _name_of(fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{self._file} is not a regular file")
        super().__init__(name, status.st_size, page_size)
        self._fd = os.dup(fd)
        self._tracker = tracker if tracker is not None else StaticTracker()
        self._touched = np.zeros(-(-self.length // _REGION), dtype=np.bool_) if self._is_hole() else None

    @classmethod
    def open_source(
        cls, name: str, path: str | Path, *, page_size: int = 4096, tracker: Tracker | None = None
    ) -> FileBlock:
        """For reading `path`. Raise `StorageError` if it can't be opened or is not a regular file."""
        return cls._open(name, path, os.O_RDONLY, length=None, page_size=page_size, tracker=tracker)

    @classmethod
    def create(cls, name: str, file: str | Path | int, length: int, *, page_size: int = 4096) -> FileBlock:
        """For receiving `length` bytes into a new file at a path, or into the writable regular file behind a
        descriptor, which is cut to size.

        Raise `StorageError` if it exists already, can't be made or can't be that long.
        """
        if not isinstance(file, int):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            return cls._open(name, file, flags, length=length, page_size=page_size, tracker=None)
        _set_length(file, length)
        return cls(name, file, page_size=page_size)

    @classmethod
    def _open(
        cls, name: str, path: str | Path, flags: int, *, length: int | None, page_size: int, tracker: Tracker | None
    ) -> FileBlock:
        try:
            # Not to wait for whoever opens the other end, if it is a FIFO.
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise StorageError(f"can't open {path}: {error.strerror}") from error
        try:
            if length is not None:
                _set_length(fd, length)
            return cls(name, fd, page_size=page_size, tracker=tracker)
        finally:
            os.close(fd)

    @property
    def tracker(self) -> Tracker:
        """The one that was passed; else one that says that nobody writes."""
        return self._tracker

    def initial(self) -> tuple[Extents, Extents]:
        """The file's data, rounded outward to pages, and its holes."""
        data = merge([self._data()], page_size=self.page_size, length=self.length)
        return data, complement(data, self.length)

    def read(self, offset: int, length: int, scratch: memoryview) -> memoryview:
        """Into `scratch`. Raise `StorageError` if the file can't be read or has become shorter."""
        view = scratch[:length]
        read_whole(self._fd, view, offset, str(self._file))
        return view

    def target(self, offset: int, length: int) -> memoryview:
        """Memory of its own. The C library's heap is the pool: a fresh 512 KiB costs 4 us more to fill than one used
        again (measured).
        """
        del offset
        return np.empty(length, dtype=np.uint8).data

    def written(self, offset: int, view: memoryview) -> None:
        """To the file. Raise `StorageError`, naming the file, if it does not take it (a full disk, for one)."""
        self._touch(offset, len(view))
        self._write(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole; write zeros if the file system can't; do nothing where the file is known to be a hole."""
        if self._touched is not None and not self._touched[_regions(offset, length)].any():
            return
        try:
            fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise StorageError(f"can't clear part of {self._file}: {error.strerror}") from error
            for at in range(offset, offset + length, len(_ZEROS)):
                self._write(at, memoryview(_ZEROS)[: min(len(_ZEROS), offset + length - at)])

    def close(self) -> None:
        """Stop tracking and close our descriptor."""
        self._tracker.stop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self._fd, view[done:], offset + done)
            except OSError as error:
                raise StorageError(f"can't write to {self._file}: {error.strerror}") from error

    def _touch(self, offset: int, length: int) -> None:
        # Threads may share a region, but never a byte: whoever zeroes what was written earlier finds its mark.
        if self._touched is not None:
            self._touched[_regions(offset, length)] = True

    def _is_hole(self) -> bool:
        try:
            os.lseek(self._fd, 0, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO
        return False

    def _data(self) -> Extents:
        """Where the file has data; all of it if its file system does not say."""
        rows, at = [], 0
        try:
            while at < self.length:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                at = os.lseek(self._fd, start, os.SEEK_HOLE)
                rows.append((start, min(at, self.length) - start))
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no data from there on
                return whole(self.length)
        return np.array(rows, dtype=np.int64).reshape(-1, 2)


def _regions(offset: int, length: int) -> slice:
    return slice(offset // _REGION, (offset + length - 1) // _REGION + 1)


def _name_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"file descriptor {fd}"


def _set_length(fd: int, length: int) -> None:
    try:
        os.ftruncate(fd, length)
    except (OSError, OverflowError) as error:
        raise StorageError(
            f"{_name_of(fd)} can't have {length} bytes: {getattr(error, 'strerror', None) or error}"
        ) from error
