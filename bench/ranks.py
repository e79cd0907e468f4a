"""Whether two samples differ: the Mann-Whitney rank test, exact, ties included. No I/O, no clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely ranks at least as far apart are if both come from the same: the two-sided p.

    Counts, for every sum of ranks, in how many ways so many of all values can have it. Middle ranks of ties are halves:
    ranks are doubled, so that all are whole.
    """
    if not one or not other:
        raise ValueError("both samples need a value at least")
    ranks = _doubled_ranks([*one, *other])
    ways = np.zeros((len(one) + 1, sum(ranks) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    middle = len(one) * sum(ranks) / len(ranks)
    distance = abs(sum(ranks[: len(one)]) - middle)
    as_far = np.abs(np.arange(ways.shape[1]) - middle) >= distance
    return float(ways[-1, as_far].sum() / ways[-1].sum())


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each, from 1; equal values share the middle of theirs."""
    rank_of: dict[float, int] = {}
    below = 0
    for value, group in itertools.groupby(sorted(values)):
        count = len(list(group))
        rank_of[value] = 2 * below + count + 1
        below += count
    return [rank_of[value] for value in values]
