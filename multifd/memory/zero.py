"""Finding pages that are zero. One probe a page tells nearly all others at 1/60 of the memory traffic, two more nearly
all of the rest; only suspects are read whole.

Numbers per 512 KiB of 4 KiB pages, hot: three probes 2 us, all of it as one maximum 4 us, a maximum per page 9 us. Per
GiB, cold: random memory 12 ms (three probes of every page: 28), zeros 128.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from multifd.memory.extents import Numbers

Words = npt.NDArray[np.uint64]
"""Whole pages, shape (pages, page size / 8)."""
Flags = npt.NDArray[np.bool_]

_GATHER_ROWS = 128  # suspects that lie apart are copied together to be read: 512 KiB at a time stay in L2


def page_words(view: memoryview, page_size: int) -> Words:
    """The whole pages of contiguous memory (a short last one left out), without a copy. `page_size`: a power of two of
    at least 512.
    """
    count = len(view) // page_size
    return np.frombuffer(view, dtype=np.uint64, count=count * page_size // 8).reshape(count, page_size // 8)


def zero_pages(view: memoryview, page_size: int) -> Flags:
    """Which of the whole pages of contiguous memory are zero."""
    words = page_words(view, page_size)
    return zero_rows(words, np.arange(len(words)))


def zero_rows(words: Words, rows: Numbers) -> Flags:
    """Which of `rows` (ascending page numbers) of `words` are zero. The memory may be written meanwhile; the answer is
    of some moment for each page.
    """
    if not len(rows):
        return np.empty(0, dtype=np.bool_)
    first, end = int(rows[0]), int(rows[-1]) + 1
    column = words[first:end, 0] if end - first == len(rows) else words[rows, 0]
    flags: Flags = column == 0
    suspects = rows[flags]
    if len(suspects) < len(rows) // 2:  # else most are zero indeed, and will be read anyhow
        width = words.shape[1]
        remain = (words[suspects, width // 2 - 1] | words[suspects, width - 1]) == 0
        flags[flags] = remain
        suspects = suspects[remain]
    if len(suspects):
        flags[flags] = _read(words, suspects)
    return flags


def _read(words: Words, rows: Numbers) -> Flags:
    """The same for suspects, by reading them whole."""
    first, end = int(rows[0]), int(rows[-1]) + 1
    if end - first == len(rows) and not words[first:end].max():
        return np.ones(len(rows), dtype=np.bool_)
    if end - first <= 2 * len(rows):
        flags: Flags = words[first:end].max(axis=1)[rows - first] == 0
        return flags
    steps = [words[rows[at : at + _GATHER_ROWS]].max(axis=1) == 0 for at in range(0, len(rows), _GATHER_ROWS)]
    return np.concatenate(steps)
