"""Rounds of which it is known what is dirty: which pages, what counts as a run, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from bench.dirty_rounds import RANDOM, SINGLE, SMALL, Plan, dirty_pages, runs_of, words
from bench.errors import BenchError
from bench.half import HalfSettings
from bench.known_dirty import PAGE_BYTES, RoundTook
from bench.result import Run, Series
from multifd.limits import MIB
from multifd.stats import Outcome, Report

SETTINGS = HalfSettings(size=4 * MIB, slot_bytes=MIB, congestion="cubic")
PLAN = Plan(settings=SETTINGS, works=(SINGLE, RANDOM), channels=(2,), rounds=3, repeat=1)


def series(work: str, *seconds: float) -> Series:
    runs = tuple(Run(bytes=1000 * PAGE_BYTES, seconds=each, cpu_s=1, congestion="cubic") for each in seconds)
    return Series(PLAN.scenario(work, 2), "multifd", runs)


@pytest.mark.parametrize(("work", "count"), [(SINGLE, 512), (RANDOM, 512), (SMALL, 10)])
def test_so_many_pages_are_dirty(work: str, count: int) -> None:
    """Half of them or 1 %, each once, ascending; single ones have no neighbours."""
    pages = dirty_pages(work, SETTINGS.size, np.random.default_rng(1))
    steps = np.diff(pages)
    assert len(pages) == count
    assert steps.min() >= (2 if work == SINGLE else 1)
    assert pages[-1] < SETTINGS.size // PAGE_BYTES


def test_a_session_has_each_work_in_turn() -> None:
    """As often as there are rounds, the same in every session, and with other pages each time."""
    sweeps = PLAN.sweeps()
    assert len(sweeps) == 6
    assert all(np.array_equal(one, other) for one, other in zip(sweeps, PLAN.sweeps(), strict=True))
    assert not np.array_equal(sweeps[1], sweeps[3])


def test_rounds_become_runs() -> None:
    """Bytes are those of the round; a session that sent something else, or in other rounds, ends the bench."""
    report = Report("source", Outcome.COMPLETED, bytes_sent=SETTINGS.size + 3 * PAGE_BYTES, congestion_control="cubic")
    took, moved = [RoundTook(0.5, 0.25)], [2 * PAGE_BYTES]
    expected = [Run(bytes=2 * PAGE_BYTES, seconds=0.5, cpu_s=0.25, congestion="cubic")]
    assert runs_of(took, moved, report, first_bytes=SETTINGS.size) == expected
    with pytest.raises(BenchError, match="bytes were sent in 0 rounds"):
        runs_of([], moved, report, first_bytes=SETTINGS.size)
    with pytest.raises(BenchError, match="bytes were sent in 1 rounds"):
        runs_of(took, [PAGE_BYTES], report, first_bytes=SETTINGS.size)


def test_large_rounds_are_told_in_pages_a_second() -> None:
    """The median, with the least and the most."""
    assert "single-pages-4MiB-2ch-1MiB-none-cubic-loopback: 1.00 M pages/s" in words(series(SINGLE, 1e-3, 2e-3, 5e-4))
    assert "median of 3 rounds of 1000 pages, 0.50 to 2.00" in words(series(SINGLE, 1e-3, 2e-3, 5e-4))


def test_small_rounds_are_told_by_their_percentiles() -> None:
    """The 99th, and how much more it is than the median: one stalled round of a hundred shows."""
    told = words(series(SMALL, *[0.01] * 98, 0.06, 0.06))
    assert "median 10.00 ms, 99th percentile 60.00 ms, 6.00 of the median, most 60.00 ms (100 rounds" in told
