"""A machine in memory: pages go where they belong, zero pages are zero, and it can be sent on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu_machines import PAGE, contents, memory_machine, state_of

from multifd.errors import LocalProtocolError, StorageError
from multifd.qemu.memory_target import MemoryBlock, MemoryMachine, page_views

PAGES = 40


@given(numbers=st.lists(st.integers(0, PAGES - 1), max_size=PAGES, unique=True))
def test_views_are_the_pages_in_their_order(numbers: list[int]) -> None:
    """Whatever the order; neighbours are one view, so that there are as many as there are runs."""
    memory = memoryview(np.arange(PAGES, dtype=np.uint8).repeat(PAGE).tobytes())
    views = page_views(memory, np.array(numbers, dtype=np.int64) * PAGE, PAGE)
    assert b"".join(views) == b"".join(bytes([number]) * PAGE for number in numbers)
    runs = sum(number != before + 1 for before, number in zip([-9, *numbers], numbers, strict=False))
    assert len(views) == runs


def test_zero_pages_are_zero_whatever_was_there() -> None:
    """Those that were written are written again, the others are left alone."""
    block = MemoryBlock(4 * PAGE, PAGE)
    for view in block.place(np.array([0, PAGE])):
        view[:] = b"x" * len(view)
    block.zero(np.array([PAGE, 3 * PAGE]))
    assert block.present.tolist() == [True, False, False, False]
    assert bytes(block.view) == b"x" * PAGE + bytes(3 * PAGE)


def test_digests_are_of_all_of_it() -> None:
    """And whoever follows hears of every byte."""
    machine = memory_machine()
    heard: list[int] = []
    assert machine.digest(heard.append) == {
        name: hashlib.sha256(data).hexdigest() for name, data in contents(machine).items()
    }
    assert sum(heard) == sum(block.length for block in machine.blocks.values())


def test_a_machine_is_there_from_commit_to_abort() -> None:
    """Before, its state can't be had; after, nothing."""
    state, machine = state_of(), MemoryMachine()
    machine.begin(state.configuration, state.ram, state.blocks)
    assert not machine.committed
    with pytest.raises(LocalProtocolError):
        _ = machine.state
    machine.flush()
    machine.commit(state)
    assert machine.state is state
    machine.abort()
    machine.abort()
    assert not machine.committed
    assert machine.blocks == {}


def test_no_room_is_a_storage_error() -> None:
    """More than any machine has."""
    with pytest.raises(StorageError):
        MemoryBlock(1 << 60, 1 << 40)
