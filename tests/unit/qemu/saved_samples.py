"""Machines to save: those of `qemu_machines`, and a way to get them into a folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from qemu_machines import memory_machine, state_of

from multifd import elements as e
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.saved import SavedMachine, SavingMachine

PAGE = e.PAGE_BYTES


def fill(saving: SavingMachine, machine: MemoryMachine, *, leave_out: frozenset[str] = frozenset()) -> None:
    """All that there is of `machine`, zero pages as zero pages. Nothing of the blocks that are left out."""
    state = machine.state
    targets = saving.begin(state.configuration, state.ram, state.blocks)
    page_size = state.configuration.page_size
    for block in state.blocks:
        if block.name in leave_out:
            continue
        contents = machine.contents(block.name)
        offsets = np.flatnonzero(contents.present) * page_size
        data = b"".join(bytes(contents.view[offset : offset + page_size]) for offset in offsets.tolist())
        for view in targets[block.name].place(offsets):
            view[:], data = data[: len(view)], data[len(view) :]
        targets[block.name].zero(np.flatnonzero(~contents.present) * page_size)


def save(path: Path, state: e.MachineState | None = None, *, leave_out: frozenset[str] = frozenset()) -> MemoryMachine:
    """Saves a machine of random pages, digests too; returns it."""
    machine = memory_machine(state or state_of())
    saving = SavingMachine(path)
    fill(saving, machine, leave_out=leave_out)
    saving.commit(machine.state)
    saving.digest(lambda _: None)
    return machine


def digests(machine: MemoryMachine) -> dict[str, str]:
    """SHA-256 of every block of a machine in memory."""
    return {name: hashlib.sha256(block.view).hexdigest() for name, block in machine.blocks.items()}


def ram(saved: SavedMachine) -> dict[str, bytes]:
    """All of a saved machine's RAM, block by block."""
    page_size = saved.state.configuration.page_size
    found = {}
    for block in saved.state.blocks:
        contents = saved.contents(block.name)
        if contents is not None:
            pages = np.frombuffer(contents.view, dtype=np.uint8).reshape(-1, page_size)
            found[block.name] = np.where(contents.present[:, np.newaxis], pages, np.uint8(0)).tobytes()
    return found


def with_configuration(state: e.MachineState, **changes: Any) -> e.MachineState:
    """The machine with another configuration."""
    return dataclasses.replace(state, configuration=dataclasses.replace(state.configuration, **changes))


def files(folder: Path) -> Mapping[str, int]:
    """Everything below a folder, hidden or not, with its mode."""
    return {str(path.relative_to(folder)): path.lstat().st_mode & 0o777 for path in folder.rglob("*")}
