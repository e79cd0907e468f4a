"""Throughput: memory to memory between two processes over TCP.

Both memories are filled and populated before the clock starts, runs of ours and of the baselines (the C limit, iperf3)
alternate, and the digest of what arrived is compared with the source's after each run. The baselines copy random bytes
and nothing else: with --codec, --tls, --cold or a --work of anything else they are left out. With --listen and
--connect the halves are on two hosts: give both the same options; there are no baselines and no TLS then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import machine
from bench.c_limit import CLimit
from bench.contender import Contender, alternate, tell, who_runs
from bench.contents import WORKS
from bench.errors import BenchError
from bench.half import DestinationHalf, HalfSettings, SourceHalf
from bench.iperf import Iperf
from bench.ours import NAME, Ours, run_of, verify
from bench.result import Result, Run, Series
from bench.scenario import LOOPBACK, MEMORY, PLAIN, RAM, ZEROS, Scenario
from multifd.cli.sizes import format_bytes
from multifd.codec import NONE
from multifd.errors import MultifdError
from multifd.limits import MIB

SPARE_BYTES = 512 * MIB  # memory that a run needs beside both halves' own
VERIFIED = "every run verified: the digest of what arrived is that of what was sent"


@dataclass(frozen=True)
class Plan:
    """What to run: each channel count `repeat` times."""

    settings: HalfSettings
    channels: tuple[int, ...]
    repeat: int
    link: str = LOOPBACK

    def scenarios(self) -> list[Scenario]:
        """One for each channel count."""
        settings = self.settings
        return [
            Scenario(
                work=settings.work,
                size=settings.size,
                channels=channels,
                piece_bytes=settings.slot_bytes,
                congestion=settings.congestion,
                compression=settings.codec,
                link=self.link,
                security=settings.security,
                cold=settings.cold,
            )
            for channels in self.channels
        ]


class Beside(Contender):
    """The place beside ours of one that copies bytes, if that is what is to be done, and if there is memory for both.

    `memories`: how many it has of its own.
    """

    def __init__(self, other: Contender, *, memories: int = 2) -> None:
        self.name = other.name
        self._other = other
        self._memories = memories

    def unable(self, scenario: Scenario) -> str | None:
        """The memories of our halves stay while the other runs."""
        if (beyond := beyond_copying(scenario)) is not None:
            return f"it copies random bytes as they are to populated memory, which is no measure for {beyond}"
        if machine.memory_available() < (2 + self._memories) * scenario.size + SPARE_BYTES:
            return "there is no memory for it beside ours: choose a smaller --size"
        return self._other.unable(scenario)

    def run(self, scenario: Scenario) -> Run:
        """As the other does."""
        return self._other.run(scenario)


def beyond_copying(scenario: Scenario) -> str | None:
    """What there is in a scenario for which copying random bytes is no measure; None if there is nothing."""
    reasons = {
        f"work {scenario.work}": scenario.work not in (MEMORY, RAM),
        f"compression ({scenario.compression})": scenario.compression != NONE,
        "TLS": scenario.security != PLAIN,
        "cold destination": scenario.cold,
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds) or None


def local(plan: Plan, others: Iterable[Contender] = ()) -> Result:
    """Both halves as processes of this machine, alternating with the baselines and `others`. Raise `BenchError`."""
    check(plan.settings, halves=2)
    facts = machine.describe()
    check_congestion(plan.settings, facts)
    ours = Ours(plan.settings)
    with tempfile.TemporaryDirectory(prefix="multifd-bench-") as folder:
        contenders = (ours, Beside(CLimit(Path(folder))), Beside(Iperf(), memories=0), *map(Beside, others))
        pairs, left_out = who_runs(contenders, plan.scenarios())
        series = alternate(pairs, repeat=plan.repeat)
    return Result(
        machine=facts,
        ours=(NAME,),
        series=series,
        conditions=conditions(plan.settings, pages=ours.pages, security=ours.security),
        left_out=left_out,
        findings=(VERIFIED,),
    )


def listen(plan: Plan, address: str) -> Result:
    """The destination half alone, in this process, for a source on another host. Raise `BenchError`."""
    check(plan.settings, halves=1)
    facts = machine.describe()
    half = DestinationHalf(plan.settings)
    runs: dict[Scenario, list[Run]] = {scenario: [] for scenario in plan.scenarios()}

    async def serve() -> None:
        tell(f"listening at {await half.open(address)} for {plan.repeat * len(runs)} runs")
        for _round in range(plan.repeat):
            for scenario, made in runs.items():
                run = await half.run()
                verify(run)
                made.append(run_of(run, scenario))
        await half.close()

    _in_loop(serve())
    return _of_one_half("destination", facts, half, runs, findings=(VERIFIED,))


def connect(plan: Plan, address: str) -> Result:
    """The source half alone, in this process, to a destination on another host. Raise `BenchError`."""
    check(plan.settings, halves=1)
    facts = machine.describe()
    check_congestion(plan.settings, facts)
    half = SourceHalf(plan.settings)
    runs: dict[Scenario, list[Run]] = {scenario: [] for scenario in plan.scenarios()}

    async def send() -> None:
        for _round in range(plan.repeat):
            for scenario, made in runs.items():
                made.append(run_of(await half.run(address, scenario.channels), scenario))

    _in_loop(send())
    return _of_one_half("source", facts, half, runs, findings=())  # only the side that has the digest can verify


def _of_one_half(
    role: str,
    facts: dict[str, Any],
    half: SourceHalf | DestinationHalf,
    runs: dict[Scenario, list[Run]],
    *,
    findings: tuple[str, ...],
) -> Result:
    alone = f"processor time, peak memory and machine are the {role}'s alone"
    return Result(
        machine=facts,
        ours=(NAME,),
        series=tuple(Series(scenario, NAME, tuple(made)) for scenario, made in runs.items()),
        conditions={**conditions(half.settings, pages=half.pages, security=half.settings.security), "side": alone},
        findings=findings,
    )


def conditions(settings: HalfSettings, *, pages: str, security: str) -> dict[str, str]:
    """What figures depend on beside machine and scenario."""
    work = WORKS[settings.work]
    where = "at the source, and not at the destination," if settings.cold else "on both sides"
    return {
        "memory": f"{work.words}; populated {where} before the clock starts",
        "zero detection": "on" if work.zero_detection else "off",
        "pages": pages,
        "security": security,
    }


def check(settings: HalfSettings, *, halves: int) -> None:
    """Raise `BenchError` unless there is room for so many, and something to verify."""
    if settings.cold and settings.work == ZEROS:
        raise BenchError("cold memory holds zeros already: that they arrived could not be verified; leave out --cold")
    needed, there = halves * settings.size + SPARE_BYTES, machine.memory_available()
    if needed > there:
        raise BenchError(
            f"this needs {format_bytes(needed)} of memory, {format_bytes(there)} are available: choose a smaller --size"
        )


def check_congestion(settings: HalfSettings, facts: dict[str, Any]) -> None:
    """Raise `BenchError` unless the kernel has it."""
    available = facts["congestion_control_available"]
    if settings.congestion not in available:
        raise BenchError(
            f"congestion control {settings.congestion} is not among {', '.join(available)}; see --congestion"
        )


def _in_loop(work: Coroutine[Any, Any, None]) -> None:
    try:
        uvloop.run(work)
    except (MultifdError, OSError) as error:
        raise BenchError(str(error)) from error
