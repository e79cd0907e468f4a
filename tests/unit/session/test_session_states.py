"""The tables of states and messages are total and sane, and the machines handle all that the tables admit."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar, get_args

import pytest
from machine_samples import SAMPLES, destination_in, source_in

from multifd import messages as m
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.session.states import (
    DESTINATION_MESSAGES,
    DESTINATION_TRANSITIONS,
    SOURCE_MESSAGES,
    SOURCE_TRANSITIONS,
    DestinationState,
    SourceState,
    check_destination_message,
    check_destination_move,
    check_source_message,
    check_source_move,
)

State = TypeVar("State", bound=enum.Enum)

SOURCE_FINAL = {state for state, after in SOURCE_TRANSITIONS.items() if not after}
DESTINATION_FINAL = {state for state, after in DESTINATION_TRANSITIONS.items() if not after}


def reached(transitions: Mapping[State, frozenset[State]], start: State) -> set[State]:
    """All states that one can come to from `start`, itself among them."""
    found = {start}
    left = [start]
    while left:
        new = transitions[left.pop()] - found
        found |= new
        left += new
    return found


def test_samples_have_one_message_of_every_type() -> None:
    """The tests below look at every message that there is."""
    assert set(SAMPLES) == set(get_args(m.Message))


def test_tables_know_every_state_and_every_message() -> None:
    """No state lacks a row, and every message but OUTCOME, which has a connection of its own, is for somebody."""
    assert set(SOURCE_TRANSITIONS) == set(SourceState)
    assert set(DESTINATION_TRANSITIONS) == set(DestinationState)
    assert set(SOURCE_MESSAGES) | set(DESTINATION_MESSAGES) == set(SAMPLES) - {m.AskOutcome}
    assert set(SOURCE_MESSAGES) & set(DESTINATION_MESSAGES) == {m.Hello}


def test_final_states_are_those_of_the_specification() -> None:
    """What has no exit is what is called final, and nothing else."""
    assert {state.name for state in SOURCE_FINAL} == {"COMPLETED", "REFUSED", "PREFLIGHTED", "FAILED", "CANCELLED"}
    assert {state.name for state in DESTINATION_FINAL} == {"STARTED", "REFUSED", "PREFLIGHTED", "ABORTED"}


def test_every_state_can_be_reached_and_every_session_can_fail() -> None:
    """No state is beyond reach, and from every one that is not final there is a way to fail, at once or by asking."""
    assert reached(SOURCE_TRANSITIONS, SourceState.HELLO) == set(SourceState)
    assert reached(DESTINATION_TRANSITIONS, DestinationState.HELLO) == set(DestinationState)
    for state in set(SourceState) - SOURCE_FINAL:
        assert SourceState.FAILED in SOURCE_TRANSITIONS[state]
    for there in set(DestinationState) - DESTINATION_FINAL:
        assert DestinationState.ABORTED in DESTINATION_TRANSITIONS[there]


def test_nothing_leads_back_over_commit() -> None:
    """Once COMMIT is sent a source is never in precopy or cancelled; a destination starts after COMMIT alone."""
    before = {SourceState.PRECOPY, SourceState.SWITCHING, SourceState.STOP_COPY, SourceState.LOADING}
    assert not reached(SOURCE_TRANSITIONS, SourceState.COMMITTED) & (before | {SourceState.CANCELLED})
    ways = {state for state, after in DESTINATION_TRANSITIONS.items() if DestinationState.STARTED in after}
    assert ways == {DestinationState.STARTING}
    assert DESTINATION_MESSAGES[m.Commit] == {DestinationState.LOADED}


@pytest.mark.parametrize("state", SourceState)
def test_source_admits_what_is_listed_and_refuses_the_rest(state: SourceState) -> None:
    """Every pair of a source's state and a message is either listed or a protocol error; a final state admits none."""
    for message in SAMPLES.values():
        if state in SOURCE_MESSAGES.get(type(message), ()):
            check_source_message(state, message)
            assert state not in SOURCE_FINAL
        else:
            with pytest.raises(RemoteProtocolError, match=state.value):
                check_source_message(state, message)


@pytest.mark.parametrize("state", DestinationState)
def test_destination_admits_what_is_listed_and_refuses_the_rest(state: DestinationState) -> None:
    """Every pair of a destination's state and a message is listed or a protocol error; a final state admits none."""
    for message in SAMPLES.values():
        if state in DESTINATION_MESSAGES.get(type(message), ()):
            check_destination_message(state, message)
            assert state not in DESTINATION_FINAL
        else:
            with pytest.raises(RemoteProtocolError, match=state.value):
                check_destination_message(state, message)


@pytest.mark.parametrize("state", SourceState)
def test_source_handles_all_that_it_admits(state: SourceState) -> None:
    """A message in a state that lists it is handled, or found wrong for what it says: nothing else is ever raised."""
    for message in SAMPLES.values():
        pair = source_in(state)
        refused = None
        try:
            pair.source.handle_message(message, pair.now)
        except RemoteProtocolError as error:
            refused = str(error)
        listed = state in SOURCE_MESSAGES.get(type(message), ())
        assert listed is not (refused is not None and "legal in source state" in refused)


@pytest.mark.parametrize("state", DestinationState)
def test_destination_handles_all_that_it_admits(state: DestinationState) -> None:
    """A message in a state that lists it is handled, or found wrong for what it says: nothing else is ever raised."""
    for message in SAMPLES.values():
        pair = destination_in(state)
        refused = None
        try:
            pair.destination.handle_message(message, pair.now)
        except RemoteProtocolError as error:
            refused = str(error)
        listed = state in DESTINATION_MESSAGES.get(type(message), ())
        assert listed is not (refused is not None and "legal in destination state" in refused)


def test_moves_that_no_table_has_are_our_own_fault() -> None:
    """A transition that is not listed is a local error that says which there are."""
    check_source_move(SourceState.HELLO, SourceState.INVENTORY)
    with pytest.raises(LocalProtocolError, match="after hello, got 'completed'"):
        check_source_move(SourceState.HELLO, SourceState.COMPLETED)
    with pytest.raises(LocalProtocolError, match=r"nothing \(a final state\)"):
        check_source_move(SourceState.COMPLETED, SourceState.FAILED)
    check_destination_move(DestinationState.STARTING, DestinationState.STARTED)
    with pytest.raises(LocalProtocolError, match="aborted, starting after loaded"):
        check_destination_move(DestinationState.LOADED, DestinationState.STARTED)
