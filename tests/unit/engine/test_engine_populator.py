"""Tests of `multifd.engine.populator`."""

from __future__ import annotations

from multifd.engine.populator import Populator
from multifd.memory import BufferBlock
from multifd.memory.populate import allocate


def test_memory_is_populated_and_keeps_what_it_holds() -> None:
    """The report says how each block was populated, and nothing that was received meanwhile is lost."""
    memory = allocate(4 << 20)
    memory[5] = 7
    populator = Populator()
    populator.start([BufferBlock("ram", memory, tracker="none")])
    assert populator.join(10.0)
    assert populator.stop()
    got = populator.got
    assert list(got) == ["ram"]
    assert "pages" in got["ram"]
    assert memory[5] == 7


def test_halted_it_populates_no_more() -> None:
    """What was not begun when the owner stopped is told as not populated, and nobody waits for it."""
    populator = Populator()
    populator.halt()
    populator.start([BufferBlock("ram", allocate(4 << 20), tracker="none")])
    assert populator.stop()
    assert populator.got == {"ram": "not populated: ended at 0 %"}


def test_a_session_that_never_began_populates_nothing() -> None:
    """Stopping without a start is fine."""
    populator = Populator()
    assert populator.stop()
    assert populator.got == {}
