"""From the pages of a machine to packets of channels: which pages go together. Knows no threads and no bytes of the
wire. Vectorised: a window of a block at a time, no Python for a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from multifd import limits
from multifd.elements import Offsets, ZeroPages, ZeroRecords
from multifd.qemu.origin import BlockOrigin, Present

_NONE: Offsets = np.empty(0, dtype=np.int64)


_RUN_BYTES = 4 * limits.QEMU_PACKET_BYTES
"""What is handed to a channel at once, of pages that are neighbours: enough for the hand-over to cost little beside
them, and so little that all channels end at the same time.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """The pages of one packet. `contents` has those of the normal ones; None: they are zeros."""

    block: str
    normal: Offsets
    zero: Offsets
    contents: BlockOrigin | None


@dataclass(frozen=True, slots=True, eq=False)
class PageRun:
    """Neighbouring pages of a block, `length` bytes from `offset` on, none of them zero: what memory mostly consists
    of. Of a packet or a few.
    """

    block: str
    offset: int
    length: int
    contents: BlockOrigin

    def packets(self, page_size: int) -> Iterator[Pages]:
        """The same pages, packet by packet."""
        for offset, length in self.pieces():
            yield Pages(self.block, np.arange(offset, offset + length, page_size), _NONE, self.contents)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each packet's pages."""
        end = self.offset + self.length
        for offset in range(self.offset, end, limits.QEMU_PACKET_BYTES):
            yield offset, min(limits.QEMU_PACKET_BYTES, end - offset)


def packets(name: str, block: BlockOrigin, page_size: int, zero_pages: ZeroPages) -> Iterator[Pages | PageRun]:
    """All packets of a block: its pages in their order, and after those of each window its zero pages, if they travel
    in packets at all.
    """
    count = limits.QEMU_PACKET_BYTES // page_size
    for first, flags in windows(block.present):
        if flags.all():
            yield from _runs(name, block, first * page_size, len(flags) * page_size)
            continue
        for normal in _pieces(first + np.flatnonzero(flags), count):
            yield Pages(name, normal * page_size, _NONE, block)
        if zero_pages is ZeroPages.LEGACY:
            continue
        for zero in _pieces(first + np.flatnonzero(~flags), count):
            if zero_pages is ZeroPages.MULTIFD:
                yield Pages(name, _NONE, zero * page_size, block)
            else:
                yield Pages(name, zero * page_size, _NONE, None)


def _runs(name: str, block: BlockOrigin, first: int, length: int) -> Iterator[PageRun]:
    end = first + length
    for offset in range(first, end, _RUN_BYTES):
        yield PageRun(name, offset, min(_RUN_BYTES, end - offset), block)


def zero_records(name: str, present: Present, page_size: int) -> Iterator[ZeroRecords]:
    """The zero pages of a block as records for main, at most `QEMU_ZERO_RECORDS_MAX` at a time."""
    for first, flags in windows(present):
        for zero in _pieces(first + np.flatnonzero(~flags), limits.QEMU_ZERO_RECORDS_MAX):
            yield ZeroRecords(name, zero * page_size)


def windows(present: Present) -> Iterator[tuple[int, Present]]:
    """First page and flags of so many pages at a time: what is worked out ahead stays small for the largest guest."""
    for first in range(0, len(present), limits.QEMU_PLAN_PAGES_MAX):
        yield first, present[first : first + limits.QEMU_PLAN_PAGES_MAX]


def _pieces(numbers: Offsets, count: int) -> Iterator[Offsets]:
    return (numbers[at : at + count] for at in range(0, len(numbers), count))
