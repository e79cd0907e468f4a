"""From the pages of a machine to packets of channels: which pages go together, and where their contents lie. Knows no
threads and no bytes of the wire. Vectorised: a window of a block at a time, no Python for a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from multifd import limits
from multifd.elements import Offsets, RunPacket, ZeroPages, ZeroRecords
from multifd.memory.file_pages import FilePages
from multifd.qemu.memory_target import page_views
from multifd.qemu.origin import BlockOrigin, Present

_NONE: Offsets = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """The pages of one packet. `views` are the contents of the normal ones, in their order, neighbours joined; none
    if they are to be read from `file`.
    """

    block: str
    normal: Offsets
    zero: Offsets
    views: Sequence[memoryview]
    file: FilePages | None = None
    run: RunPacket | None = None
    """The normal pages once more, if they are neighbours and there are no others, as most are: without compression they
    have a short way.
    """


def packets(name: str, block: BlockOrigin, page_size: int, zero_pages: ZeroPages) -> Iterator[Pages]:
    """All packets of a block: its pages in their order, and after those of each window its zero pages, if they travel
    in packets at all.
    """
    count = limits.QEMU_PACKET_BYTES // page_size
    zeros = memoryview(bytes(limits.QEMU_PACKET_BYTES))
    view = block.view
    for first, flags in _windows(block.present):
        if flags.all():
            yield from _runs(name, block, first, len(flags), page_size)
            continue
        for normal in _pieces(first + np.flatnonzero(flags), count):
            offsets = normal * page_size
            views = page_views(view, offsets, page_size) if block.file is None else ()
            yield Pages(name, offsets, _NONE, views, block.file)
        if zero_pages is ZeroPages.LEGACY:
            continue
        for zero in _pieces(first + np.flatnonzero(~flags), count):
            if zero_pages is ZeroPages.MULTIFD:
                yield Pages(name, _NONE, zero * page_size, ())
            else:
                yield Pages(name, zero * page_size, _NONE, (zeros[: len(zero) * page_size],))


def _runs(name: str, block: BlockOrigin, first: int, pages: int, page_size: int) -> Iterator[Pages]:
    """The packets of so many pages, all of them there."""
    end = (first + pages) * page_size
    for offset in range(first * page_size, end, limits.QEMU_PACKET_BYTES):
        stop = min(offset + limits.QEMU_PACKET_BYTES, end)
        views = (block.view[offset:stop],) if block.file is None else ()
        run = RunPacket(name, offset, stop - offset)
        yield Pages(name, np.arange(offset, stop, page_size), _NONE, views, block.file, run)


def zero_records(name: str, present: Present, page_size: int) -> Iterator[ZeroRecords]:
    """The zero pages of a block as records for main, at most `QEMU_ZERO_RECORDS_MAX` at a time."""
    for first, flags in _windows(present):
        for zero in _pieces(first + np.flatnonzero(~flags), limits.QEMU_ZERO_RECORDS_MAX):
            yield ZeroRecords(name, zero * page_size)


def _windows(present: Present) -> Iterator[tuple[int, Present]]:
    """First page and flags of so many pages at a time: what is worked out ahead stays small for the largest guest."""
    for first in range(0, len(present), limits.QEMU_PLAN_PAGES_MAX):
        yield first, present[first : first + limits.QEMU_PLAN_PAGES_MAX]


def _pieces(numbers: Offsets, count: int) -> Iterator[Offsets]:
    return (numbers[at : at + count] for at in range(0, len(numbers), count))
