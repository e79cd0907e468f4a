"""The C limit: `c_limit.c` beside this file, a thread per channel, memory to memory of another process over loopback.

It has no protocol, no checksum and no scan: what a C program without any of them reaches on the same sockets. It is
compiled each time, in a directory that is gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-Wall", "-Wextra", "-pthread")
SLOT_BYTES = 512 * 1024
"""What it sends and receives at a time: the size at which it is fastest."""
RUN_DEADLINE_S = 600.0


class CLimitError(Exception):
    """It could not be compiled or run, or what arrived was not what it sent."""


@dataclass(frozen=True)
class CLimitRun:
    """One run, both memories compared afterwards. `cpu_s` is user and system time of both processes meanwhile."""

    seconds: float
    cpu_s: float


def compiler() -> str | None:
    """A C compiler, or None."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


@contextlib.contextmanager
def compiled() -> Iterator[Path]:
    """The program, while the context lasts. Raise `CLimitError`."""
    found = compiler()
    if found is None:
        raise CLimitError("there is no C compiler")
    with tempfile.TemporaryDirectory(prefix="multifd-bench-") as folder:
        program = Path(folder) / SOURCE.stem
        _run([found, *FLAGS, "-o", str(program), str(SOURCE)])
        yield program


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
