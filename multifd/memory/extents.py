"""Extents: `int64` arrays of shape (n, 2), rows (offset, length) in bytes, ascending, not overlapping. The one form in which ranges of a block travel inside multifd."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Extents = npt.NDArray[np.int64]


def empty() -> Extents:
    """No extents."""
    return np.empty((0, 2), dtype=np.int64)


def whole(length: int) -> Extents:
    """One extent over all of a block, or none if it is empty."""
    return np.array([[0, length]] if length else np.empty((0, 2)), dtype=np.int64).reshape(-1, 2)


def total(extents: Extents) -> int:
    """Bytes in all."""
    return int(extents[:, 1].sum())
