"""A result, the same for all benches: machine, conditions and, for each scenario and contender, every run.

Medians and ratios are made of the runs when somebody asks, so that a file can't contradict itself.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.errors import BenchError
from bench.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one contender."""

    bytes: int
    """Of state."""
    seconds: float
    cpu_s: float
    """User and system time of both sides; of one side where only that one is here."""
    congestion: str
    """What was in use."""
    peak_bytes: int | None = None
    """Most that either side's process had in memory beyond the state, or None if that can't be told."""
    wire_bytes: int | None = None
    """What went over the connections in place of the state, or None if that can't be told."""

    @property
    def gbytes_per_s(self) -> float:
        """10^9 bytes a second."""
        return self.bytes / 1e9 / self.seconds

    @property
    def cpu_s_per_gb(self) -> float:
        """Processor seconds for 10^9 bytes: on a shared machine the steadier figure."""
        return self.cpu_s / (self.bytes / 1e9)


@dataclass(frozen=True)
class Spread:
    """What is said of several values."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of one value or more."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))

    def to_json(self, digits: int) -> dict[str, float]:
        """Rounded: the runs have every digit."""
        return {name: round(value, digits) for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Series:
    """All runs of one contender in one scenario, in the order they were made."""

    scenario: Scenario
    contender: str
    runs: tuple[Run, ...]

    @property
    def gbytes_per_s(self) -> Spread:
        """Of all runs."""
        return Spread.of(run.gbytes_per_s for run in self.runs)

    @property
    def cpu_s_per_gb(self) -> Spread:
        """Of all runs."""
        return Spread.of(run.cpu_s_per_gb for run in self.runs)

    @property
    def peak_bytes(self) -> Spread | None:
        """Of the runs of which it is known."""
        known = [run.peak_bytes for run in self.runs if run.peak_bytes is not None]
        return Spread.of(known) if known else None

    @property
    def wire_share(self) -> float | None:
        """Bytes on the wire for each of state, a median of the runs of which it is known."""
        known = [run.wire_bytes / run.bytes for run in self.runs if run.wire_bytes is not None]
        return statistics.median(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """The runs, and for readers what is made of them."""
        peak, share = self.peak_bytes, self.wire_share
        return {
            "scenario": self.scenario.to_json(),
            "contender": self.contender,
            "gbytes_per_s": self.gbytes_per_s.to_json(3),
            "cpu_s_per_gb": self.cpu_s_per_gb.to_json(4),
            "peak_bytes": None if peak is None else peak.to_json(0),
            "wire_share": None if share is None else round(share, 4),
            "runs": [dataclasses.asdict(run) for run in self.runs],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave. Raise `TypeError` or `KeyError` for anything else."""
        runs = tuple(Run(**run) for run in values["runs"])
        if not runs:
            raise KeyError("runs")
        return cls(Scenario.from_json(values["scenario"]), values["contender"], runs)


@dataclass(frozen=True)
class Ratio:
    """Ours over another in one family of scenarios, by medians."""

    ours: str
    other: str
    family: Scenario
    best: float
    """The best of all channel counts over the best of all channel counts."""
    by_channels: dict[int, float]
    """For those counts that both were run with."""
    cpu: float
    """Processor time per GB of those two bests: below 1 is less."""

    def to_json(self) -> dict[str, Any]:
        """Rounded; the family by its name."""
        counts = {str(channels): round(ratio, 3) for channels, ratio in self.by_channels.items()}
        rounded = {"best": round(self.best, 3), "by_channels": counts, "cpu": round(self.cpu, 3)}
        return {"ours": self.ours, "other": self.other, "family": self.family.name, **rounded}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that a table, a plot or a page shows."""

    machine: dict[str, Any]
    ours: tuple[str, ...]
    """Those contenders that are compared with all others."""
    series: tuple[Series, ...]
    conditions: dict[str, str] = field(default_factory=dict)
    """What else a figure depends on, in words."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Contenders that were not run, and why."""
    findings: tuple[str, ...] = ()
    """What was found beside the figures, a sentence each."""
    command: tuple[str, ...] = field(default_factory=lambda: ("python", "-m", "bench", *sys.argv[1:]))
    when: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def families(self) -> list[Scenario]:
        """In the order of the series."""
        return list(dict.fromkeys(series.scenario.family for series in self.series))

    def ratios(self) -> list[Ratio]:
        """Each of ours over each other, where both were run."""
        found = []
        for family in self.families():
            members = [series for series in self.series if series.scenario.family == family]
            names = list(dict.fromkeys(series.contender for series in members))
            ours = [name for name in names if name in self.ours]
            others = [name for name in names if name not in self.ours]
            found += [_ratio(family, here, there, members) for here in ours for there in others]
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "command": list(self.command),
            "when": self.when,
            "machine": self.machine,
            "conditions": self.conditions,
            "left_out": self.left_out,
            "findings": list(self.findings),
            "ours": list(self.ours),
            "series": [series.to_json() for series in self.series],
            "ratios": [ratio.to_json() for ratio in self.ratios()],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave. Raise `TypeError` or `KeyError` for anything else."""
        return cls(
            command=tuple(values["command"]),
            when=values["when"],
            machine=values["machine"],
            ours=tuple(values["ours"]),
            series=tuple(Series.from_json(series) for series in values["series"]),
            conditions=values["conditions"],
            left_out=values["left_out"],
            findings=tuple(values["findings"]),
        )


def read(path: Path) -> Result:
    """The result in a file that `--json` wrote. Raise `BenchError`."""
    try:
        return Result.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BenchError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BenchError(f"{path} is no result of a bench: write one with --json") from error


def _ratio(family: Scenario, ours: str, other: str, members: list[Series]) -> Ratio:
    """Each of both has a series at least."""
    by_channels = [
        {series.scenario.channels: series for series in members if series.contender == name} for name in (ours, other)
    ]
    here, there = (max(counts.values(), key=lambda each: each.gbytes_per_s.median) for counts in by_channels)
    return Ratio(
        ours,
        other,
        family,
        best=here.gbytes_per_s.median / there.gbytes_per_s.median,
        by_channels={
            channels: series.gbytes_per_s.median / by_channels[1][channels].gbytes_per_s.median
            for channels, series in by_channels[0].items()
            if channels in by_channels[1]
        },
        cpu=here.cpu_s_per_gb.median / there.cpu_s_per_gb.median,
    )
