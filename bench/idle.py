"""Idle: what a look (`count`) and a sweep (`collect`) of the kernel's tracker take where nobody has written anything.

The memory is never touched. What is written counts in neither: before memory is touched there is nothing to find.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench import machine
from bench.errors import BenchError
from bench.result import Result, Run, Series
from bench.scenario import Scenario
from multifd.memory import KernelTracker, TrackingError

LOOK, SWEEP = "look", "sweep"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`repeat` looks and sweeps, alternating, over `size` bytes."""

    size: int
    repeat: int

    @property
    def scenario(self) -> Scenario:
        """No bytes move, over no channel."""
        return Scenario(work="idle", size=self.size, piece_bytes=mmap.PAGESIZE, congestion="none")


def local(plan: Plan) -> Result:
    """Measure. Raise `BenchError` if the kernel does not track."""
    facts = machine.describe()
    try:
        memory = mmap.mmap(-1, plan.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise BenchError(f"no room for so much memory, though none is used ({error.strerror}): see --size") from error
    tracker = KernelTracker(memory)
    calls: dict[str, Callable[[], object]] = {LOOK: tracker.count, SWEEP: tracker.collect}
    runs: dict[str, list[Run]] = {LOOK: [], SWEEP: []}
    try:
        began = time.perf_counter()
        tracker.start()
        start_s = time.perf_counter() - began
        mode = tracker.mode
        for _ in range(plan.repeat):
            for name, call in calls.items():
                runs[name].append(_timed(call, plan.size))
        if tracker.count():
            raise BenchError("something was dirty though nobody wrote")
    except TrackingError as error:
        raise BenchError(f"the kernel can't track writes: {error}") from error
    finally:
        tracker.stop()
    series = tuple(Series(plan.scenario, name, tuple(each)) for name, each in runs.items())
    return Result(
        machine=facts,
        ours=(LOOK, SWEEP),
        series=series,
        conditions={"memory": "never touched", "tracker": mode},
        findings=(*map(words, series), f"to begin tracking took {start_s * 1e3:.1f} ms, once"),
    )


def _timed(call: Callable[[], object], size: int) -> Run:
    cpu_s, began = time.process_time(), time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    return Run(bytes=size, seconds=seconds, cpu_s=time.process_time() - cpu_s, congestion="none")


def words(series: Series) -> str:
    """How long it took."""
    median, late, most = np.percentile([run.seconds * 1e3 for run in series.runs], (50, 99, 100))
    return (
        f"{series.scenario.name}: a {series.contender} took {median:.2f} ms, 99th percentile {late:.2f} ms, most "
        f"{most:.2f} ms ({len(series.runs)} times)"
    )
