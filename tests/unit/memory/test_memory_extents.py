"""Extents by example. What holds for all of them is in tests/property/test_extents.py."""

from __future__ import annotations

import numpy as np
import pytest

from multifd.memory.extents import Extents, complement, cut, empty, merge, pages, ranks, runs, total, whole

K = 1024


def rows(*pairs: tuple[int, int]) -> Extents:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def test_whole_and_total() -> None:
    """A block is one extent, an empty one none."""
    assert whole(5).tolist() == [[0, 5]]
    assert whole(0).shape == (0, 2)
    assert total(rows((0, 5), (9, 1))) == 6
    assert total(empty()) == 0


@pytest.mark.parametrize(
    ("parts", "merged"),
    [
        ([], []),
        ([rows((0, 1))], [[0, K]]),
        ([rows((K // 2, K))], [[0, 2 * K]]),
        ([rows((0, K), (K, K))], [[0, 2 * K]]),
        ([rows((3 * K, 1)), rows((0, 1))], [[0, K], [3 * K, K]]),
        ([rows((0, 4 * K)), rows((K, 5), (5 * K, 1))], [[0, 4 * K], [5 * K, 5]]),
        ([rows((-20, 15), (-5, 10))], [[0, K]]),
        ([rows((5 * K + 4, 100), (6 * K, 5))], [[5 * K, 5]]),
        ([rows((2 * K, 0))], []),
    ],
)
def test_merge(parts: list[Extents], merged: list[list[int]]) -> None:
    """Parts are clipped to the block of 5 KiB and 5 bytes, rounded outward to its pages of 1 KiB, and joined."""
    assert merge(parts, page_size=K, length=5 * K + 5).tolist() == merged


def test_complement() -> None:
    """What is left out, before, between and after."""
    assert complement(rows((2, 3), (5, 1), (8, 2)), 12).tolist() == [[0, 2], [6, 2], [10, 2]]
    assert complement(empty(), 12).tolist() == [[0, 12]]
    assert complement(whole(12), 12).tolist() == []
    assert complement(empty(), 0).tolist() == []


def test_cut_by_size() -> None:
    """Extents are cut at multiples of the size, counted in their own bytes."""
    pieces, bounds = cut(rows((0, 10), (100, 3), (200, 9)), size=8, count_max=100)
    assert pieces.tolist() == [[0, 8], [8, 2], [100, 3], [200, 3], [203, 6]]
    assert bounds == [0, 1, 4, 5]


def test_cut_by_count() -> None:
    """A batch has no more rows than asked for, and a full one does not make the next one short."""
    pieces, bounds = cut(rows(*[(10 * place, 1) for place in range(7)]), size=6, count_max=4)
    assert len(pieces) == 7
    assert bounds == [0, 4, 6, 7]


def test_cut_of_nothing() -> None:
    """No extents give no batches."""
    pieces, bounds = cut(empty(), size=8, count_max=1)
    assert (len(pieces), bounds) == (0, [0])


def test_pages_and_runs() -> None:
    """Extents as page numbers and back, with the place of each extent's first page, clipped to the block."""
    extents = rows((0, 2 * K), (5 * K, K), (7 * K, K + 10))
    numbers = pages(extents, K)
    assert numbers.tolist() == [0, 1, 5, 7, 8]
    back, first = runs(numbers, page_size=K, length=8 * K + 10)
    assert back.tolist() == extents.tolist()
    assert first.tolist() == [0, 2, 3]
    assert [len(part) for part in runs(numbers[:0], page_size=K, length=0)] == [0, 0]
    assert len(pages(empty(), K)) == 0


def test_ranks() -> None:
    """Counting from zero for each."""
    assert ranks(np.array([2, 1, 3])).tolist() == [0, 1, 0, 0, 1, 2]
    assert ranks(np.array([], dtype=np.int64)).tolist() == []
