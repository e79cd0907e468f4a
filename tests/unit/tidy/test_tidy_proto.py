"""The specification and the code say the same: constants that `proto/` quotes, and the tables of states."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from multifd import limits
from multifd.elements import CommandNumber, Phase
from multifd.session.qemu_states import (
    QEMU_COMMANDS,
    QEMU_DESTINATION_ELEMENTS,
    QEMU_DESTINATION_TRANSITIONS,
    QEMU_RAM_BEGINS,
    QEMU_RAM_ENDS,
    QEMU_SOURCE_TRANSITIONS,
    RELAY_TRANSITIONS,
    QemuDestinationState,
)
from multifd.session.states import DESTINATION_TRANSITIONS, SOURCE_TRANSITIONS

PROTO = Path(__file__).resolve().parents[3] / "proto"
PAGES = sorted(PROTO.glob("*.md"))

QUOTED = re.compile(r"`([A-Z][A-Z0-9_]*)` = (\d+(?:\.\d+)?)(?: (KiB|MiB|GiB|s|ms)\b)?")
NAMED = re.compile(r"`([A-Z][A-Z0-9_]*_(?:MAX|MIN|BYTES|TRIES|S))`")
State = TypeVar("State", bound=enum.Enum)

UNITS = {"": 1, "KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB, "s": 1, "ms": 0.001}


def quoted(text: str) -> list[tuple[str, float]]:
    """Constants that a page gives with their value, "`NAME` = 4 MiB"."""
    return [(name, float(number) * UNITS[unit]) for name, number, unit in QUOTED.findall(text)]


def table(heading: str, *, page: str = "states.md", first: str = "state") -> list[list[str]]:
    """The rows of a table below a heading, whose first column is called `first`."""
    text = (PROTO / page).read_text(encoding="utf-8")
    section = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    section = section.partition(f"\n| {first} |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    assert len(rows) > 2, heading
    return rows[2:]


def arcs(heading: str, *, page: str = "states.md") -> dict[str, set[str]]:
    """State → states it goes to. Several final states share the last row."""
    return {
        state: {after for after in re.split(r",\s*", goes_to) if after}
        for states, _meaning, goes_to in table(heading, page=page)
        for state in states.split()
    }


def names(transitions: Mapping[State, frozenset[State]]) -> dict[str, set[str]]:
    """The code's table in the words of the page."""
    return {state.name: {after.name for after in goes_to} for state, goes_to in transitions.items()}


def test_quoted_constants_are_read() -> None:
    """Plain numbers, units and fractions are read, and what is no value is not."""
    text = "`A_MAX` = 64), `B` = 1 MiB | `C_S` = 0.5 s. `D_MAX` = 4096 items; `E_MAX` is not given; `F`= 1"
    assert quoted(text) == [("A_MAX", 64), ("B", limits.MIB), ("C_S", 0.5), ("D_MAX", 4096)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_constants_of_the_specification_are_those_of_the_code(page: Path) -> None:
    """Every constant that a page gives a value has that value in limits.py, and every one it names is there."""
    text = page.read_text(encoding="utf-8")
    assert {name: getattr(limits, name, None) for name, _value in quoted(text)} == dict(quoted(text))
    assert [name for name in NAMED.findall(text) if not hasattr(limits, name)] == []


def test_the_specification_quotes_constants() -> None:
    """The pages give ten values and more, so that the comparison has something to compare."""
    assert len({name for page in PAGES for name, _value in quoted(page.read_text(encoding="utf-8"))}) > 10


def test_states_of_the_source_are_those_of_the_specification() -> None:
    """The source's states and transitions in the code are the table of states.md, no more and no less."""
    assert names(SOURCE_TRANSITIONS) == arcs("## 1. Source")


def test_states_of_the_destination_are_those_of_the_specification() -> None:
    """The destination's states and transitions in the code are the table of states.md, no more and no less."""
    assert names(DESTINATION_TRANSITIONS) == arcs("## 2. Destination")


def test_states_of_the_qemu_dialect_are_those_of_the_specification() -> None:
    """States and transitions of all machines in the code are the tables of qemu.md, no more and no less."""
    assert names(QEMU_SOURCE_TRANSITIONS) == arcs("### Source", page="qemu.md")
    assert names(QEMU_DESTINATION_TRANSITIONS) == arcs("### Destination", page="qemu.md")
    assert names(RELAY_TRANSITIONS) == arcs("### Relay", page="qemu.md")


ELEMENT_NAMES = {
    "Configuration": "configuration", "Section": "section of a device", "BlockList": "block list",
    "SyncMark": "MULTIFD_FLUSH", "ZeroRecords": "ZERO", "PageRecord": "PAGE", "EndOfState": "end of state",
    "Description": "VM description",
}  # fmt: skip
"""What qemu.md calls those elements that have one row."""


def test_elements_of_the_qemu_dialect_are_those_of_the_specification() -> None:
    """Which element a destination takes in which state is the table of qemu.md, row by row."""
    admitted: dict[str, frozenset[QemuDestinationState]] = {}
    for element, states in QEMU_DESTINATION_ELEMENTS.items():
        if element.__name__ in ELEMENT_NAMES:
            admitted[ELEMENT_NAMES[element.__name__]] = states
    admitted |= {CommandNumber(number).name: states for number, states in QEMU_COMMANDS.items()}
    admitted |= {f"{Phase(phase).name} of ram": states for phase, states in QEMU_RAM_BEGINS.items()}
    admitted |= {f"EOS of {Phase(phase).name}": states for phase, states in QEMU_RAM_ENDS.items()}
    assert len(ELEMENT_NAMES) + 3 == len(QEMU_DESTINATION_ELEMENTS)
    assert {row: {state.name for state in states} for row, states in admitted.items()} == {
        element: set(re.split(r",\s*", states))
        for element, states in table("### Destination", page="qemu.md", first="element")
    }
