"""Which pages go into which packet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd import limits
from multifd.elements import ZeroPages
from multifd.memory.file_pages import FilePages
from multifd.qemu.origin import Present
from multifd.qemu.packets import PageRun, Pages, packets, zero_records

PAGE = 4096
COUNT = limits.QEMU_PACKET_BYTES // PAGE


@dataclass
class Block:
    view: memoryview
    present: Present
    file: FilePages | None = None
    is_mapped: bool = False


def block_of(flags: list[bool]) -> Block:
    """Every byte of page n is n; those that are not present have it too, which nobody may look at."""
    numbers = np.repeat(np.arange(len(flags), dtype=np.uint8), PAGE)
    return Block(memoryview(numbers.tobytes()), np.array(flags, dtype=np.bool_))


def each_packet(block: Block, zero_pages: ZeroPages, page_size: int = PAGE) -> Iterator[Pages]:
    """Packet by packet; what is handed over in one for several comes apart."""
    for pages in packets("m", block, page_size, zero_pages):
        if isinstance(pages, PageRun):
            assert pages.length <= 4 * limits.QEMU_PACKET_BYTES
            yield from pages.packets(page_size)
        else:
            yield pages


def sent(block: Block, zero_pages: ZeroPages) -> tuple[dict[int, int], list[int]]:
    """Page → the byte that it is full of, for normal pages; and the numbers of those listed as zero."""
    normal: dict[int, int] = {}
    zero: list[int] = []
    for pages in each_packet(block, zero_pages):
        assert pages.block == "m"
        assert 1 <= len(pages.normal) + len(pages.zero) <= COUNT
        assert pages.contents in (block, None)
        view = block.view if pages.contents is block else memoryview(bytes(len(block.view)))
        data = b"".join(view[offset : offset + PAGE] for offset in pages.normal.tolist())
        for at, offset in enumerate(pages.normal.tolist()):
            page = data[at * PAGE : (at + 1) * PAGE]
            assert len(set(page)) == 1
            assert offset // PAGE not in normal
            normal[offset // PAGE] = page[0]
        zero += (pages.zero // PAGE).tolist()
    return normal, zero


@given(st.lists(st.booleans(), max_size=200))
def test_every_page_goes_once(flags: list[bool]) -> None:
    """Present ones with their contents; the others listed, on main, or as pages of zeros, by the mode."""
    block = block_of(flags)
    there = {number: number for number, flag in enumerate(flags) if flag}
    absent = [number for number, flag in enumerate(flags) if not flag]
    assert sent(block, ZeroPages.MULTIFD) == (there, absent)
    assert sent(block, ZeroPages.LEGACY) == (there, [])
    assert sent(block, ZeroPages.NONE) == (there | dict.fromkeys(absent, 0), [])
    records = [offset // PAGE for each in zero_records("m", block.present, PAGE) for offset in each.offsets.tolist()]
    assert records == absent


def test_neighbours_are_handed_over_together() -> None:
    """Pages without a gap come as runs of up to four packets, of which each but the last is full; others one packet a
    time.
    """
    runs = list(packets("m", block_of([True] * 200), PAGE, ZeroPages.NONE))
    assert [(run.offset, run.length) for run in runs if isinstance(run, PageRun)] == [(0, 200 * PAGE)]
    assert [len(each.normal) for each in each_packet(block_of([True] * 200), ZeroPages.NONE)] == [COUNT, 200 - COUNT]
    long = Block(memoryview(bytes(PAGE * COUNT * 9)), np.ones(COUNT * 9, dtype=np.bool_))
    lengths = [run.length for run in packets("m", long, PAGE, ZeroPages.NONE) if isinstance(run, PageRun)]
    assert lengths == [limits.QEMU_PACKET_BYTES * count for count in (4, 4, 1)]
    (lone,) = packets("m", block_of([True, False] * 60), PAGE, ZeroPages.LEGACY)
    assert isinstance(lone, Pages)


def test_work_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a block has, windows and pieces are of limited size, and together all of it."""
    monkeypatch.setattr(limits, "QEMU_PLAN_PAGES_MAX", 50)
    monkeypatch.setattr(limits, "QEMU_ZERO_RECORDS_MAX", 20)
    flags = [number % 2 == 0 for number in range(180)]
    block = block_of(flags)
    assert all(len(each.normal) <= 25 for each in each_packet(block, ZeroPages.LEGACY))
    pieces = [each.offsets for each in zero_records("m", block.present, PAGE)]
    assert all(len(each) <= 20 for each in pieces)
    assert (np.concatenate(pieces) == np.flatnonzero(~block.present) * PAGE).all()
    assert sorted(sent(block, ZeroPages.NONE)[0]) == list(range(180))


def test_large_pages_make_small_packets() -> None:
    """A packet has 512 KiB of pages, however large they are."""
    block = Block(memoryview(bytes(16 * 65536)), np.ones(16, dtype=np.bool_))
    assert [len(each.normal) for each in each_packet(block, ZeroPages.MULTIFD, 65536)] == [8, 8]
