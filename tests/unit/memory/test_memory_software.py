"""SoftwareTracker: marks by page, from any thread. The rest is in the contract (test_memory_trackers.py)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from multifd.memory.extents import runs, total
from multifd.memory.software import SoftwareTracker


@pytest.mark.parametrize(
    ("offset", "length", "extents"),
    [
        (0, 1, [[0, 512]]),
        (511, 2, [[0, 1024]]),
        (512, 512, [[512, 512]]),
        (5119, 1, [[4608, 512]]),
        (5120, 7, [[5120, 7]]),
        (100, 0, []),
        (5127, 0, []),
    ],
)
def test_marks_are_rounded_to_pages(offset: int, length: int, extents: list[list[int]]) -> None:
    """A mark covers every page that it touches; a mark of nothing covers none."""
    tracker = SoftwareTracker(5127, 512)
    tracker.mark(offset, length)
    assert tracker.count() == sum(size for _, size in extents) or tracker.count() == 512
    assert tracker.collect().tolist() == extents


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 5128), (5127, 1), (9999, 0)])
def test_marks_outside_the_block_are_refused(offset: int, length: int) -> None:
    """A mark that is not in the block is the owner's mistake, and said so."""
    with pytest.raises(ValueError, match="of a block of 5127 bytes"):
        SoftwareTracker(5127, 512).mark(offset, length)


def test_marks_of_many_threads_are_all_collected() -> None:
    """Marks made while another thread collects are in one of its answers."""
    tracker = SoftwareTracker(4096 * 4096)

    def mark(first: int) -> None:
        for page in range(first, 4096, 4):
            tracker.mark(page * 4096, 1)

    threads = [threading.Thread(target=mark, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        seen += total(tracker.collect())
    for thread in threads:
        thread.join()
    assert seen + total(tracker.collect()) == 4096 * 4096


def test_a_mark_made_while_collecting_is_in_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that comes when the flags are being read is not cleared with them."""
    tracker = SoftwareTracker(10 * 4096)
    tracker.mark(0, 1)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if not tracker.count():
            tracker.mark(3 * 4096, 1)
        return runs(*arguments, **named)

    monkeypatch.setattr("multifd.memory.software.runs", interrupted)
    assert tracker.collect().tolist() == [[0, 4096]]
    assert tracker.collect().tolist() == [[3 * 4096, 4096]]


def test_an_empty_block_is_never_dirty() -> None:
    """A block without bytes has no pages."""
    tracker = SoftwareTracker(0)
    tracker.start()
    tracker.mark(0, 0)
    assert tracker.count() == 0
    assert not len(tracker.collect())
