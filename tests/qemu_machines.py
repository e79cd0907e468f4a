"""Machines to send: small ones, in memory, with pages of every sort."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from multifd import elements as e
from multifd.qemu.memory_target import MemoryMachine

PAGE = e.PAGE_BYTES
UUID = bytes(range(16))


def device(name: str, body: bytes = b"state of it", *, instance: int = 0, number: int = 20) -> e.Section:
    """A FULL section."""
    return e.Section(e.Phase.FULL, e.SectionHeader(number, name, instance, 1), body)


DEVICES = (device("timer"), device("cpu", bytes(1851), number=21), device("cpu", b"second", instance=1, number=22))
EARLY = (device("0000:00:02.0/virtio-mem-device-early", b"plugged", number=30),)


def description_of(sections: Sequence[e.Section]) -> bytes:
    """A VM description that fits."""
    devices = [
        {
            "name": each.header.name,
            "instance_id": each.header.instance,
            "vmsd_name": each.header.name,
            "version": each.header.version,
            "fields": [{"name": "all", "type": "buffer", "size": len(each.body)}],
        }
        for each in sections
    ]
    return json.dumps({"page_size": PAGE, "devices": devices}).encode()


def state_of(
    machine: str = "pc-q35-10.0", *, pages: int = 700, early: tuple[e.Section, ...] = EARLY, described: bool = True
) -> e.MachineState:
    """A machine with a block of so many pages, and two small ones."""
    return e.MachineState(
        e.Configuration(machine),
        early,
        e.SectionHeader(2, "ram", 0, 4),
        (e.RamBlock("m", pages * PAGE), e.RamBlock("pc.bios", 16 * PAGE), e.RamBlock("/rom@etc/acpi/rsdp", PAGE)),
        machine.endswith(("10.0", "11.0", "11.1")),
        DEVICES,
        description_of((*early, *DEVICES)) if described else None,
        UUID,
    )


def memory_machine(state: e.MachineState | None = None, *, seed: int = 1) -> MemoryMachine:
    """A machine of random pages. Of the first block every third page is zero, and a stretch of 200."""
    state = state or state_of()
    machine = MemoryMachine()
    machine.begin(state.configuration, state.ram, state.blocks)
    rng = np.random.default_rng(seed)
    for number, (name, block) in enumerate(machine.blocks.items()):
        flags = np.ones(len(block.present), dtype=np.bool_)
        if number == 0:
            flags[::3] = False
            flags[150:350] = False
        offsets = np.flatnonzero(flags) * PAGE
        for view in machine.blocks[name].place(offsets):
            view[:] = rng.bytes(len(view))
    machine.commit(state)
    return machine


def contents(machine: MemoryMachine) -> dict[str, bytes]:
    """All of its RAM."""
    return {name: bytes(block.view) for name, block in machine.blocks.items()}
