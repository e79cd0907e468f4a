"""The destination's machine: deadlines, failures, and what each state makes of the end."""

from __future__ import annotations

import pytest
from destination_by_hand import CAN_ABORT, IN_ORDER, receiving, report
from machine_samples import SAMPLES, destination_in

from multifd import limits
from multifd import messages as m
from multifd.errors import (
    Code,
    DeadlineError,
    LocalProtocolError,
    MultifdError,
    PeerError,
    RemoteProtocolError,
    TransportError,
)
from multifd.session import actions as a
from multifd.session.states import DestinationState

D = DestinationState


# -- time


@pytest.mark.parametrize(
    ("state", "seconds", "words"),
    [
        (D.HELLO, None, ""),
        (D.INVENTORY, limits.HELLO_DEADLINE_S, "the source's INVENTORY"),
        (D.ATTACH, limits.ATTACH_DEADLINE_S, "data channels"),
        (D.PRECOPY, limits.SILENCE_DEADLINE_S, "send anything"),
        (D.STOP_COPY, limits.SILENCE_DEADLINE_S, "send anything"),
        (D.LOADING, limits.LOADED_DEADLINE_S, "devices to load"),
        (D.LOADED, limits.COMMIT_DEADLINE_S, "COMMIT"),
        (D.STARTING, None, ""),
        (D.STARTED, None, ""),
    ],
)
def test_every_wait_has_its_deadline(state: D, seconds: float | None, words: str) -> None:
    """When it passes the session aborts, and says what it waited for. HELLO is the listener's, STARTING the owner's."""
    pair = destination_in(state)
    session, now = pair.destination, pair.now
    if seconds is None:
        assert session.wake_at is None
        return
    session.handle_timer(now + seconds - 0.01)
    pair.poll()
    assert session.state is state
    session.handle_timer(now + seconds)
    pair.poll()
    assert session.visited[-2:] == [state, D.ABORTED]
    assert pair.destination_end is not None
    assert isinstance(pair.destination_end.error, DeadlineError)
    assert words in str(pair.destination_end.error)
    assert isinstance(pair.destination_said[-1], m.Aborted)


def test_the_decision_has_a_deadline_of_its_own() -> None:
    """Once INVENTORY is whole a provider or a device has `VERDICT_DEADLINE_S` to say what it thinks of it."""
    pair = destination_in(D.INVENTORY)
    pair.run(lambda p: any(isinstance(action, a.Decide) for action in p.destination_did))
    pair.destination.handle_timer(pair.now + limits.HELLO_DEADLINE_S)
    assert pair.destination.visited[-1:] == [D.INVENTORY]
    pair.destination.handle_timer(pair.now + limits.VERDICT_DEADLINE_S)
    pair.poll()
    assert pair.destination.visited[-1:] == [D.ABORTED]
    assert pair.destination_end is not None
    assert "the decision on what is offered" in str(pair.destination_end.error)


@pytest.mark.parametrize("state", [D.ATTACH, D.LOADING, D.LOADED])
def test_what_arrives_puts_no_other_wait_off(state: D) -> None:
    """Only silence begins anew: to load, and to wait for COMMIT, takes so long and no longer."""
    pair = destination_in(state)
    due = pair.destination.wake_at
    assert due is not None
    if state is D.ATTACH:
        pair.destination.handle_attached(1, pair.now + 1.0)
    else:
        report(pair.destination, 1, chunks=2, complete=True, now=pair.now + 1.0)
    assert pair.destination.wake_at == due


def test_whatever_arrives_ends_the_silence() -> None:
    """Messages, slots and devices that get on: each begins the wait anew."""
    session = receiving(devices=1)
    whole = limits.SILENCE_DEADLINE_S
    session.handle_message(m.Sync("ram", 1, (1, 0)), 100.0)
    assert session.wake_at == 100.0 + whole
    session.handle_settled((1, 0), 200.0)
    session.handle_timer(300.0)
    assert session.wake_at == 200.0 + whole
    report(session, 1, now=400.0)
    assert session.wake_at == 400.0 + whole
    session.handle_timer(399.0 + whole)
    assert session.state is D.PRECOPY


# -- trouble, and the end


