"""The specification and the code say the same: constants that `proto/` quotes, and the tables of states."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from multifd import limits
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


def table(heading: str) -> dict[str, set[str]]:
    """State → states it goes to, of the table below a heading of states.md. Several final states share the last row."""
    text = (PROTO / "states.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    arcs = {}
    for states, _meaning, goes_to in rows[2:]:
        for state in states.split():
            arcs[state] = {after for after in re.split(r",\s*", goes_to) if after}
    return arcs


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
    assert names(SOURCE_TRANSITIONS) == table("1. Source")


def test_states_of_the_destination_are_those_of_the_specification() -> None:
    """The destination's states and transitions in the code are the table of states.md, no more and no less."""
    assert names(DESTINATION_TRANSITIONS) == table("2. Destination")
