"""How much memory a piece of work takes at its worst: all of it, that of libraries written in C too."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

_SELF = Path("/proc/self")


class Growth:
    """`bytes`: by how much the process was larger at its largest than before."""

    bytes = 0


@contextlib.contextmanager
def peak_growth() -> Iterator[Growth]:
    """Measure what happens within. Skips the test where the kernel does not let a process forget its peak."""
    growth = Growth()
    gc.collect()
    try:
        (_SELF / "clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        pytest.skip(f"can't measure memory: {error}")
    before = _status("VmRSS")
    try:
        yield growth
    finally:
        growth.bytes = _status("VmHWM") - before


def _status(key: str) -> int:
    """A line of the process's status, bytes."""
    for line in (_SELF / "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {key}")
