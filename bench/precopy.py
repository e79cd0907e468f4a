"""Precopy: memory that a process keeps writing to, moved within a downtime limit; beside it the same without a writer.

The demo's stage: the workload is a process of its own that shares its memory with the source, the kernel finds out what
it writes, and it goes on at the destination. Both sides' memory is compared, as it was at the stop, after each run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import uvloop

from bench import machine
from bench.contender import tell
from bench.errors import BenchError
from bench.memory import cpu_s_of
from bench.ours import NAME
from bench.result import Result, Run, Series
from bench.scenario import LOOPBACK, Scenario
from multifd.cli.demo_stage import Stage
from multifd.cli.demo_state import BLOCK, DemoOptions
from multifd.cli.ending import UsageError
from multifd.codec import NONE
from multifd.errors import MultifdError
from multifd.limits import SLOT_BYTES

STILL = f"{NAME}, nobody writes"
DEADLINE_S = 120.0  # of a migration that does not converge
_MEMORY = "half of it random, a quarter zero, a quarter text; populated on both sides before the clock starts"
_TIMED = "of a migration from its first connection to its end"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`repeat` migrations with the writer, and as many without, alternating, for each number of channels."""

    size: int
    channels: tuple[int, ...]
    repeat: int
    dirty_mib_per_s: float
    downtime_limit_ms: float
    congestion: str
    link: str = LOOPBACK

    def scenario(self, channels: int) -> Scenario:
        """Named after writer and limit as well: every figure depends on them."""
        return Scenario(
            work=f"precopy-{self.dirty_mib_per_s:g}MiB/s-{self.downtime_limit_ms:g}ms", size=self.size,
            channels=channels, piece_bytes=SLOT_BYTES, congestion=self.congestion, link=self.link,
        )  # fmt: skip

    def options(self, channels: int, dirty_mib_per_s: float) -> DemoOptions:
        """Of one migration."""
        return DemoOptions(
            size=self.size,
            devices=0,
            channels=channels,
            dirty_mib_per_s=dirty_mib_per_s,
            downtime_limit_s=self.downtime_limit_ms / 1000,
            deadline_s=DEADLINE_S,
            device_setup_s=0.0,
            explicit_switchover=True,
            codec=NONE,
        )


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One migration."""

    run: Run
    downtime_ms: float
    rounds: int
    tracker: str


def local(plan: Plan) -> Result:
    """Run all of them. Raise `BenchError`."""
    facts = machine.describe()
    made: dict[tuple[int, str], list[Moved]] = {}
    for number in range(plan.repeat):
        for channels in plan.channels:
            for who, rate in ((NAME, plan.dirty_mib_per_s), (STILL, 0.0)):
                moved = migrate(plan.options(channels, rate))
                tell(
                    f"{who}, {channels} channels, run {number + 1} of {plan.repeat}: {moved.run.seconds:.2f} s, "
                    f"{moved.rounds} rounds, stopped for {moved.downtime_ms:.1f} ms"
                )
                made.setdefault((channels, who), []).append(moved)
    return result(plan, facts, made)


def migrate(options: DemoOptions) -> Moved:
    """Make both sides, move, compare. Raise `BenchError`."""
    try:
        return uvloop.run(_migrate(options))
    except (MultifdError, UsageError, OSError) as error:
        raise BenchError(str(error)) from error


async def _migrate(options: DemoOptions) -> Moved:
    async with AsyncExitStack() as stack:
        stage = await Stage.open(options, stack)
        both = (os.getpid(), stage.destination.pid)
        before = sum(map(cpu_s_of, both))
        report = await stage.source.run()
        cpu_s = sum(map(cpu_s_of, both)) - before
        if not (await stage.compare()).verified:
            raise BenchError("both sides differ after the migration")
    assert report.downtime_ms is not None, "it has stopped its owner, as it has completed"
    run = Run(bytes=options.size, seconds=report.elapsed_s, cpu_s=cpu_s, congestion=report.congestion_control)
    return Moved(run=run, downtime_ms=report.downtime_ms, rounds=report.rounds, tracker=report.trackers[BLOCK])


def result(plan: Plan, facts: dict[str, object], made: dict[tuple[int, str], list[Moved]]) -> Result:
    """The result of all migrations, by channels and name."""
    return Result(
        machine=facts,
        ours=(NAME,),
        series=tuple(
            Series(plan.scenario(channels), who, tuple(each.run for each in moved))
            for (channels, who), moved in made.items()
        ),
        conditions={"memory": _MEMORY, "tracker": made[plan.channels[0], NAME][0].tracker, "time": _TIMED},
        findings=(
            *(words(plan, channels, made[channels, NAME], made[channels, STILL]) for channels in plan.channels),
            "every run verified: memory at the stop was equal on both sides, and the workload went on from there",
        ),
    )


def words(plan: Plan, channels: int, written: Sequence[Moved], still: Sequence[Moved]) -> str:
    """Stops against the limit, and the time against that without a writer."""
    stops = sorted(each.downtime_ms for each in written)
    kept = sum(stop <= plan.downtime_limit_ms for stop in stops)
    ratio = np.median([each.run.seconds for each in written]) / np.median([each.run.seconds for each in still])
    return (
        f"{plan.scenario(channels).name}: downtime within the limit of {plan.downtime_limit_ms:g} ms in {kept} of "
        f"{len(stops)} (median {np.median(stops):.1f} ms, {stops[0]:.1f} to {stops[-1]:.1f}); "
        f"{min(each.rounds for each in written)} to {max(each.rounds for each in written)} rounds; "
        f"{ratio:.2f} of the time that it takes when nobody writes (medians)"
    )
