"""The C limit: `c_limit.c` beside this file, a thread per channel, memory to memory of another process over loopback.

It has no protocol, no checksum and no scan: what a C program without any of them reaches on the same sockets. It is
compiled each time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Contender
from bench.errors import BenchError
from bench.result import Run
from bench.scenario import Scenario

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-Wall", "-Wextra", "-pthread")
SLOT_BYTES = 512 * 1024
"""What it sends and receives at a time: the size at which it is fastest."""
RUN_DEADLINE_S = 600.0


class CLimitError(BenchError):
    """It could not be compiled or run, or what arrived was not what it sent."""


@dataclass(frozen=True)
class CLimitRun:
    """One run, both memories compared afterwards. `cpu_s` is user and system time of both processes meanwhile."""

    seconds: float
    cpu_s: float


def compiler() -> str | None:
    """A C compiler, or None."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def compiled(folder: Path) -> Path:
    """The program, in this folder. Raise `CLimitError`."""
    found = compiler()
    if found is None:
        raise CLimitError("a C compiler is NOT INSTALLED (Debian: apt-get install gcc libc6-dev)")
    program = folder / SOURCE.stem
    _run([found, *FLAGS, "-o", str(program), str(SOURCE)])
    return program


class CLimit(Contender):
    """The C limit, compiled in `folder`."""

    name = "C limit"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def unable(self, scenario: Scenario) -> str | None:  # noqa: ARG002
        """It needs a C compiler that works."""
        try:
            compiled(self._folder)
        except CLimitError as error:
            return str(error)
        return None

    def run(self, scenario: Scenario) -> Run:
        """Move as many bytes, 512 KiB at a time. Raise `CLimitError`."""
        program = self._folder / SOURCE.stem
        made = run(program, size=scenario.size, channels=scenario.channels, congestion=scenario.congestion)
        return Run(bytes=scenario.size, seconds=made.seconds, cpu_s=made.cpu_s, congestion=scenario.congestion)


def run(program: Path, *, size: int, channels: int, congestion: str) -> CLimitRun:
    """Move `size` bytes over `channels` connections; the socket buffers are the kernel's. Raise `CLimitError`."""
    output = _run([str(program), str(size), str(channels), str(SLOT_BYTES), congestion])
    try:
        found = json.loads(output)
        return CLimitRun(float(found["seconds"]), float(found["cpu_s"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CLimitError(f"{SOURCE.name} wrote {output[:200]!r}") from error


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=RUN_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CLimitError(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        raise CLimitError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout
