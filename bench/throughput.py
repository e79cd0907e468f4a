"""Throughput: random bytes, memory to memory, between two processes over TCP.

Both memories are filled and populated before the clock starts, runs of ours and of the baselines (the C limit, iperf3)
alternate, and the digest of what arrived is compared with the source's after each run. With --listen and --connect the
halves are on two hosts: give both the same --size, --channels and --repeat; there are no baselines then.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench import c_limit, iperf, machine, report
from bench.half import DestinationHalf, HalfRun, HalfSettings, SourceHalf
from bench.process import HalfError, HalfProcess
from multifd.cli.sizes import format_bytes
from multifd.errors import MultifdError
from multifd.limits import MIB

SPARE_BYTES = 512 * MIB  # memory that a run needs beside both halves' own
BASELINES = {"c_limit": "C limit", "iperf3": "iperf3"}
"""Their names in JSON and for people."""


class BenchError(Exception):
    """The measurement can't be made, or gave a wrong result."""


@dataclass(frozen=True)
class Plan:
    """What to run: each channel count `repeat` times."""

    settings: HalfSettings
    channels: tuple[int, ...]
    repeat: int

    def runs(self) -> list[int]:
        """The channel count of each run; all counts come once before any comes twice, so that drift hits all alike."""
        return [channels for _round in range(self.repeat) for channels in self.channels]


@dataclass
class Column:
    """What was measured with one channel count."""

    gbytes_per_s: list[float] = field(default_factory=list)
    cpu_s_per_gb: list[float] = field(default_factory=list)
    congestion_control: str = ""

    def add(self, *, size: int, seconds: float, cpu_s: float, congestion_control: str) -> None:
        """One run: `size` bytes in `seconds`."""
        self.gbytes_per_s.append(size / 1e9 / seconds)
        self.cpu_s_per_gb.append(cpu_s / (size / 1e9))
        self.congestion_control = congestion_control

    def to_json(self) -> dict[str, Any]:
        """Medians, and the spread of the throughput."""
        return {
            "gbytes_per_s": round(statistics.median(self.gbytes_per_s), 3),
            "gbytes_per_s_min": round(min(self.gbytes_per_s), 3),
            "gbytes_per_s_max": round(max(self.gbytes_per_s), 3),
            "cpu_s_per_gb": round(statistics.median(self.cpu_s_per_gb), 4),
            "congestion_control": self.congestion_control,
            "runs": [round(rate, 3) for rate in self.gbytes_per_s],
        }


@dataclass
class Measured:
    """One column for each channel count, ours and by baseline; those of a baseline that was not run are absent."""

    ours: dict[int, Column] = field(default_factory=dict)
    baselines: dict[str, dict[int, Column]] = field(default_factory=dict)


AddBaseline = Callable[[int, Column], None]
"""Runs a baseline once with so many channels."""


def local(plan: Plan, *, as_json: bool) -> int:
    """Both halves as processes of this machine, with iperf3 in between. Returns the exit status."""
    _check_memory(plan.settings, halves=2)
    facts = machine.describe()
    _check_congestion(plan.settings, facts)
    measured = Measured()
    try:
        with (
            _baselines(plan) as baselines,
            HalfProcess("source", plan.settings) as source,
            HalfProcess("destination", plan.settings) as destination,
        ):
            memory = [half.answer() for half in (source, destination)]
            if memory[0]["digest"] != memory[1]["digest"]:
                raise BenchError("the halves do not make the same bytes from the same seed")
            destination.ask({"open": "tcp://127.0.0.1:0"})
            address = destination.answer()["address"]
            for channels in plan.runs():
                _run_ours(plan, source, destination, address, channels, measured)
                for name, add in baselines.items():
                    column = measured.baselines.setdefault(name, {}).setdefault(channels, Column())
                    add(channels, column)
                    _tell(f"{BASELINES[name]}, {channels} channels: {column.gbytes_per_s[-1]:.2f} GB/s")
    except (HalfError, iperf.IperfError, c_limit.CLimitError) as error:
        raise BenchError(str(error)) from error
    pages = [half["pages"] for half in memory]
    report.show(result(plan, "both", address, facts, pages, measured), BASELINES, as_json=as_json)
    return 0


def listen(plan: Plan, address: str, *, as_json: bool) -> int:
    """The destination half alone, in this process, for a source on another host. Returns the exit status."""
    _check_memory(plan.settings, halves=1)
    facts = machine.describe()
    half = DestinationHalf(plan.settings)
    measured = Measured()

    async def serve() -> None:
        _tell(f"listening at {await half.open(address)} for {len(plan.runs())} runs")
        for channels in plan.runs():
            run = await half.run()
            verify(run)
            _add(measured, plan, run, run.cpu_s, channels)
        await half.close()

    _in_loop(serve())
    report.show(result(plan, "destination", address, facts, [half.pages], measured), BASELINES, as_json=as_json)
    return 0


def connect(plan: Plan, address: str, *, as_json: bool) -> int:
    """The source half alone, in this process, to a destination on another host. Returns the exit status."""
    _check_memory(plan.settings, halves=1)
    facts = machine.describe()
    _check_congestion(plan.settings, facts)
    half = SourceHalf(plan.settings)
    measured = Measured()

    async def send() -> None:
        for channels in plan.runs():
            run = await half.run(address, channels)
            _add(measured, plan, run, run.cpu_s, channels)

    _in_loop(send())
    report.show(result(plan, "source", address, facts, [half.pages], measured), BASELINES, as_json=as_json)
    return 0


