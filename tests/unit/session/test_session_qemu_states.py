"""The tables of QEMU's dialect are total and sane, and the machines handle all that the tables admit."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import pytest
from qemu_pair import BLOCKS, DEVICES, RAM, command

from multifd import elements as e
from multifd.elements import CommandNumber, Phase
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.session.qemu_states import (
    QEMU_COMMANDS,
    QEMU_DESTINATION_ELEMENTS,
    QEMU_DESTINATION_TRANSITIONS,
    QEMU_RAM_BEGINS,
    QEMU_RAM_ENDS,
    QEMU_SOURCE_MESSAGES,
    QEMU_SOURCE_TRANSITIONS,
    QemuDestinationState,
    QemuSourceState,
    check_qemu_destination_move,
    check_qemu_element,
    check_qemu_source_message,
    check_qemu_source_move,
)

D = QemuDestinationState
S = QemuSourceState
State = TypeVar("State", bound=enum.Enum)

PAGE = Path(__file__).resolve().parents[3] / "proto" / "qemu.md"
ELEMENTS: list[e.StreamElement] = [
    e.Configuration("pc-q35-10.0"),
    *(command(number) for number in CommandNumber),
    *(e.RamBegins(phase, RAM) for phase in Phase),
    *(e.RamEnds(phase) for phase in Phase),
    e.BlockList(BLOCKS),
    e.ZeroRecords("pc.ram", np.array([0])),
    e.PageRecord("pc.ram", 0, bytes(4096)),
    e.SyncMark(),
    DEVICES[0],
    e.EndOfState(),
    e.Description(b""),
]


def reached(transitions: Mapping[State, frozenset[State]], start: State) -> set[State]:
    """All states that one can come to from `start`, itself among them."""
    found, left = {start}, [start]
    while left:
        new = transitions[left.pop()] - found
        found |= new
        left += new
    return found


def admitted(state: D, element: e.StreamElement) -> bool:
    """Whether the tables have this pair."""
    legal = state in QEMU_DESTINATION_ELEMENTS[type(element)]
    if isinstance(element, e.Command):
        legal = legal and state in QEMU_COMMANDS.get(element.number, ())
    elif isinstance(element, e.RamBegins):
        legal = legal and state in QEMU_RAM_BEGINS.get(element.phase, ())
    elif isinstance(element, e.RamEnds):
        legal = legal and state in QEMU_RAM_ENDS.get(element.phase, ())
    return legal


def table(heading: str, columns: int) -> dict[str, set[str]]:
    """First cell → names in the last, of the table with so many columns below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## 14. ")[2].partition("\n## ")[0]
    lines = section.partition(f"\n### {heading}\n")[2].partition("\n### ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    rows = [row for row in rows if len(row) == columns and row[0] not in ("state", "element", "---")]
    return {row[0]: {name for name in re.split(r",\s*", row[-1]) if name} for row in rows}


@pytest.mark.parametrize(
    ("heading", "transitions"), [("Destination", QEMU_DESTINATION_TRANSITIONS), ("Source", QEMU_SOURCE_TRANSITIONS)]
)
def test_transitions_are_those_of_the_specification(
    heading: str, transitions: Mapping[State, frozenset[State]]
) -> None:
    """States and transitions are the page's, no more and no less; its last row has all final states."""
    rows = {state: after for states, after in table(heading, 3).items() for state in states.split()}
    assert rows == {state.name: {each.name for each in after} for state, after in transitions.items()}


def test_elements_are_those_of_the_specification() -> None:
    """Which element is legal in which state is the page's, no more and no less."""
    words: dict[str, frozenset[D]] = {
        "configuration": QEMU_DESTINATION_ELEMENTS[e.Configuration],
        "section of a device": QEMU_DESTINATION_ELEMENTS[e.Section],
        "block list": QEMU_DESTINATION_ELEMENTS[e.BlockList],
        "MULTIFD_FLUSH": QEMU_DESTINATION_ELEMENTS[e.SyncMark],
        "ZERO": QEMU_DESTINATION_ELEMENTS[e.ZeroRecords],
        "PAGE": QEMU_DESTINATION_ELEMENTS[e.PageRecord],
        "end of state": QEMU_DESTINATION_ELEMENTS[e.EndOfState],
        "VM description": QEMU_DESTINATION_ELEMENTS[e.Description],
        **{number.name: states for number, states in QEMU_COMMANDS.items()},
        **{f"{phase.name} of ram": states for phase, states in QEMU_RAM_BEGINS.items()},
        **{f"EOS of {phase.name}": states for phase, states in QEMU_RAM_ENDS.items()},
    }
    assert table("Destination", 2) == {word: {each.name for each in states} for word, states in words.items()}


def test_tables_know_every_state_and_every_element() -> None:
    """No state lacks a row, and every element and message is for some state."""
    assert set(QEMU_DESTINATION_TRANSITIONS) == set(D)
    assert set(QEMU_SOURCE_TRANSITIONS) == set(S)
    assert set(QEMU_DESTINATION_ELEMENTS) == set(get_args(e.StreamElement)) == {type(each) for each in ELEMENTS}
    assert set(QEMU_SOURCE_MESSAGES) == set(get_args(e.ReturnMessage))


def test_the_tables_of_some_elements_are_within_that_of_all() -> None:
    """What says more of an element says nothing else: phases and commands together have just the element's states."""
    ram_begins = frozenset().union(*QEMU_RAM_BEGINS.values())
    assert ram_begins == QEMU_DESTINATION_ELEMENTS[e.RamBegins]
    assert frozenset().union(*QEMU_RAM_ENDS.values()) == QEMU_DESTINATION_ELEMENTS[e.RamEnds]
    assert frozenset().union(*QEMU_COMMANDS.values()) == QEMU_DESTINATION_ELEMENTS[e.Command]


@pytest.mark.parametrize(
    ("transitions", "start"), [(QEMU_DESTINATION_TRANSITIONS, D.CONFIGURATION), (QEMU_SOURCE_TRANSITIONS, S.NEW)]
)
def test_final_states_are_the_three(transitions: Mapping[State, frozenset[State]], start: State) -> None:
    """What has no exit is completed, failed or cancelled; every other state can be reached, can fail, be cancelled."""
    final = {state for state, after in transitions.items() if not after}
    assert {state.name for state in final} == {"COMPLETED", "FAILED", "CANCELLED"}
    assert reached(transitions, start) == set(transitions)
    for state, after in transitions.items():
        assert state in final or {each.name for each in after} >= {"FAILED", "CANCELLED"}


def test_one_state_alone_completes() -> None:
    """A destination completes when it has stored everything, a source when it waits for SHUT: nowhere else."""
    assert {state for state, after in QEMU_DESTINATION_TRANSITIONS.items() if D.COMPLETED in after} == {D.STORING}
    assert {state for state, after in QEMU_SOURCE_TRANSITIONS.items() if S.COMPLETED in after} == {S.WAITING}


@pytest.mark.parametrize("state", D)
def test_elements_are_admitted_as_listed(state: D) -> None:
    """Every pair of state and element is listed or a protocol error that names offset, element and state."""
    for element in ELEMENTS:
        if admitted(state, element):
            check_qemu_element(state, element, 0)
            assert QEMU_DESTINATION_TRANSITIONS[state]
        else:
            with pytest.raises(RemoteProtocolError, match=f"main at 4711: .* in state {state.value}"):
                check_qemu_element(state, element, 4711)


@pytest.mark.parametrize("number", set(CommandNumber) - set(QEMU_COMMANDS))
def test_commands_of_postcopy_are_not_supported(number: CommandNumber) -> None:
    """They are errors in every state, and the text says that the feature is the reason."""
    with pytest.raises(RemoteProtocolError, match=f"{number.name} .*not supported"):
        check_qemu_element(D.LIVE, command(number), 0)


@pytest.mark.parametrize("state", S)
def test_shut_0_counts_at_the_end_alone(state: S) -> None:
    """SHUT 0 before everything was sent, and anything before the return path was opened, is an error."""
    for message in (e.Pong(1), e.SwitchoverAck(), e.Shut(0), e.Shut(1)):
        legal = state in QEMU_SOURCE_MESSAGES[type(message)] and (message != e.Shut(0) or state is S.WAITING)
        assert not legal or QEMU_SOURCE_TRANSITIONS[state]
        if legal:
            check_qemu_source_message(state, message)
        else:
            with pytest.raises(RemoteProtocolError, match="return path"):
                check_qemu_source_message(state, message)


def test_moves_that_no_table_has_are_our_own_fault() -> None:
    """A transition that is not listed is a local error that says which there are."""
    check_qemu_destination_move(D.STORING, D.COMPLETED)
    with pytest.raises(LocalProtocolError, match="cancelled, completed, failed after storing, got 'live'"):
        check_qemu_destination_move(D.STORING, D.LIVE)
    check_qemu_source_move(S.WAITING, S.COMPLETED)
    with pytest.raises(LocalProtocolError, match=r"nothing \(a final state\) after completed"):
        check_qemu_source_move(S.COMPLETED, S.FAILED)
