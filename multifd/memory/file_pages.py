"""Pages of a file, read into memory when they are wanted."""

from __future__ import annotations

import os
import weakref

import numpy as np
import numpy.typing as npt

from multifd.errors import StorageError
from multifd.memory.extents import runs


class OpenFile:
    """A descriptor of its own for an open file, closed when nobody holds it any more."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = os.dup(fd)
        self.name = name
        weakref.finalize(self, os.close, self.fd)


def read_whole(fd: int, into: memoryview, offset: int, name: str) -> None:
    """*worker*: fill `into` from the file. Raises `StorageError` if it can't be read or has become shorter."""
    while into:
        try:
            got = os.preadv(fd, (into,), offset)
        except OSError as error:
            raise StorageError(f"can't read {name}: {error.strerror}") from error
        if not got:
            raise StorageError(f"file shrank while it was being sent: {name}")
        offset += got
        into = into[got:]


class FilePages:
    """`length` bytes of a file from `offset` on.

    Pages on a disk that are sent once are read, not mapped: a piece that is read into the same buffer again and again
    stays in the processor's cache, and mapping costs a page fault for every few pages (docs/BENCHMARKS.md).
    """

    def __init__(self, file: OpenFile, offset: int, length: int, *, page_size: int) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._page_size = page_size

    def read(self, offsets: npt.NDArray[np.int64], buffer: memoryview) -> memoryview:
        """*worker*: the pages at these offsets, in their order, in the first part of `buffer`. Raises `StorageError`
        if the file has become shorter, or can't be read.
        """
        extents, _ = runs(offsets // self._page_size, page_size=self._page_size, length=self._length)
        at = 0
        for start, length in extents.tolist():
            self.read_run(start, buffer[at : at + length])
            at += length
        return buffer[:at]

    def read_run(self, offset: int, into: memoryview) -> None:
        """*worker*: as `read`, what lies at `offset` and fills `into`."""
        read_whole(self._file.fd, into, self._offset + offset, self._file.name)
