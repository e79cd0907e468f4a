"""The source's machine: the end and its doubts, and being called off in each state."""

from __future__ import annotations

import pytest
from machine_pair import Pair
from machine_samples import source_in

from multifd import limits
from multifd import messages as m
from multifd.errors import (
    Code,
    LocalProtocolError,
    MultifdError,
)
from multifd.session import actions as a
from multifd.session.states import DestinationState, SourceState

S = SourceState
D = DestinationState
UP_TO_COMMIT = [
    S.HELLO, S.INVENTORY, S.ATTACH, S.PRECOPY, S.SWITCHING, S.STOP_COPY, S.LOADING, S.COMMITTED,
]  # fmt: skip
CAN_GO_ON = [*UP_TO_COMMIT[:-1], S.RELEASING]
OWNER_STOPPED = {S.SWITCHING, S.STOP_COPY, S.LOADING, S.RELEASING, S.COMMITTED}


# -- the end


def test_commit_that_was_lost_is_asked_about_and_aborted() -> None:
    """Main is cut with COMMIT on it: the destination aborts, by the question at the latest, and the owner runs here."""
    pair = Pair.of()
    pair.run(lambda p: p.source.state is S.COMMITTED)
    assert not pair.source_runs
    pair.cut()
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.ASKING, S.FAILED]
    assert pair.destination.visited[-2:] == [D.LOADED, D.ABORTED]
    assert (pair.source_runs, pair.destination_runs) == (True, False)
    assert a.StartOwner() in pair.source_did


def test_commit_that_never_arrives_is_given_up_by_the_destination() -> None:
    """After `COMMIT_DEADLINE_S` it aborts and says so: the owner runs here, and nobody has to ask."""
    pair = Pair.of()
    pair.lost = {m.Commit}
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.FAILED]
    assert "the source's COMMIT" in str(pair.source_error)
    assert (pair.source_runs, pair.destination_runs) == (True, False)


def test_a_main_that_hangs_at_commit_is_asked_about_in_time() -> None:
    """Nothing arrives either way: after `STARTED_DEADLINE_S` the source asks, and is told that it may go on."""
    pair = Pair.of().run(lambda p: p.source.state is S.COMMITTED)
    began = pair.now
    pair.hang()
    pair.run()
    assert pair.now - began == pytest.approx(limits.STARTED_DEADLINE_S, abs=0.05)
    assert pair.source.visited == [*UP_TO_COMMIT, S.ASKING, S.FAILED]
    assert pair.source_runs
    assert not pair.destination_runs


def test_started_that_was_lost_is_asked_about_and_completes() -> None:
    """The destination runs: so does nobody here, and the session is complete."""
    pair = Pair.of()
    pair.lost = {m.Started}
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.ASKING, S.COMPLETED]
    assert pair.destination.visited[-1] is D.STARTED
    assert (pair.source_runs, pair.destination_runs) == (False, True)


def test_the_answer_waits_while_the_destination_is_starting() -> None:
    """Main is lost after COMMIT arrived: the owner is started there all the same, and then the answer comes."""
    pair = Pair.of()
    pair.held = {a.StartOwner}
    pair.run(lambda p: p.destination.state is D.STARTING)
    pair.cut()
    assert pair.source.state is S.ASKING
    assert not pair.step()
    pair.do_held(a.StartOwner)
    pair.run()
    assert pair.source.visited[-1] is S.COMPLETED


def test_a_start_that_fails_there_goes_on_here() -> None:
    """ABORTED after COMMIT is the one word on which the source's owner runs again."""
    pair = Pair.of()
    pair.held = {a.StartOwner}
    pair.run(lambda p: p.destination.state is D.STARTING)
    pair.fail_start()
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.FAILED]
    assert str(pair.source_error) == "no room to run"
    assert (pair.source_runs, pair.destination_runs) == (True, False)


def test_nobody_answers_is_in_doubt_until_somebody_does() -> None:
    """The owner stays stopped; asked again, the destination answers, and the session is complete."""
    pair = source_in(S.IN_DOUBT)
    assert pair.source_end is not None
    assert not pair.source_runs
    assert pair.source.wake_at is None
    pair.source.ask_again(pair.now)
    pair.run(lambda p: p.source.visited[-3:] == [S.IN_DOUBT, S.ASKING, S.IN_DOUBT])
    pair.reachable = True
    pair.held = set()
    pair.source.ask_again(pair.now)
    pair.run()
    assert pair.source.visited[-2:] == [S.ASKING, pair.source.state]
    assert pair.source_runs == (pair.source.state is S.FAILED)
    assert pair.source_runs != pair.destination_runs


@pytest.mark.parametrize(("started", "state"), [(True, S.COMPLETED), (False, S.FAILED)])
def test_the_operator_resolves_a_doubt(started: bool, state: S) -> None:
    """Whoever looked says whether the destination runs; only if it does not the owner is started here."""
    pair = source_in(S.IN_DOUBT)
    pair.source.resolve(started=started, now=pair.now)
    pair.poll()
    assert pair.source.visited[-2:] == [S.IN_DOUBT, state]
    assert pair.source_runs is not started
    assert (pair.source_end == a.Finished(None)) is started


