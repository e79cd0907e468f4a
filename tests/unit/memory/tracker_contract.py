"""What every tracker must do, as checks that take a `Rig`: any back-end, also one from elsewhere, can be held to them.

A rig's memory is a block of `BLOCK_BYTES`, which end in the middle of a page. Written pages are named by offsets well
apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from multifd.memory.extents import Extents, total
from multifd.memory.flat import Bytes
from multifd.memory.tracker import Tracker

PAGE = 4096
PAGES = 64
BLOCK_BYTES = PAGES * PAGE + 1234


@dataclass(frozen=True, slots=True)
class Rig:
    """A tracker that is not started, the memory that it tracks (never populated, all zero), and how the owner writes to
    it.
    """

    tracker: Tracker
    memory: Bytes
    write: Callable[[int, int, int], None]
    """Offset, length, value of every byte."""
    slack_pages: int = 0
    """How many pages more than were written each write may be reported as: block and system pages need not agree."""


def check_nothing_is_dirty_at_the_start(rig: Rig) -> None:
    """What was written before `start` does not count."""
    rig.write(0, 10, 1)
    rig.tracker.start()
    assert not len(rig.tracker.collect())
    assert rig.tracker.count() == 0


def check_a_write_is_collected_once(rig: Rig) -> None:
    """A write is in the next answer, and not in the one after it."""
    rig.tracker.start()
    rig.write(5 * PAGE + 17, 1, 1)
    _assert_reports(rig, rig.tracker.collect(), [(5 * PAGE, PAGE)])
    for _ in range(3):
        assert not len(rig.tracker.collect())
    rig.write(5 * PAGE + 18, 1, 2)
    _assert_reports(rig, rig.tracker.collect(), [(5 * PAGE, PAGE)])


def check_both_ends_of_a_page_belong_to_it(rig: Rig) -> None:
    """A write to the first or the last bytes of a page is reported with that page."""
    rig.tracker.start()
    for place in (0, 1, PAGE // 2, PAGE - 2, PAGE - 1):
        rig.write(9 * PAGE + place, 1, place % 255 + 1)
        _assert_reports(rig, rig.tracker.collect(), [(9 * PAGE, PAGE)])


def check_counting_clears_nothing(rig: Rig) -> None:
    """`count` says what `collect` will say, any number of times."""
    rig.tracker.start()
    rig.write(7 * PAGE, PAGE, 1)
    first = rig.tracker.count()
    assert PAGE <= first <= (1 + rig.slack_pages) * PAGE
    assert rig.tracker.count() == first
    _assert_reports(rig, rig.tracker.collect(), [(7 * PAGE, PAGE)])
    assert rig.tracker.count() == 0


def check_neighbours_are_one_extent(rig: Rig) -> None:
    """Adjacent pages are reported as one extent, others apart and in ascending order."""
    rig.tracker.start()
    for page in (40, 11, 10, 20, 12):
        rig.write(page * PAGE + 100, 1, 3)
    _assert_reports(rig, rig.tracker.collect(), [(10 * PAGE, 3 * PAGE), (20 * PAGE, PAGE), (40 * PAGE, PAGE)])


def check_the_odd_end_is_clipped(rig: Rig) -> None:
    """A write to the last, short page is reported up to the block's end and no further."""
    rig.tracker.start()
    rig.write(BLOCK_BYTES - 1, 1, 4)
    extents = rig.tracker.collect()
    assert int(extents[-1].sum()) == BLOCK_BYTES
    _assert_reports(rig, extents, [(PAGES * PAGE, BLOCK_BYTES - PAGES * PAGE)])


def check_everything_is_one_extent(rig: Rig) -> None:
    """All of a block written is one extent of its length."""
    rig.tracker.start()
    rig.write(0, BLOCK_BYTES, 5)
    assert rig.tracker.count() == BLOCK_BYTES
    assert rig.tracker.collect().tolist() == [[0, BLOCK_BYTES]]


def check_it_can_be_started_anew(rig: Rig) -> None:
    """`start` while it runs forgets; after `stop`, which may be repeated, it begins again."""
    rig.tracker.start()
    rig.write(3 * PAGE, 1, 6)
    rig.tracker.start()
    assert not len(rig.tracker.collect())
    rig.tracker.stop()
    rig.tracker.stop()
    rig.write(4 * PAGE, 1, 6)
    rig.tracker.start()
    rig.write(8 * PAGE, 1, 6)
    _assert_reports(rig, rig.tracker.collect(), [(8 * PAGE, PAGE)])


def check_no_write_is_lost(rig: Rig) -> None:
    """Copying what is reported, while another thread writes, ends with an equal copy: no write is in neither of two
    answers.
    """
    rig.tracker.start()
    copy = rig.memory.copy()
    order = np.random.default_rng(1).integers(0, BLOCK_BYTES - 8, 3000)

    def write() -> None:
        for turn, offset in enumerate(order.tolist()):
            rig.write(offset, 8, turn % 255 + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            _copy(rig, copy)
    finally:
        writer.join()
    _copy(rig, copy)
    assert np.array_equal(copy, rig.memory)


CHECKS = [
    check_nothing_is_dirty_at_the_start,
    check_a_write_is_collected_once,
    check_both_ends_of_a_page_belong_to_it,
    check_counting_clears_nothing,
    check_neighbours_are_one_extent,
    check_the_odd_end_is_clipped,
    check_everything_is_one_extent,
    check_it_can_be_started_anew,
    check_no_write_is_lost,
]


def _copy(rig: Rig, copy: Bytes) -> None:
    for offset, length in rig.tracker.collect().tolist():
        copy[offset : offset + length] = rig.memory[offset : offset + length]


def _assert_reports(rig: Rig, extents: Extents, expected: list[tuple[int, int]]) -> None:
    """Exactly `expected`, or with slack: all of it, in as many extents of whole pages, none larger than the slack
    allows.
    """
    if not rig.slack_pages:
        assert extents.tolist() == [list(row) for row in expected]
        return
    assert len(extents) == len(expected)
    for (offset, length), (begin, size) in zip(extents.tolist(), expected, strict=True):
        assert offset % PAGE == 0
        assert (offset + length) % PAGE == 0 or offset + length == BLOCK_BYTES
        assert offset <= begin
        assert offset + length >= begin + size
    assert total(extents) <= sum(size for _, size in expected) + len(expected) * rig.slack_pages * PAGE