def _run_ours(
    plan: Plan, source: HalfProcess, destination: HalfProcess, address: str, channels: int, measured: Measured
) -> None:
    destination.ask({"run": None})
    source.ask({"run": {"address": address, "channels": channels}})
    sent, received = HalfRun(**source.answer()), HalfRun(**destination.answer())
    verify(received)
    _add(measured, plan, sent, sent.cpu_s + received.cpu_s, channels)


def _run_c(program: Path, settings: HalfSettings, channels: int, column: Column) -> None:
    run = c_limit.run(program, size=settings.size, channels=channels, congestion=settings.congestion)
    column.add(size=settings.size, seconds=run.seconds, cpu_s=run.cpu_s, congestion_control=settings.congestion)


def _run_iperf(settings: HalfSettings, channels: int, column: Column) -> None:
    run = iperf.run(
        size=settings.size,
        channels=channels,
        write_bytes=min(settings.slot_bytes, iperf.WRITE_BYTES_MAX),
        congestion=settings.congestion,
    )
    column.add(size=run.bytes, seconds=run.seconds, cpu_s=run.cpu_s, congestion_control=run.congestion_control)


@contextlib.contextmanager
def _baselines(plan: Plan) -> Iterator[Mapping[str, AddBaseline]]:
    """Those that this machine can run, by name; says which it can't."""
    settings = plan.settings
    found: dict[str, AddBaseline] = {}
    with contextlib.ExitStack() as stack:
        if c_limit.compiler() is None:
            _tell("a C compiler is NOT INSTALLED: there is no C limit in what follows (Debian: apt-get install gcc)")
        elif machine.memory_available() < 4 * settings.size + SPARE_BYTES:
            _tell("there is NO MEMORY for the C limit beside ours: choose a smaller --size to have it in what follows")
        else:
            try:
                program = stack.enter_context(c_limit.compiled())
                found["c_limit"] = functools.partial(_run_c, program, settings)
            except c_limit.CLimitError as error:
                _tell(f"there is NO C LIMIT in what follows: {error}")
        if iperf.path() is None:
            _tell("iperf3 is NOT INSTALLED: it is not in what follows (Debian: apt-get install iperf3)")
        else:
            found["iperf3"] = functools.partial(_run_iperf, settings)
        yield found


def _add(measured: Measured, plan: Plan, run: HalfRun, cpu_s: float, channels: int) -> None:
    if run.bytes != plan.settings.size:
        raise BenchError(f"{run.bytes} bytes were moved, not {plan.settings.size}")
    column = measured.ours.setdefault(channels, Column())
    column.add(size=run.bytes, seconds=run.transfer_s, cpu_s=cpu_s, congestion_control=run.congestion_control)
    _tell(f"multifd, {channels} channels: {column.gbytes_per_s[-1]:.2f} GB/s")


def verify(run: HalfRun) -> None:
    """Raise `BenchError` unless the destination found what it expected."""
    if not run.verified:
        raise BenchError("what arrived is not what was sent: the digests differ")


def result(
    plan: Plan, side: str, address: str, facts: dict[str, Any], pages: Sequence[str], measured: Measured
) -> dict[str, Any]:
    """Everything in one object of plain values. `side` says whose figures: both, source or destination."""
    counts: dict[str, Any] = {}
    for channels, column in measured.ours.items():
        counts[str(channels)] = column.to_json()
        for name in BASELINES:
            theirs = measured.baselines.get(name, {}).get(channels)
            counts[str(channels)][name] = None if theirs is None else theirs.to_json()
            counts[str(channels)][f"ratio_to_{name}"] = None if theirs is None else _ratio([column], [theirs])
    ratios: dict[str, float | None] = dict.fromkeys(f"ratio_to_{name}" for name in BASELINES)
    for name, columns in measured.baselines.items():
        ratios[f"ratio_to_{name}"] = _ratio(measured.ours.values(), columns.values())
    return {
        "scenario": "throughput",
        "command": ["python", "-m", "bench", *sys.argv[1:]],
        "side": side,
        "address": address,
        "size_bytes": plan.settings.size,
        "slot_bytes": plan.settings.slot_bytes,
        "repeat": plan.repeat,
        "page_size": " and ".join(dict.fromkeys(pages)),
        "verified": None if side == "source" else True,  # anything else has ended the measurement; a source can't say
        "channels": counts,
        **ratios,
        "machine": facts,
    }


def _ratio(ours: Iterable[Column], theirs: Iterable[Column]) -> float:
    """The best median of ours over the best of theirs."""
    best = [max(statistics.median(column.gbytes_per_s) for column in columns) for columns in (ours, theirs)]
    return round(best[0] / best[1], 3)


def _check_memory(settings: HalfSettings, *, halves: int) -> None:
    needed, there = halves * settings.size + SPARE_BYTES, machine.memory_available()
    if needed > there:
        raise BenchError(
            f"this needs {format_bytes(needed)} of memory, {format_bytes(there)} are available: choose a smaller --size"
        )


def _check_congestion(settings: HalfSettings, facts: dict[str, Any]) -> None:
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


def _tell(words: str) -> None:
    """Progress, beside the result."""
    print(words, file=sys.stderr, flush=True)
