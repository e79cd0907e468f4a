"""The source's machine: re-arms before and after the decision, looks, deadlines and stalls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machine_pair import Pair, device
from machine_samples import source_in

from multifd import limits
from multifd import messages as m
from multifd.errors import (
    Code,
    ConvergenceError,
    DeadlineError,
    RearmError,
    RemoteProtocolError,
)
from multifd.session import actions as a
from multifd.session.states import DestinationState, SourceState

S = SourceState
D = DestinationState
UP_TO_COMMIT = [
    S.HELLO, S.INVENTORY, S.ATTACH, S.PRECOPY, S.SWITCHING, S.STOP_COPY, S.LOADING, S.COMMITTED,
]  # fmt: skip
CAN_GO_ON = UP_TO_COMMIT[:-1]
OWNER_STOPPED = {S.SWITCHING, S.STOP_COPY, S.LOADING, S.COMMITTED}


def precopy(**plan: object) -> Pair:
    """A session in precopy that does not switch over, since too much is dirty."""
    pair = Pair.of(**plan)  # type: ignore[arg-type]
    pair.pending_bytes["ram"] = 1 << 40
    return pair.run(lambda p: p.source.state is S.PRECOPY)


# -- re-arms


def test_a_rearm_in_precopy_takes_ready_back() -> None:
    """The device saves again under the next epoch; READY of the old one opens nothing, READY of the new one does."""
    pair = Pair.of(devices=[device("nic")])
    pair.pending_bytes["ram"] = 1 << 40
    pair.run(lambda p: p.source.state is S.PRECOPY and p.source.gate.open)
    pair.source.handle_rearm(1, pair.now)
    pair.poll()
    assert pair.source_did[-1] == a.SaveInitial(1, 2)
    assert not pair.source.gate.open
    pair.tell_source(m.SwitchoverReady({1: 1}))
    assert not pair.source.gate.open
    pair.pending_bytes["ram"] = 0
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.COMPLETED]
    assert m.StopCopy({1: 2}) in pair.source_said


def test_a_rearm_after_the_decision_returns_to_precopy() -> None:
    """The owner runs again, the device saves under the next epoch, and then it switches over after all."""
    pair = Pair.of(devices=[device("nic"), device("gpu")])
    pair.rearm_at_stop = [[2]]
    pair.run(lambda p: p.source.returns == 1)
    assert pair.source_runs
    assert pair.source_did[-3:] == [a.StopOwner(), a.StartOwner(), a.SaveInitial(2, 2)]
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT[:5], S.PRECOPY, S.SWITCHING, *UP_TO_COMMIT[5:], S.COMPLETED]
    assert m.StopCopy({1: 1, 2: 2}) in pair.source_said


def test_an_owner_that_runs_again_is_not_started_twice() -> None:
    """Called off after a return to precopy: the owner runs already."""
    pair = Pair.of(devices=[device("nic")])
    pair.rearm_at_stop = [[1]]
    pair.run(lambda p: p.source.returns == 1)
    pair.source.cancel("enough", pair.now)
    pair.poll()
    assert pair.source_did.count(a.StartOwner()) == 1
    assert pair.source_runs


def test_returns_are_bounded() -> None:
    """After `SWITCHOVER_RETURNS_MAX` returns the next re-arm fails the session, with the device's name."""
    pair = Pair.of(devices=[device("nic")])
    pair.rearm_at_stop = [[1]] * (limits.SWITCHOVER_RETURNS_MAX + 1)
    pair.run()
    assert pair.source.returns == limits.SWITCHOVER_RETURNS_MAX
    assert pair.source.visited[-2:] == [S.SWITCHING, S.FAILED]
    assert isinstance(pair.source_error, RearmError)
    assert "nic/0" in str(pair.source_error)
    assert "after 3 returns" in str(pair.source_error)
    assert pair.source_runs
    assert pair.destination.visited[-1] is D.ABORTED


def test_the_policy_to_fail_returns_never() -> None:
    """The first re-arm after the decision ends it."""
    pair = Pair.of(devices=[device("nic")], return_on_rearm=False)
    pair.rearm_at_stop = [[1]]
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT[:5], S.FAILED]
    assert "the policy is to fail" in str(pair.source_error)
    assert [said.code for said in pair.source_said if isinstance(said, m.Cancel)] == [Code.REARM]
    assert pair.source_runs


