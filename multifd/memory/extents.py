"""Extents: `int64` arrays of shape (n, 2), rows (offset, length) in bytes, ascending, not overlapping. The one form in
which ranges of a block travel inside multifd.

Everything here is vectorised: a round can have a million extents. A *page number* is an offset divided by the page
size; a block's last page may be short.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Extents = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]
"""Page numbers or indices, shape (n,)."""


def empty() -> Extents:
    """No extents."""
    return np.empty((0, 2), dtype=np.int64)


def whole(length: int) -> Extents:
    """One extent over all of a block, or none if it is empty."""
    return np.array([[0, length]] if length else np.empty((0, 2)), dtype=np.int64).reshape(-1, 2)


def total(extents: Extents) -> int:
    """Bytes in all."""
    return int(extents[:, 1].sum())


def merge(parts: Sequence[Extents], *, page_size: int, length: int) -> Extents:
    """The union of `parts`: clipped to a block of `length` bytes, rounded outward to its pages, adjacent and
    overlapping rows joined.

    The parts' rows may be in any order and may lie outside the block.
    """
    rows = parts[0] if len(parts) == 1 else np.concatenate([empty(), *parts])
    starts = np.clip(rows[:, 0], 0, length)
    ends = np.clip(rows[:, 0] + rows[:, 1], 0, length)
    filled = ends > starts
    if not filled.all():
        starts, ends = starts[filled], ends[filled]
    if not starts.size:
        return empty()
    starts = starts & -page_size
    ends = np.minimum((ends + (page_size - 1)) & -page_size, length)
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    ends = np.maximum.accumulate(ends)
    apart = np.concatenate([[True], starts[1:] > ends[:-1]])
    first = starts[apart]
    last = ends[np.concatenate([apart[1:], [True]])]
    return np.stack([first, last - first], axis=1)


def complement(extents: Extents, length: int) -> Extents:
    """What `extents` leave out of a block of `length` bytes."""
    starts = np.concatenate([[0], extents[:, 0] + extents[:, 1]])
    ends = np.concatenate([extents[:, 0], [length]])
    gaps = ends > starts
    return np.stack([starts[gaps], ends[gaps] - starts[gaps]], axis=1).astype(np.int64)


def cut(extents: Extents, *, size: int, count_max: int) -> tuple[Extents, list[int]]:
    """Cut `extents` for batches of at most `size` bytes and `count_max` rows: (pieces, bounds), batch k being
    `pieces[bounds[k]:bounds[k + 1]]`.

    The cuts are at multiples of `size` in the concatenated bytes. So if `size` is a multiple of the page size, and all
    rows but the last are whole pages, no page is cut.
    """
    if not len(extents):
        return extents, [0]
    lengths = extents[:, 1]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    cells = starts // size
    counts = (ends - 1) // size - cells + 1
    pieces = extents
    if int(counts.max()) > 1:
        row = np.repeat(np.arange(len(extents)), counts)
        cells = cells[row] + ranks(counts)
        begin = np.maximum(starts[row], cells * size)
        end = np.minimum(ends[row], (cells + 1) * size)
        pieces = np.stack([extents[row, 0] + begin - starts[row], end - begin], axis=1)
    fresh = np.concatenate([[True], cells[1:] != cells[:-1]])
    rank = ranks(np.diff(np.append(np.flatnonzero(fresh), len(pieces))))
    bounds = np.flatnonzero(rank % count_max == 0)
    return pieces, [*bounds.tolist(), len(pieces)]


def ranks(counts: Numbers) -> Numbers:
    """0, 1, .. count - 1 for each of `counts`, one after another."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - counts, counts)


def pages(extents: Extents, page_size: int) -> Numbers:
    """The numbers of all pages that `extents`, which begin at pages, cover; ascending."""
    counts = (extents[:, 1] + (page_size - 1)) // page_size
    if len(extents) and int(counts.max()) == 1:
        return extents[:, 0] // page_size
    return np.repeat(extents[:, 0] // page_size, counts) + ranks(counts)


def runs(numbers: Numbers, *, page_size: int, length: int) -> tuple[Extents, Numbers]:
    """Ascending page numbers as (extents, index in `numbers` of each extent's first page), neighbours joined, clipped
    to the block's `length`.
    """
    if not numbers.size:
        return empty(), numbers
    apart = np.concatenate([[True], numbers[1:] != numbers[:-1] + 1])
    first = np.flatnonzero(apart)
    starts = numbers[first] * page_size
    ends = (numbers[np.append(first[1:] - 1, len(numbers) - 1)] + 1) * page_size
    return np.stack([starts, np.minimum(ends, length) - starts], axis=1), first
