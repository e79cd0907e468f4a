"""A peer as a contender: both sides as processes, started anew for each run, and their reports put together."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from bench.contender import Contender
from bench.errors import BenchError
from bench.peers.side import Connect, SideReport, Task
from bench.process import environment
from bench.result import Run
from bench.scenario import Scenario
from multifd.limits import CHANNELS_MAX

RUN_DEADLINE_S = 600.0
STDERR_BYTES = 600  # of a side that failed: its last words


@dataclass(frozen=True, kw_only=True)
class Peer(Contender):
    """Two processes that run the same `connect`."""

    name: str
    connect: Connect
    package: str
    """What Python must be able to import."""
    install: str
    """The command that installs it."""
    channels_max: int = CHANNELS_MAX
    """1 for a peer that does not let one choose: it makes its own connections, and is run once for all counts."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its processes' environment."""

    def unable(self, scenario: Scenario) -> str | None:
        """It must be installed, and take so many channels."""
        if importlib.util.find_spec(self.package) is None:
            return f"it is NOT INSTALLED ({self.install})"
        if scenario.channels > self.channels_max:
            return f"it runs with --channels {self.channels_max} only, whatever connections it makes then"
        return None

    def run(self, scenario: Scenario) -> Run:
        """Start both sides and wait for them. Raise `BenchError`."""
        task = task_of(scenario).to_json()
        ends = socket.socketpair()
        commands = []
        for role, end in zip(("source", "destination"), ends, strict=True):
            commands.append([*PYTHON, "bench.peers.side", self.name, role, task, str(end.fileno())])
        try:
            outputs = run_together(self.name, commands, self.variables, [end.fileno() for end in ends], close=ends)
        finally:
            for end in ends:
                end.close()
        return put_together(self.name, [SideReport(**json.loads(output)) for output in outputs], scenario)


PYTHON = (sys.executable, "-P", "-m")


def task_of(scenario: Scenario) -> Task:
    """What the sides need of it."""
    return Task(size=scenario.size, channels=scenario.channels, congestion=scenario.congestion)


def run_together(
    name: str,
    commands: Sequence[Sequence[str]],
    variables: Mapping[str, str],
    keep: Sequence[int] = (),
    close: Sequence[socket.socket] = (),
) -> list[str]:
    """The last line that each writes to stdout (libraries write others). The first that fails ends all: `BenchError`.

    `keep`: a descriptor for each, which it inherits. `close`: what the parent then has no more use for.
    """
    children = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), **variables},
            pass_fds=keep[number : number + 1],
        )
        for number, command in enumerate(commands)
    ]
    for each in close:  # a side whose other side is gone must not wait for the parent's copy
        each.close()
    with ThreadPoolExecutor(len(children)) as pool:
        waiting = [pool.submit(_output, name, child) for child in children]
        done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
        for child in children:
            child.kill()  # of no effect if all went well
    first = next((each for each in done if each.exception()), None)
    return [first.result()] if first else [each.result() for each in waiting]


def put_together(name: str, reports: Sequence[SideReport], scenario: Scenario) -> Run:
    """A run, of the source's report and the destination's. Raise `BenchError` if the memories differ."""
    source, destination = reports
    if source.digest != destination.digest:
        raise BenchError(f"{name}: what arrived is not what was sent: the digests differ")
    peaks = [report.peak_bytes for report in reports if report.peak_bytes is not None]
    return Run(
        bytes=scenario.size,
        seconds=max(source.ended, destination.ended) - source.began,
        cpu_s=source.cpu_s + destination.cpu_s,
        congestion=scenario.congestion,
        peak_bytes=max(peaks, default=None),
    )


def _output(name: str, child: subprocess.Popen[str]) -> str:
    try:
        output, errors = child.communicate(timeout=RUN_DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{name} did not end within {RUN_DEADLINE_S} s") from error
    if child.returncode:
        words = " ".join(errors[-STDERR_BYTES:].split())
        raise BenchError(f"{name} failed with status {child.returncode}: {words or 'it said nothing'}")
    if not output.strip():
        raise BenchError(f"{name} ended without a report")
    return output.splitlines()[-1]
