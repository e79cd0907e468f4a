"""The tracker that is told beforehand: what it finds, and which rounds it has seen."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from bench.known_dirty import PAGE_BYTES, KnownDirty, RoundTook

LENGTH = 8 * PAGE_BYTES


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each look ten seconds more than at the one before."""
    times: Iterator[float] = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))


def tracker(*sweeps: list[int]) -> KnownDirty:
    looks = iter(range(1000))
    return KnownDirty(map(np.array, sweeps), length=LENGTH, cpu_s=lambda: float(next(looks)))


def test_each_sweep_finds_what_was_told() -> None:
    """Lone pages are extents of their own, neighbours are one; then there is nothing more."""
    told = tracker([1, 3, 4], [7])
    told.start()
    assert told.count() == 3 * PAGE_BYTES
    assert told.collect().tolist() == [[PAGE_BYTES, PAGE_BYTES], [3 * PAGE_BYTES, 2 * PAGE_BYTES]]
    assert told.count() == PAGE_BYTES
    assert told.collect().tolist() == [[7 * PAGE_BYTES, PAGE_BYTES]]
    assert (told.count(), told.collect().tolist()) == (0, [])
    told.stop()


@pytest.mark.usefixtures("clock")
def test_a_round_lasts_until_the_next_sweep() -> None:
    """The first sweep, the one with the last that was told and the one of the stop are none of them."""
    told = tracker([1], [2], [0])
    told.start()
    for _ in range(4):
        told.collect()
    assert told.rounds() == [RoundTook(10, 1)] * 2
