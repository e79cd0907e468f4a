"""The rank test: its values are those of the tables."""

from __future__ import annotations

import itertools

import pytest

from bench.ranks import mann_whitney


def counted(one: list[float], other: list[float]) -> float:
    """By looking at every way of choosing, with ranks as sums of comparisons."""
    values = [*one, *other]
    ranks = [sum((other < value) + (other == value) / 2 for other in values) for value in values]
    middle = len(one) * sum(ranks) / len(ranks)
    distances = [abs(sum(chosen) - middle) for chosen in itertools.combinations(ranks, len(one))]
    here = abs(sum(ranks[: len(one)]) - middle)
    return sum(distance >= here - 1e-9 for distance in distances) / len(distances)


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [
        ([1, 2, 3], [4, 5, 6], 2 / 20),
        ([1, 2, 3, 4], [5, 6, 7, 8], 2 / 70),
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
        ([1, 4], [2, 3], 1.0),
        ([1, 1, 1], [1, 1, 1], 1.0),
        ([1], [2], 1.0),
    ],
)
def test_known_values(one: list[float], other: list[float], p: float) -> None:
    """Samples that do not overlap have the least p that there is, those that are the same have 1."""
    assert mann_whitney(one, other) == pytest.approx(p)
    assert mann_whitney(other, one) == pytest.approx(p)


@pytest.mark.parametrize(
    ("one", "other"),
    [([3, 1, 4, 1, 5], [9, 2, 6, 5]), ([2, 7, 1], [8, 2, 8, 1]), ([1.5, 2.5], [2.5, 2.5, 0.5, 9]), ([0], [0, 1, 2])],
)
def test_it_counts_as_one_would(one: list[float], other: list[float]) -> None:
    """Ties and unequal sizes: p is the share of all choices that are as far from the middle."""
    assert mann_whitney(one, other) == pytest.approx(counted(one, other))


def test_large_samples_are_no_problem() -> None:
    """A hundred values a side, which nobody could count one by one."""
    assert mann_whitney(range(100), range(100, 200)) < 1e-30
    assert mann_whitney(range(0, 200, 2), range(1, 200, 2)) > 0.5


def test_a_sample_needs_a_value() -> None:
    """Nothing is compared with nothing."""
    with pytest.raises(ValueError, match="need a value"):
        mann_whitney([], [1])
