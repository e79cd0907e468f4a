"""Rounds of which it is known what is dirty: large ones of lone pages, and many small ones in one session.

The source is this process, the destination a process of its own. Nobody writes: that pages are dirty is said, what they
hold stays as it is, and the digest of what arrived is compared with the source's after each session.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import uvloop

import multifd
from bench import machine
from bench.contender import tell
from bench.errors import BenchError
from bench.half import BLOCK, HalfRun, HalfSettings, SourceHalf
from bench.known_dirty import PAGE_BYTES, KnownDirty, RoundTook
from bench.memory import cpu_s_of
from bench.ours import NAME, verify
from bench.process import HalfProcess
from bench.result import Result, Run, Series
from bench.scenario import LOOPBACK, Scenario
from bench.throughput import VERIFIED, check, check_congestion
from multifd.errors import MultifdError
from multifd.limits import SWITCHOVER_FIXED_S
from multifd.memory.extents import Numbers

SINGLE, RANDOM, SMALL = "single-pages", "random-pages", "small-round"
"""Works: every second page, each an extent of its own; a random half, in which neighbours are one extent; 1 %."""
SMALL_SHARE = 0.01
NEVER_BUT_CLEAN_S = SWITCHOVER_FIXED_S
"""A downtime limit that only a stop with nothing to send can keep: any dirty page is another round, and at once."""
_MEMORY = "filled with random bytes and populated on both sides before the clock starts"
_TIMED = "a round lasts from the moment its sweep begins until the next one's does, which waits for it to be settled"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`repeat` sessions for each number of channels, each with one round of each of `works`, `rounds` times over."""

    settings: HalfSettings
    works: tuple[str, ...]
    channels: tuple[int, ...]
    rounds: int
    repeat: int
    link: str = LOOPBACK

    def scenario(self, work: str, channels: int) -> Scenario:
        """Of one of `works`."""
        settings = self.settings
        return Scenario(
            work=work, size=settings.size, channels=channels, piece_bytes=settings.slot_bytes,
            congestion=settings.congestion, link=self.link,
        )  # fmt: skip

    def sweeps(self) -> list[Numbers]:
        """Page numbers of each round of a session, in order; the same in every session."""
        random = np.random.default_rng(self.settings.seed)
        return [dirty_pages(work, self.settings.size, random) for _ in range(self.rounds) for work in self.works]


def dirty_pages(work: str, size: int, random: np.random.Generator) -> Numbers:
    """Numbers of the pages that are dirty in one round, ascending."""
    pages = size // PAGE_BYTES
    if work == SINGLE:
        return np.arange(int(random.integers(2)), pages, 2)
    count = pages // 2 if work == RANDOM else max(1, int(pages * SMALL_SHARE))
    return np.sort(random.choice(pages, count, replace=False, shuffle=False))


class RoundsHalf(SourceHalf):
    """The source's half: every run of it is a session with all rounds of the plan. `cpu_s` as `KnownDirty` wants it."""

    tracker: KnownDirty
    source: multifd.Source

    def __init__(self, plan: Plan, cpu_s: Callable[[], float]) -> None:
        super().__init__(plan.settings)
        self._cpu_s = cpu_s
        self._sweeps = [*plan.sweeps(), np.zeros(1, dtype=np.int64)]  # one page more: each round is followed by another
        self.moved = [len(sweep) * PAGE_BYTES for sweep in self._sweeps[:-1]]
        """Bytes of each round."""

    def _source(self, address: str, channels: int) -> multifd.Source:
        self.tracker = KnownDirty(self._sweeps, length=self.settings.size, cpu_s=self._cpu_s)
        self.source = multifd.Source(
            address,
            blocks=[multifd.BufferBlock(BLOCK, self.memory, page_size=PAGE_BYTES, tracker=self.tracker)],
            options=multifd.SourceOptions(
                channels=channels,
                slot_bytes=self.settings.slot_bytes,
                congestion_control=self.settings.congestion,
                downtime_limit_s=NEVER_BUT_CLEAN_S,
            ),
        )
        return self.source

    def session(self, address: str, channels: int) -> list[Run]:
        """Run once: all rounds. Raise `BenchError`."""
        try:
            uvloop.run(self.run(address, channels))
        except (MultifdError, OSError) as error:
            raise BenchError(str(error)) from error
        report = self.source.report
        assert report is not None, "it has run"
        return runs_of(self.tracker.rounds(), self.moved, report, first_bytes=self.settings.size)


def runs_of(
    rounds: Sequence[RoundTook], moved: Sequence[int], report: multifd.Report, *, first_bytes: int
) -> list[Run]:
    """The rounds as runs, of `moved` bytes each. Raise `BenchError` if something else was sent."""
    expected = first_bytes + sum(moved) + PAGE_BYTES
    if report.bytes_sent != expected or len(rounds) != len(moved):
        raise BenchError(f"{report.bytes_sent} bytes were sent in {len(rounds)} rounds, not {expected} in {len(moved)}")
    return [
        Run(bytes=size, seconds=took.seconds, cpu_s=took.cpu_s, congestion=report.congestion_control)
        for size, took in zip(moved, rounds, strict=True)
    ]


def local(plan: Plan) -> Result:
    """Run all sessions. Raise `BenchError`."""
    check(plan.settings, halves=2)
    facts = machine.describe()
    check_congestion(plan.settings, facts)
    made: dict[Scenario, list[Run]] = {
        plan.scenario(work, channels): [] for channels in plan.channels for work in plan.works
    }
    with HalfProcess("destination", plan.settings) as destination:
        source = RoundsHalf(plan, cpu_s=lambda: cpu_s_of(os.getpid()) + cpu_s_of(destination.pid))
        if destination.answer()["digest"] != source.expected:
            raise BenchError("the halves do not make the same bytes from the same seed")
        destination.ask({"open": "tcp://127.0.0.1:0"})
        address = destination.answer()["address"]
        for number in range(plan.repeat):
            for channels in plan.channels:
                tell(f"{' and '.join(plan.works)}, {channels} channels, session {number + 1} of {plan.repeat}")
                destination.ask({"run": None})
                runs = source.session(address, channels)
                verify(HalfRun(**destination.answer()))
                for work, run in zip(plan.works * plan.rounds, runs, strict=True):
                    made[plan.scenario(work, channels)].append(run)
    series = tuple(Series(scenario, NAME, tuple(runs)) for scenario, runs in made.items())
    return Result(
        machine=facts,
        ours=(NAME,),
        series=series,
        conditions={"memory": _MEMORY, "pages": source.pages, "time": _TIMED},
        findings=(*map(words, series), VERIFIED),
    )


def words(series: Series) -> str:
    """What a series came to: pages a second, and how evenly its rounds were done."""
    pages_per_s = [run.bytes / PAGE_BYTES / run.seconds for run in series.runs]
    name, count = series.scenario.name, len(series.runs)
    if series.scenario.work != SMALL:
        return (
            f"{name}: {np.median(pages_per_s) / 1e6:.2f} M pages/s (median of {count} rounds of "
            f"{series.runs[0].bytes // PAGE_BYTES} pages, {min(pages_per_s) / 1e6:.2f} to {max(pages_per_s) / 1e6:.2f})"
        )
    median, late, most = np.percentile([run.seconds * 1e3 for run in series.runs], (50, 99, 100))
    return (
        f"{name}: median {median:.2f} ms, 99th percentile {late:.2f} ms, {late / median:.2f} of the median, most "
        f"{most:.2f} ms ({count} rounds of {series.runs[0].bytes // PAGE_BYTES} pages)"
    )