@pytest.mark.parametrize("state", [state for state in S if state is not S.IN_DOUBT])
def test_a_doubt_is_resolved_only_where_there_is_one(state: S) -> None:
    """In any other state the commands are refused, and above all no owner is started."""
    pair = source_in(state)
    did = list(pair.source_did)
    with pytest.raises(LocalProtocolError):
        pair.source.ask_again(pair.now)
    for started in (True, False):
        with pytest.raises(LocalProtocolError):
            pair.source.resolve(started=started, now=pair.now)
    pair.poll()
    assert (pair.source.state, pair.source_did) == (state, did)


def test_a_destination_that_knows_nothing_settles_nothing() -> None:
    """UNKNOWN is no answer: in doubt, with the destination's words."""
    pair = source_in(S.ASKING)
    pair.source.handle_outcome(m.OutcomeIs(m.Fate.UNKNOWN, "a reboot"), pair.now)
    pair.poll()
    assert pair.source.state is S.IN_DOUBT
    assert "does not know the session: a reboot" in str(pair.source_error)
    assert not pair.source_runs


@pytest.mark.parametrize("state", [state for state in S if state is not S.ASKING])
def test_answers_that_nobody_asked_for_change_nothing(state: S) -> None:
    """An answer or a silence that comes when nothing is asked has no effect; nor has a late completion."""
    pair = source_in(state)
    did = list(pair.source_did)
    pair.source.handle_outcome(m.OutcomeIs(m.Fate.ABORTED, ""), pair.now)
    pair.source.handle_no_answer("", pair.now)
    if state is not S.SWITCHING:
        pair.source.handle_owner_stopped([1], pair.now)
    if state is not S.PRECOPY:
        pair.source.handle_survey(pair.situation() if pair.source.verdict else NOTHING, pair.now)
    if state not in (S.STOP_COPY, S.LOADING):
        pair.source.handle_all_sent((0, 0), {}, pair.now)
    pair.poll()
    assert (pair.source.state, pair.source_did) == (state, did)


NOTHING = Pair.of().situation()


# -- called off


@pytest.mark.parametrize("state", S)
def test_cancel_in_each_state(state: S) -> None:
    """Before COMMIT it is called off, the destination told, and a stopped owner started; later it is too late."""
    pair = source_in(state)
    before = pair.source_runs
    did = len(pair.source_did)
    can = state in CAN_GO_ON
    assert pair.source.cancel("the operator changed their mind", pair.now) is can
    pair.poll()
    if not can:
        assert (pair.source.state, len(pair.source_did), pair.source_runs) == (state, did, before)
        return
    restart = [a.StartOwner()] if state in OWNER_STOPPED else []
    cancel = a.Send(m.Cancel(Code.CANCELLED, "the operator changed their mind"))
    assert pair.source_did[did:] == [cancel, *restart, pair.source_end]
    assert pair.source.state is S.CANCELLED
    assert pair.source_runs


@pytest.mark.parametrize("state", S)
def test_failure_in_each_state(state: S) -> None:
    """Before COMMIT the session fails and the owner runs on; after it it is asked about; later it is nothing."""
    pair = source_in(state)
    pair.source.handle_failure(MultifdError("x" * 5000), pair.now)
    pair.poll()
    expected = S.FAILED if state in CAN_GO_ON else S.ASKING if state is S.COMMITTED else state
    assert pair.source.state is expected
    if state in CAN_GO_ON:
        assert pair.source_runs
        assert len(pair.source_said[-1].cause) <= limits.TEXT_BYTES_MAX  # type: ignore[union-attr]
    if state is S.COMMITTED:
        assert pair.source_did[-1] == a.AskForOutcome()
        assert not pair.source_runs


@pytest.mark.parametrize("state", [*CAN_GO_ON[3:], S.COMMITTED, S.ASKING, S.IN_DOUBT])
def test_aborted_in_each_state(state: S) -> None:
    """Whatever the destination gave up for is what the session fails with; the owner runs on here."""
    pair = source_in(state)
    pair.tell_source(m.Aborted(Code.DEVICE, "device nic/0: no"))
    assert pair.source.state is S.FAILED
    assert pair.source_error.code is Code.DEVICE
    assert pair.source_runs


def test_a_channel_lost_in_the_stop_starts_the_owner_again() -> None:
    """Before COMMIT the source may go on at any failure."""
    pair = source_in(S.STOP_COPY)
    assert not pair.source_runs
    pair.source.handle_failure(MultifdError("channel 2 was lost"), pair.now)
    pair.run()
    assert pair.source_did[-3:] == [
        a.Send(m.Cancel(Code.INTERNAL, "channel 2 was lost")),
        a.StartOwner(),
        pair.source_end,
    ]
    assert pair.destination.visited[-1] is D.ABORTED
    assert pair.source_runs