@pytest.mark.parametrize("state", D)
def test_failure_in_each_state(state: D) -> None:
    """Up to LOADED it aborts and tells the source; after COMMIT nothing but the owner's own start can fail."""
    pair = destination_in(state)
    did = len(pair.destination_did)
    pair.destination.handle_failure(TransportError("x" * 5000), pair.now)
    pair.poll()
    if state in CAN_ABORT:
        assert pair.destination.state is D.ABORTED
        aborted, end = pair.destination_did[did:]
        assert isinstance(aborted, a.Send)
        assert isinstance(aborted.message, m.Aborted)
        assert aborted.message.code is Code.TRANSPORT
        assert aborted.message.cause.startswith("x" * 500)
        assert len(aborted.message.cause) <= limits.TEXT_BYTES_MAX
        assert end is pair.destination_end
    else:
        assert (pair.destination.state, len(pair.destination_did)) == (state, did)


@pytest.mark.parametrize("state", D)
def test_a_start_that_fails_aborts_after_commit_alone(state: D) -> None:
    """It is what the source's owner goes on for, so it must mean that nobody runs here."""
    pair = destination_in(state)
    did = len(pair.destination_did)
    pair.destination.handle_start_failed(MultifdError("no"), pair.now)
    pair.poll()
    if state is D.STARTING:
        assert pair.destination_did[did:] == [a.Send(m.Aborted(Code.INTERNAL, "no")), pair.destination_end]
        assert pair.destination.visited == [*IN_ORDER[:8], D.ABORTED]
    else:
        assert (pair.destination.state, len(pair.destination_did)) == (state, did)


@pytest.mark.parametrize("message", SAMPLES.values(), ids=lambda message: type(message).__name__)
def test_nothing_that_a_source_says_after_commit_stops_the_start(message: m.Message) -> None:
    """A message in STARTING is a protocol error, and changes nothing: aborting now could have both owners run."""
    pair = destination_in(D.STARTING)
    pair.tell_destination(message)
    assert isinstance(pair.errors[-1][1], RemoteProtocolError)
    pair.do_held(a.StartOwner)
    pair.run()
    assert pair.destination.visited == IN_ORDER
    pair.assert_one_runs()


@pytest.mark.parametrize("state", D)
def test_the_question_for_the_outcome_in_each_state(state: D) -> None:
    """Before COMMIT it aborts, for ever; while starting, and at the end, it changes nothing."""
    pair = destination_in(state)
    pair.destination.handle_outcome_asked(pair.now)
    pair.poll()
    if state not in CAN_ABORT:
        assert pair.destination.state is state
        return
    assert pair.destination.state is D.ABORTED
    with pytest.raises(RemoteProtocolError):
        pair.destination.handle_message(m.Commit(), pair.now)
    assert not pair.destination_runs


@pytest.mark.parametrize("state", D)
def test_cancel_in_each_state(state: D) -> None:
    """Up to LOADED it ends the session with the source's own cause, and needs no answer; later it is an error."""
    pair = destination_in(state)
    did = len(pair.destination_did)
    cancel = m.Cancel(Code.CONVERGENCE, "too much is dirty")
    if state not in CAN_ABORT:
        with pytest.raises(RemoteProtocolError):
            pair.destination.handle_message(cancel, pair.now)
        assert pair.destination.state is state
        return
    pair.tell_destination(cancel)
    assert pair.destination.state is D.ABORTED
    assert pair.destination_did[did:] == [pair.destination_end]
    assert pair.destination_end is not None
    error = pair.destination_end.error
    assert isinstance(error, PeerError)
    assert (error.code, str(error)) == (Code.CONVERGENCE, "too much is dirty")


@pytest.mark.parametrize("state", [state for state in D if state is not D.STARTING])
def test_an_owner_that_runs_out_of_turn_is_our_own_fault(state: D) -> None:
    """STARTED is said in STARTING alone: in any other state the call is refused, and nothing goes out."""
    pair = destination_in(state)
    did = len(pair.destination_did)
    with pytest.raises(LocalProtocolError):
        pair.destination.handle_owner_started({}, pair.now)
    pair.destination.handle_prepared({}, pair.now) if state is not D.LOADING else None
    pair.poll()
    assert (pair.destination.state, len(pair.destination_did)) == (state, did)


@pytest.mark.parametrize("state", [D.STARTED, D.REFUSED, D.PREFLIGHTED, D.ABORTED])
def test_late_news_changes_nothing(state: D) -> None:
    """Slots, devices and time after the end: no message, no action."""
    pair = destination_in(state)
    did = len(pair.destination_did)
    pair.destination.handle_settled((100, 100), pair.now)
    report(pair.destination, 1, chunks=9)
    pair.destination.handle_timer(pair.now + 1e6)
    pair.poll()
    assert (pair.destination.state, len(pair.destination_did)) == (state, did)
