"""Precopies: what is said of stops and times. No process is started."""

from __future__ import annotations

import pytest
from bench_results import FACTS

from bench import precopy
from bench.errors import BenchError
from bench.ours import NAME
from bench.precopy import STILL, Moved, Plan
from bench.result import Run
from multifd.limits import GIB

PLAN = Plan(
    size=GIB, channels=(2,), repeat=3, dirty_mib_per_s=200.0, downtime_limit_ms=300.0, congestion="cubic"
)  # fmt: skip


def moved(seconds: float, downtime_ms: float) -> Moved:
    run = Run(bytes=GIB, seconds=seconds, cpu_s=1, congestion="cubic")
    return Moved(run=run, downtime_ms=downtime_ms, rounds=4, tracker="kernel")


MADE = {(2, NAME): [moved(3.0, 299), moved(1.2, 300), moved(1.2, 301)], (2, STILL): [moved(1.0, 2)] * 3}


def test_stops_are_told_against_the_limit() -> None:
    """How many kept it; the one that took a millisecond more did not. Time is told by medians."""
    told = precopy.words(PLAN, 2, MADE[2, NAME], MADE[2, STILL])
    assert "within the limit of 300 ms in 2 of 3 (median 300.0 ms, 299.0 to 301.0)" in told
    assert "1.20 of the time that it takes when nobody writes" in told


def test_the_result_has_both_beside_each_other() -> None:
    """One scenario, named after writer and limit; the time without a writer is what it is compared with."""
    made = precopy.result(PLAN, FACTS, MADE)
    assert {each.scenario.name for each in made.series} == {"precopy-200MiB/s-300ms-1GiB-2ch-1MiB-none-cubic-loopback"}
    [ratio] = made.ratios()
    assert (ratio.ours, ratio.other) == (NAME, STILL)
    assert ratio.best == pytest.approx(1 / 1.2)
    assert made.conditions["tracker"] == "kernel"


def test_one_migration_is_that_of_the_plan() -> None:
    """Limit in seconds, no devices, and the writer only where it is asked for."""
    options = PLAN.options(2, 0.0)
    assert (options.downtime_limit_s, options.devices, options.dirty_mib_per_s) == (0.3, 0, 0.0)


def test_what_does_not_fit_is_told() -> None:
    """Memory that can't be there twice ends the bench in one sentence, before any of it is taken."""
    plan = Plan(size=1 << 50, channels=(2,), repeat=1, dirty_mib_per_s=1.0, downtime_limit_ms=300.0, congestion="cubic")
    with pytest.raises(BenchError, match="ask for a smaller --size"):
        precopy.migrate(plan.options(2, 1.0))
