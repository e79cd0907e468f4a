"""Looks and sweeps where nobody wrote, on a little memory."""

from __future__ import annotations

import mmap

import pytest

from bench import idle, machine
from bench.errors import BenchError
from bench.idle import LOOK, SWEEP, Plan
from bench.result import Run, Series
from multifd.limits import GIB, MIB
from multifd.memory import KernelTracker, TrackingError
from multifd.memory.choose import kernel_fault

PLAN = Plan(size=MIB, repeat=3)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at how busy the machine is takes no time."""
    monkeypatch.setattr(machine, "SAMPLE_S", 0)


@pytest.mark.skipif(kernel_fault() is not None, reason="this kernel does not track")
def test_looks_and_sweeps_are_timed() -> None:
    """Each as often as was asked for, and the tracker that was there is named."""
    made = idle.local(PLAN)
    assert [(each.contender, len(each.runs)) for each in made.series] == [(LOOK, 3), (SWEEP, 3)]
    assert made.ratios() == []
    assert made.conditions["tracker"].startswith("kernel (userfaultfd")


@pytest.mark.skipif(kernel_fault() is not None, reason="this kernel does not track")
def test_something_dirty_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of memory that somebody wrote to are none."""
    monkeypatch.setattr(KernelTracker, "count", lambda _: mmap.PAGESIZE)
    with pytest.raises(BenchError, match="something was dirty"):
        idle.local(PLAN)


def test_a_kernel_without_tracking_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason that the tracker gives."""

    def start(_: KernelTracker) -> None:
        raise TrackingError("no userfaultfd")

    monkeypatch.setattr(KernelTracker, "start", start)
    with pytest.raises(BenchError, match="the kernel can't track writes: no userfaultfd"):
        idle.local(PLAN)


def test_times_are_told() -> None:
    """Median, 99th percentile and the most, in milliseconds."""
    runs = tuple(Run(bytes=GIB, seconds=ms / 1e3, cpu_s=0, congestion="none") for ms in (4.0, 5.0, 6.0))
    assert "a look took 5.00 ms, 99th percentile 5.98 ms, most 6.00 ms (3 times)" in idle.words(
        Series(PLAN.scenario, LOOK, runs)
    )
