"""The C limit: a program of our own that is compiled when it is needed."""

from __future__ import annotations

import pytest

from bench import c_limit
from multifd.limits import KIB, MIB

needs_compiler = pytest.mark.skipif(c_limit.compiler() is None, reason="there is no C compiler")


@needs_compiler
@pytest.mark.parametrize(("size", "channels"), [(8 * MIB, 2), (3 * MIB + 8, 4), (8, 3)])
def test_what_arrives_is_what_was_sent(size: int, channels: int) -> None:
    """Memory of any size, over any number of channels; the program compares both and fails if they differ."""
    with c_limit.compiled() as program:
        run = c_limit.run(program, size=size, channels=channels, congestion="reno")
    assert run.seconds > 0
    assert run.cpu_s > 0


@needs_compiler
def test_what_it_says_is_told() -> None:
    """With its own words; nothing of it is left."""
    with c_limit.compiled() as program, pytest.raises(c_limit.CLimitError, match="CHANNELS"):
        c_limit.run(program, size=64 * KIB, channels=1000, congestion="reno")
    assert not program.exists()


def test_without_a_compiler_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of the bench's, not of the system's."""
    monkeypatch.setattr(c_limit, "COMPILERS", ())
    with pytest.raises(c_limit.CLimitError, match="no C compiler"), c_limit.compiled():
        pass