@pytest.mark.parametrize("state", [S.STOP_COPY, S.LOADING])
def test_a_rearm_after_stop_copy_has_begun_fails(state: S) -> None:
    """There is no way back from there."""
    pair = source_in(state)
    pair.source.handle_rearm(1, pair.now)
    pair.poll()
    assert pair.source.state is S.FAILED
    assert isinstance(pair.source_error, RearmError)
    assert pair.source_runs


@pytest.mark.parametrize("state", [S.SWITCHING, S.COMMITTED, S.FAILED])
def test_a_rearm_told_at_any_other_time_changes_nothing(state: S) -> None:
    """While switching the device is asked once more anyway; after COMMIT and after the end it is too late."""
    pair = source_in(state)
    did = list(pair.source_did)
    pair.source.handle_rearm(1, pair.now)
    pair.poll()
    assert (pair.source.state, pair.source_did) == (state, did)


# -- time


def test_no_convergence_before_the_deadline_fails() -> None:
    """The cause says what it waited for, and for how long."""
    pair = precopy(deadline_s=2.0)
    began = pair.now
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT[:4], S.FAILED]
    assert pair.now - began == pytest.approx(2.0, abs=0.05)
    assert isinstance(pair.source_error, ConvergenceError)
    assert "no switchover after 2 s, waiting for ram: 1048576.0 MiB dirty need" in str(pair.source_error)
    assert pair.source_runs


def test_a_deadline_before_the_first_look_says_so() -> None:
    """Nothing was surveyed yet: there is nothing else to name."""
    pair = Pair.of(deadline_s=2.0)
    pair.held = {a.Survey}
    pair.run()
    assert "the first look at what is dirty" in str(pair.source_error)


def test_the_policy_to_switch_ignores_the_downtime_limit() -> None:
    """At the deadline it switches over all the same."""
    pair = precopy(deadline_s=2.0, switch_at_deadline=True)
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.COMPLETED]


def test_the_policy_to_switch_waits_for_rounds_under_way() -> None:
    """They end, no other begins, and then it switches; if they do not end, it fails after `STALL_DEADLINE_S` more."""
    pair = precopy(deadline_s=2.0, switch_at_deadline=True)
    pair.lost = {m.SyncDone}
    began = pair.now
    pair.run()
    assert pair.source.state is S.FAILED
    assert pair.now - began == pytest.approx(2.0 + limits.STALL_DEADLINE_S, abs=0.05)
    assert "a round is under way" in str(pair.source_error)


def test_the_policy_to_switch_never_ignores_a_device() -> None:
    """A device that takes part and is not ready at the deadline fails the session, by name."""
    pair = precopy(deadline_s=2.0, switch_at_deadline=True, devices=[device("nic")])
    pair.lost = {m.DeviceStatus, m.SwitchoverReady}
    pair.run()
    assert pair.source.visited == [*UP_TO_COMMIT[:4], S.FAILED]
    assert "device nic/0: READY of epoch 1" in str(pair.source_error)


def test_a_status_without_switchover_ready_opens_nothing() -> None:
    """Devices that say that they are ready are no SWITCHOVER_READY: that is what it waits for."""
    pair = Pair.of(devices=[device("nic")])
    pair.lost = {m.SwitchoverReady}
    pair.run(lambda p: p.source.decision is not None)
    assert pair.source.waiting_for == ("SWITCHOVER_READY",)
    pair.to_source.append(m.SwitchoverReady({1: 1}))
    pair.run()
    assert pair.source.visited[-1] is S.COMPLETED


