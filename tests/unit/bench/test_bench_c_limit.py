"""The C limit: a program of our own that is compiled when it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_results import SCENARIO

from bench import c_limit
from multifd.limits import KIB, MIB

needs_compiler = pytest.mark.skipif(c_limit.compiler() is None, reason="there is no C compiler")


@needs_compiler
@pytest.mark.parametrize(("size", "channels"), [(8 * MIB, 2), (3 * MIB + 8, 4), (8, 3)])
def test_what_arrives_is_what_was_sent(size: int, channels: int, tmp_path: Path) -> None:
    """Memory of any size, over any number of channels; the program compares both and fails if they differ."""
    run = c_limit.run(c_limit.compiled(tmp_path), size=size, channels=channels, congestion="reno")
    assert run.seconds > 0
    assert run.cpu_s > 0


@needs_compiler
def test_what_it_says_is_told(tmp_path: Path) -> None:
    """With its own words."""
    program = c_limit.compiled(tmp_path)
    with pytest.raises(c_limit.CLimitError, match="CHANNELS"):
        c_limit.run(program, size=64 * KIB, channels=1000, congestion="reno")


def test_without_a_compiler_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is left out, and says what to install."""
    monkeypatch.setattr(c_limit, "COMPILERS", ())
    assert "apt-get install gcc" in str(c_limit.CLimit(tmp_path).unable(SCENARIO))
