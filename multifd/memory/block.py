"""Blocks: named ranges of state. Knows nothing of slots or the protocol. Files are in file.py."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from multifd.limits import KIB, PAGE_SIZE_BYTES_MAX, PAGE_SIZE_BYTES_MIN
from multifd.memory.choose import Wanted, choose
from multifd.memory.extents import Extents, empty, whole
from multifd.memory.flat import flat
from multifd.memory.tracker import StaticTracker, Tracker

_ZERO_STEP = 256 * KIB  # what is looked at, and if need be written, at once: it fits into L2


class Block(abc.ABC):
    """A named range of state of `length` bytes (any, also 0 and odd). The same interface serves its source and its
    destination.

    `read`, `target`, `written` and `zero` are called by several threads at a time, never for overlapping ranges.
    `page_size` is a power of two from 512 to 1 GiB: what is dirty or zero is told page by page.
    """

    memory: memoryview | None = None
    """The block's bytes, if they are memory of this process: what is read and received into then. None for everything
    else.
    """

    def __init__(self, name: str, length: int, page_size: int) -> None:
        """Raise `ValueError` for a page size that can't be."""
        if not PAGE_SIZE_BYTES_MIN <= page_size <= PAGE_SIZE_BYTES_MAX or page_size & (page_size - 1):
            raise ValueError(f"block {name}: a page size of {page_size} is not a power of two from 512 to 1 GiB")
        self.name = name
        self.length = length
        self.page_size = page_size

    @property
    @abc.abstractmethod
    def tracker(self) -> Tracker:
        """Knows what was written. Raise `TrackingError` if there is none of the sort that was asked for."""

    @abc.abstractmethod
    def initial(self) -> tuple[Extents, Extents]:
        """What the first sweep covers: (extents with data, extents known to be zero). Together they are the whole
        block.
        """

    @abc.abstractmethod
    def read(self, offset: int, length: int, scratch: memoryview) -> memoryview:
        """Source: the bytes of a range: the block's `memory` itself if it has any, else `scratch` (of `length` bytes),
        filled.

        Raise `StorageError` if they can't be read.
        """

    @abc.abstractmethod
    def target(self, offset: int, length: int) -> memoryview:
        """Destination: where to receive a range into. Nothing is in the block for certain before `written`; a view not
        passed on there is just dropped.
        """

    @abc.abstractmethod
    def written(self, offset: int, view: memoryview) -> None:
        """Destination: the view that `target` gave is whole and verified: keep it. Raise `StorageError` if that can't
        be done.
        """

    @abc.abstractmethod
    def zero(self, offset: int, length: int) -> None:
        """Destination: make a range read as zero. Raise `StorageError` if that can't be done."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop tracking and give back what the block holds. Idempotent. What the user made (a buffer, a descriptor)
        stays the user's.
        """


class BufferBlock(Block):
    """A block that is memory of this process: nothing is copied, `read` and `target` are slices of it."""

    def __init__(self, name: str, buffer: Any, *, page_size: int = 4096, tracker: Wanted | Tracker = "auto") -> None:
        """Over any C-contiguous buffer: an mmap, a bytearray, a memoryview, a numpy array of any dtype.

        `tracker`: see memory/choose.py; a word is resolved when `tracker` is first looked at, so that a destination
        needs none. A read-only buffer is good for a source with tracker="none" only. Raise `ValueError` or `TypeError`
        for what is no such buffer.
        """
        self._bytes = flat(buffer)
        super().__init__(name, self._bytes.size, page_size)
        static = tracker == "none" or isinstance(tracker, StaticTracker)
        if not self._bytes.flags.writeable and not static:
            raise ValueError(f'block {name}: the buffer is read-only: pass tracker="none" if nobody else writes to it')
        self.memory = self._bytes.data
        self._wanted = tracker
        self._tracker = tracker if isinstance(tracker, Tracker) else None

    @property
    def tracker(self) -> Tracker:
        """The one that was passed, or the one chosen for the word that was passed."""
        if self._tracker is None:
            assert not isinstance(self._wanted, Tracker)
            self._tracker = choose(self._bytes, self._wanted, page_size=self.page_size)
        return self._tracker

    def initial(self) -> tuple[Extents, Extents]:
        """All of it is data."""
        return whole(self.length), empty()

    def read(self, offset: int, length: int, scratch: memoryview) -> memoryview:
        """A slice of the memory; `scratch` is not used."""
        del scratch
        return self._slice(offset, length)

    def target(self, offset: int, length: int) -> memoryview:
        """A slice of the memory."""
        return self._slice(offset, length)

    def written(self, offset: int, view: memoryview) -> None:
        """It is there already."""

    def zero(self, offset: int, length: int) -> None:
        """Write zeros where there is anything else: looking first keeps memory that was never populated unpopulated."""
        for at in range(offset, offset + length, _ZERO_STEP):
            piece = self._bytes[at : min(at + _ZERO_STEP, offset + length)]
            if piece.max():
                piece.fill(0)

    def close(self) -> None:
        """Stop tracking, and let go of the buffer. It is up to the caller that no slot of it is under way."""
        if self._tracker is not None:
            self._tracker.stop()
        self.memory = None
        self._tracker = StaticTracker()
        self._bytes = np.empty(0, dtype=np.uint8)

    def _slice(self, offset: int, length: int) -> memoryview:
        assert self.memory is not None, "the block is closed"
        return self.memory[offset : offset + length]