CHANGES: dict[str, Callable[[Pair], None]] = {
    "SYNC_DONE": lambda pair: pair.tell_source(m.SyncDone("ram", 1)),
    "READY": lambda pair: pair.tell_source(m.SwitchoverReady({1: 1})),
    "re-arm": lambda pair: pair.source.handle_rearm(1, pair.now),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_changes_the_situation_is_looked_at_at_once(change: Callable[[Pair], None]) -> None:
    """It does not wait for the next look that is due anyway."""
    pair = Pair.of(devices=[device("nic")])
    pair.pending_bytes["ram"] = 1 << 40
    pair.lost = {m.SyncDone, m.SwitchoverReady}
    pair.run(lambda p: p.source_did.count(a.Survey()) == 3 and not p.step())
    assert pair.source.wake_at is not None
    assert pair.source.wake_at > pair.now
    change(pair)
    assert pair.source.wake_at == pair.now


def test_a_return_and_the_deadline_are_looked_at_at_once() -> None:
    """So are they."""
    pair = source_in(S.SWITCHING)
    pair.source.handle_owner_stopped([1], pair.now)
    assert pair.source.wake_at == pair.now
    late = precopy(deadline_s=60.0, switch_at_deadline=True)
    late.held = {a.BeginRound}
    late.now += 60.0
    late.source.handle_timer(late.now)
    assert late.source.poll_action() == a.Survey()


def test_one_look_at_a_time() -> None:
    """While a look is under way no other is asked for, however late it is."""
    pair = Pair.of(devices=[device("nic")])
    pair.held = {a.Survey}
    pair.run(lambda p: a.Survey() in p.source_did)
    pair.source.handle_rearm(1, pair.now)
    for _ in range(5):
        pair.now += 1.0
        pair.source.handle_timer(pair.now)
        pair.poll()
    assert pair.source_did.count(a.Survey()) == 1
    pair.do_held(a.Survey)
    pair.source.handle_timer(pair.now + 1.0)
    pair.poll()
    assert pair.source_did.count(a.Survey()) == 2


def test_slots_that_are_never_settled_are_a_stall() -> None:
    """Nothing settled for `STALL_DEADLINE_S` while slots are under way: the cause counts them."""
    pair = precopy()
    pair.lost = {m.Settled, m.SyncDone}
    pair.run()
    assert pair.source.state is S.FAILED
    assert isinstance(pair.source_error, DeadlineError)
    assert "the destination to settle 3 slots" in str(pair.source_error)


def test_every_settled_slot_begins_the_stall_anew() -> None:
    """Progress, however slow, is no stall; and with nothing under way there is none either."""
    source = precopy().source
    began = source.wake_at
    assert began is not None
    source.handle_sent(2, 200.0)
    assert source.wake_at is not None
    assert source.wake_at <= 200.0 + limits.STALL_DEADLINE_S
    source.handle_message(m.Settled((1, 0)), 229.0)
    source.handle_timer(258.0)
    source.handle_message(m.Settled((1, 0)), 258.5)  # nothing new
    source.handle_message(m.Settled((1, 1)), 258.9)
    source.handle_timer(400.0)
    assert source.visited[-1:] == [S.PRECOPY]
    source.handle_sent(3, 400.0)
    source.handle_timer(400.0 + limits.STALL_DEADLINE_S)
    assert source.visited[-2:] == [S.PRECOPY, S.FAILED]


@pytest.mark.parametrize(
    ("state", "seconds", "words"),
    [
        (S.HELLO, limits.HELLO_DEADLINE_S, "HELLO"),
        (S.INVENTORY, limits.VERDICT_DEADLINE_S, "VERDICT"),
        (S.ATTACH, limits.ATTACH_DEADLINE_S, "data channels"),
        (S.SWITCHING, limits.SWITCHING_DEADLINE_S, "the owner to stop"),
        (S.LOADING, limits.LOADED_DEADLINE_S, "LOADED"),
    ],
)
def test_every_wait_has_its_deadline(state: S, seconds: float, words: str) -> None:
    """When it passes the session fails and says what it waited for; not a moment before."""
    pair = source_in(state)
    source = pair.source
    source.handle_message(m.Settled((100, 100)), pair.now) if state is S.LOADING else None  # no stall in the way
    assert source.waiting_for != ()
    assert words in source.waiting_for[0]
    source.handle_timer(pair.now + seconds - 0.001)
    assert source.state is state
    source.handle_timer(pair.now + seconds)
    pair.poll()
    assert source.state is S.FAILED
    assert isinstance(pair.source_error, DeadlineError)
    assert words in str(pair.source_error)
    assert pair.source_runs
    assert source.wake_at is None


def test_loaded_that_comes_too_late_finds_the_session_over() -> None:
    """The source has gone on by itself, the destination is told, and LOADED is no message for a final state."""
    pair = Pair.of()
    pair.held = {a.Prepare}
    pair.run(lambda p: p.source.state is S.LOADING)
    pair.source.handle_timer(pair.now + limits.LOADED_DEADLINE_S)
    pair.poll()
    assert pair.source_runs
    with pytest.raises(RemoteProtocolError):
        pair.source.handle_message(m.Loaded({}), pair.now)
    pair.run()
    assert pair.destination.visited[-2:] == [D.LOADING, D.ABORTED]
