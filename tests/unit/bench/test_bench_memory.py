"""The memory of one side: filled, wiped and cooled."""

from __future__ import annotations

import os
import time

import pytest

from bench.contents import WORKS
from bench.memory import Memory, cpu_s_of
from multifd.limits import KIB

SIZE = 256 * KIB


@pytest.mark.parametrize("work", WORKS)
def test_a_wiped_destination_is_not_taken_for_a_full_one(work: str) -> None:
    """Whatever is to arrive, zeros too: what is there before has another digest."""
    memory = Memory(SIZE)
    memory.fill(work)
    expected = memory.digest()
    memory.wipe()
    assert memory.digest() != expected
    memory.fill(work)
    assert memory.digest() == expected


def test_cold_memory_is_as_new() -> None:
    """Nothing of what was in it is left."""
    memory = Memory(SIZE)
    memory.fill()
    memory.cool()
    assert bytes(memory.buffer) == bytes(SIZE)


def test_processor_time_of_a_process_is_told() -> None:
    """Of this one it is what the kernel says of it otherwise."""
    before = time.process_time()
    assert before <= cpu_s_of(os.getpid()) <= time.process_time()
