"""Results made up for tests: no process is started for them."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.result import Result, Run, Series
from bench.scenario import MEMORY, Scenario
from multifd.limits import GIB, KIB, MIB

FACTS: dict[str, Any] = {
    "cpus": 2, "cpu_model": "Example <1>", "kernel": "6.18", "python": "3.11.7", "memory_bytes": 8 * GIB,
    "congestion_control_default": "bbr", "congestion_control_available": ["reno", "cubic"],
    "transparent_huge_pages": "madvise", "load_average": 0.25, "busy_cores_before": 0.9, "idle_before": False,
    "commit": "0123456",
}  # fmt: skip
SCENARIO = Scenario(work=MEMORY, size=GIB, channels=1, piece_bytes=512 * KIB, congestion="cubic")


def run(gbytes_per_s: float, *, cpu_s: float = 0.25, peak: int | None = None) -> Run:
    """A gigabyte at such a rate."""
    return Run(bytes=10**9, seconds=1 / gbytes_per_s, cpu_s=cpu_s, congestion="cubic", peak_bytes=peak)


def series(contender: str, channels: int, *rates: float, cpu_s: float = 0.25, peak: int | None = None) -> Series:
    """A run for each rate."""
    scenario = dataclasses.replace(SCENARIO, channels=channels)
    return Series(scenario, contender, tuple(run(rate, cpu_s=cpu_s, peak=peak) for rate in rates))


def result(*others: Series) -> Result:
    """Three runs each: ours at 4 5 9 and 8 10 20 GB/s, iperf3's at 8 and 12.5, and what else there is."""
    return Result(
        machine=FACTS,
        ours=("multifd",),
        series=(
            series("multifd", 1, 5.0, 4.0, 9.0, peak=46 * MIB),
            series("iperf3", 1, 8.0, 8.0, 8.0, cpu_s=0.125),
            series("multifd", 4, 20.0, 8.0, 10.0, peak=46 * MIB),
            series("iperf3", 4, 12.5, 12.5, 12.5, cpu_s=0.125),
            *others,
        ),
        conditions={"pages": "huge pages, 2 MiB"},
        left_out={"C limit": "there is no compiler"},
        findings=("every run verified",),
    )
