"""The source's machine: set-up, rounds, slots that did not arrive as they were, what a destination may not say."""

from __future__ import annotations

import pytest
from machine_pair import BLOCK, CREDIT, EXPLICIT, SECRET, SESSION, Pair, destination_plan, device
from machine_samples import REFUSAL, source_in

from multifd import limits
from multifd import messages as m
from multifd.errors import (
    Code,
    CorruptError,
    RefusedError,
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


# -- the plain way


@pytest.mark.parametrize("wire", [False, True], ids=["messages", "bytes"])
def test_a_whole_session_in_its_order(wire: bool) -> None:
    """HELLO to COMPLETED, with a device that takes part and one that does not; as dataclasses, and over the wire."""
    devices = [device("nic"), device("disk", explicit=False)]
    pair = Pair.of(devices=devices, wire=wire).run()
    assert pair.source.visited == [*UP_TO_COMMIT, S.COMPLETED]
    assert pair.source_did == [
        a.Send(m.Hello((1, 1), SESSION, bytes(16), EXPLICIT, 2, "multifd")),
        a.Send(m.Inventory(1, 1, (BLOCK,), tuple(devices), (m.KindInfo("ram"),), False)),
        a.OpenChannels(2, SESSION, SECRET),
        a.GrantCredit(1, CREDIT),
        a.SaveInitial(1, 1),
        a.GrantCredit(2, CREDIT),
        a.SaveInitial(2, 1),
        a.BeginRound("ram", live=True),
        a.Send(m.Sync("ram", 1, (3, 2))),
        a.GrantCredit(1, CREDIT + 1),
        a.Survey(),  # READY calls for a look: the round is under way still
        a.GrantCredit(2, CREDIT + 1),
        a.Survey(),  # so does SYNC_DONE
        a.StopOwner(),
        a.Send(m.StopCopy({1: 1})),
        a.SaveStopCopy(),
        a.BeginRound("ram", live=False),
        a.Send(m.Sync("ram", 2, (4, 3))),
        a.Send(m.End((4, 3), {1: 2, 2: 2}, 0)),
        a.GrantCredit(1, CREDIT + 2),
        a.GrantCredit(2, CREDIT + 2),
        a.Send(m.Commit()),
        a.Finished(None),
    ]
    assert (pair.source_runs, pair.destination_runs) == (False, True)
    assert pair.source.loaded == m.Loaded({"prepare": 0.0})
    assert pair.source.started == m.Started({"start": 0.0})


def test_a_session_of_nothing_completes() -> None:
    """No blocks, devices or feeds: set-up, stop and end all the same."""
    pair = Pair.of(blocks=(), kinds=(), classes=(), features=()).run()
    assert pair.source.visited[-1] is S.COMPLETED
    assert pair.source.round == 0
    assert m.End((0, 0), {}, 0) in pair.source_said


def test_preflight_ends_with_the_verdict() -> None:
    """Nothing is opened, nothing stopped, and both sides call it preflighted."""
    pair = Pair.of(devices=[device("nic")], preflight=True).run()
    assert pair.source.visited == [S.HELLO, S.INVENTORY, S.PREFLIGHTED]
    assert pair.destination.visited == [D.HELLO, D.INVENTORY, D.PREFLIGHTED]
    assert pair.source_did[-1] == a.Finished(None)
    assert not any(isinstance(action, a.OpenChannels) for action in pair.source_did)


# -- refused


def test_a_feature_that_the_destination_lacks_is_refused_by_it() -> None:
    """At HELLO, with its name at both ends."""
    pair = Pair.of(features=("zstd", *EXPLICIT), destination=destination_plan(features=EXPLICIT)).run()
    assert pair.source.visited == [S.HELLO, S.REFUSED]
    assert pair.destination.visited == [D.HELLO, D.REFUSED]
    assert isinstance(pair.source_error, RefusedError)
    assert pair.source_error.code is Code.FEATURE
    assert "zstd" in str(pair.source_error)
    assert pair.source_runs


def test_no_common_version_is_refused_by_the_destination() -> None:
    """Both ranges are in the cause."""
    pair = Pair.of(destination=destination_plan(versions=(2, 3))).run()
    assert pair.source.visited == [S.HELLO, S.REFUSED]
    assert pair.source_error.code is Code.VERSION
    assert "2 to 3" in str(pair.source_error)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (m.Hello((2, 2), SESSION, SECRET, EXPLICIT, 8, ""), Code.VERSION),
        (m.Hello((1, 1), SESSION, SECRET, (), 8, ""), Code.FEATURE),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_by_the_source(hello: m.Hello, code: Code) -> None:
    """A destination that should have refused did not: the source tells it and ends as refused."""
    pair = Pair.of()
    pair.tell_source(hello)
    assert pair.source.visited == [S.HELLO, S.REFUSED]
    error = pair.source_error
    assert isinstance(error, RefusedError)
    assert error.refusals[0].code is code
    assert isinstance(pair.source_said[-1], m.Cancel)


def test_all_reasons_of_a_verdict_are_told() -> None:
    """Not the first: every one; the owner was never touched."""
    pair = Pair.of()
    other = m.Refusal(m.What.KIND, "acme/log", Code.REFUSED, "unknown here")
    pair.refusals = (REFUSAL, other)
    pair.run()
    assert pair.source.visited == [S.HELLO, S.INVENTORY, S.REFUSED]
    assert pair.destination.visited == [D.HELLO, D.INVENTORY, D.REFUSED]
    error = pair.source_error
    assert isinstance(error, RefusedError)
    assert error.refusals == (REFUSAL, other)
    assert not any(isinstance(action, a.StartOwner | a.StopOwner) for action in pair.source_did)


@pytest.mark.parametrize(
    ("state", "code", "ends"),
    [
        (S.HELLO, Code.BUSY, S.REFUSED),
        (S.INVENTORY, Code.BUSY, S.REFUSED),
        (S.HELLO, Code.PROTOCOL, S.FAILED),
        (S.INVENTORY, Code.INTERNAL, S.FAILED),
        (S.ATTACH, Code.BUSY, S.FAILED),
    ],
)
def test_aborted_before_any_state_is_a_refusal_if_its_code_says_so(state: S, code: Code, ends: S) -> None:
    """Busy, version, feature and refused are refusals while nothing has begun; anything else is a failure."""
    pair = source_in(state)
    pair.tell_source(m.Aborted(code, "because"))
    assert pair.source.state is ends
    assert pair.source_error.code is code
    assert str(pair.source_error) == "because"


# -- what a destination may not say


@pytest.mark.parametrize(
    ("state", "message", "where"),
    [
        (S.HELLO, m.Hello((1, 1), b"x" * 16, SECRET, EXPLICIT, 8, ""), "HELLO.session"),
        (S.HELLO, m.Hello((2, 1), SESSION, SECRET, EXPLICIT, 8, ""), "HELLO.versions"),
        (S.INVENTORY, m.Verdict(True, 2, (), ()), "VERDICT.devices"),
        (S.INVENTORY, m.Verdict(True, 3, (), (m.DeviceVerdict(True, 1),)), "VERDICT.channels"),
        (S.INVENTORY, m.Verdict(True, 0, (), (m.DeviceVerdict(True, 1),)), "VERDICT.channels"),
        (S.PRECOPY, m.Credit(2, 1), "CREDIT.device"),
        (S.PRECOPY, m.Credit(0, 1), "CREDIT.device"),
        (S.PRECOPY, m.DeviceStatus(2, 1, True, 0, 0, 0, ""), "DEVICE_STATUS.device"),
        (S.PRECOPY, m.DeviceStatus(0, 1, True, 0, 0, 0, ""), "DEVICE_STATUS.device"),
        (S.PRECOPY, m.SwitchoverReady({1: 2}), "SWITCHOVER_READY.epochs"),
        (S.PRECOPY, m.SwitchoverReady({2: 1}), "SWITCHOVER_READY.epochs"),
        (S.PRECOPY, m.SwitchoverReady({}), "SWITCHOVER_READY.epochs"),
        (S.LOADING, m.SwitchoverReady({1: 2}), "SWITCHOVER_READY.epochs"),
        (S.PRECOPY, m.SyncDone("ram", 1), "SYNC_DONE of ram"),
        (S.PRECOPY, m.SyncDone("acme/log", 1), "SYNC_DONE.class"),
        (S.LOADING, m.SyncDone("ram", 3), "SYNC_DONE.round of ram"),
        (S.PRECOPY, m.Loaded({}), "Loaded"),
        (S.LOADING, m.Started({}), "Started"),
        (S.PRECOPY, m.Hello((1, 1), SESSION, SECRET, EXPLICIT, 8, ""), "Hello"),
        (S.PRECOPY, m.Commit(), "Commit"),
    ],
)
def test_what_a_destination_may_not_say_fails_the_session(state: S, message: m.Message, where: str) -> None:
    """The error names what was wrong; the destination is told, and the owner runs on."""
    pair = source_in(state)
    with pytest.raises(RemoteProtocolError) as raised:
        pair.source.handle_message(message, pair.now)
    assert raised.value.where == where
    assert pair.source.state is state
    pair.source.handle_failure(raised.value, pair.now)
    pair.poll()
    assert pair.source.state is S.FAILED
    assert [said.code for said in pair.source_said if isinstance(said, m.Cancel)] == [Code.PROTOCOL]
    assert pair.source_runs


def test_statuses_are_kept_and_late_answers_change_nothing() -> None:
    """DEVICE_STATUS is kept for reports; counts that go back, and RESEND after LOADED, have no effect here."""
    pair = source_in(S.COMMITTED)
    status = m.DeviceStatus(1, 1, True, 7, 0.5, 0.5, "ready")
    pair.tell_source(status)
    assert pair.source.statuses[1] == status
    did = list(pair.source_did)
    pair.tell_source(m.Resend(1, 1))
    pair.tell_source(m.Settled((0, 0)))
    assert pair.source_did == did
    assert pair.source.resends == 0
    assert pair.errors == []


# -- rounds


def test_the_next_round_begins_after_sync_done_alone() -> None:
    """While SYNC_DONE is missing no look at what is dirty begins a round; after it the next one does."""
    pair = Pair.of()
    pair.pending_bytes["ram"] = 1 << 40
    pair.lost = {m.Sync}
    pair.run(lambda p: p.source_did.count(a.Survey()) == 3)
    assert pair.source_did.count(a.BeginRound("ram", live=True)) == 1
    assert pair.source.round == 1
    pair.lost = set()
    pair.to_source.append(m.SyncDone("ram", 1))
    pair.run(lambda p: m.Sync("ram", 2, (2, 1)) in p.source_said)
    assert pair.source.round == 2


def test_rounds_of_what_fits_are_not_hurried() -> None:
    """What fits the downtime limit already, while a device is not ready, is swept once in `ROUND_PAUSE_S`."""
    pair = Pair.of(devices=[device("nic")])
    pair.pending_bytes["ram"] = 100
    pair.lost = {m.DeviceStatus, m.SwitchoverReady}
    began = pair.run(lambda p: p.source.state is S.PRECOPY).now
    pair.run(lambda p: p.now >= began + 1)
    rounds = pair.source_did.count(a.BeginRound("ram", live=True))
    assert 10 <= rounds <= 1 / limits.ROUND_PAUSE_S
    assert pair.source.decision is not None
    assert pair.source.waiting_for == ("device nic/0: READY of epoch 1",)


def test_classes_do_not_put_off_the_switchover_in_turns() -> None:
    """Once all fits, and only rounds under way are in the way, no class begins another: all come to rest together."""
    pair = Pair.of(classes=("ram", "acme/log"), kinds=(m.KindInfo("ram"), m.KindInfo("acme/log")))
    pair.pending_bytes = {"ram": 100, "acme/log": 100}
    pair.lost = {m.SyncDone}
    pair.run(lambda p: p.source.decision is not None and not p.source.decision.switch)
    assert [*pair.source.waiting_for] == ["ram: a round is under way", "acme/log: a round is under way"]
    pair.tell_source(m.SyncDone("ram", 1))
    pair.run(lambda p: p.source_did.count(a.Survey()) == 4)
    assert [*pair.source.waiting_for] == ["acme/log: a round is under way"]
    assert pair.source_did.count(a.BeginRound("ram", live=True)) == 1
    pair.tell_source(m.SyncDone("acme/log", 1))
    pair.run(lambda p: p.source.state is S.SWITCHING)


def test_a_clean_class_rests_while_another_goes_on() -> None:
    """A class with nothing dirty begins no round."""
    pair = Pair.of(classes=("ram", "acme/log"), kinds=(m.KindInfo("ram"), m.KindInfo("acme/log")))
    pair.pending_bytes = {"ram": 1 << 40, "acme/log": 0}
    pair.run(lambda p: p.source.round == 4)
    assert pair.source_did.count(a.BeginRound("acme/log", live=True)) == 1


@pytest.mark.parametrize("auto_converge", [False, True])
def test_the_owner_is_slowed_down_only_if_asked_for(auto_converge: bool) -> None:
    """With auto-converge rounds that stay as long raise the level step by step, and each level is told once."""
    pair = Pair.of(auto_converge=auto_converge)
    pair.pending_bytes["ram"] = 1 << 40
    pair.run(lambda p: p.source.round == 1)
    for number in range(2, 6):
        pair.dirty["ram"] = 1
        pair.run(lambda p, number=number: p.source.round == number)  # type: ignore[misc]
    levels = [action.level for action in pair.source_did if isinstance(action, a.Throttle)]
    assert levels == ([0.2, 0.4] if auto_converge else [])


def test_a_round_that_is_sent_after_the_end_says_nothing() -> None:
    """The engine may report late: no SYNC goes out on a session that was called off."""
    pair = Pair.of()
    pair.held = {a.BeginRound}
    pair.run(lambda p: p.source.state is S.PRECOPY)
    pair.source.cancel("enough", pair.now)
    pair.do_held(a.BeginRound)
    assert not any(isinstance(said, m.Sync) for said in pair.source_said)


# -- slots that did not arrive as they were


def test_a_live_slot_that_changed_is_dirty_again() -> None:
    """RESEND before the stop: the engine is told, the session counts it, and goes on."""
    pair = Pair.of()
    pair.spoiled = {(1, 1)}
    pair.run()
    assert pair.source.visited[-1] is S.COMPLETED
    assert a.ResendSlot(1, 1) in pair.source_did
    assert pair.source.resends == 1
    assert pair.source.corrupt == 0
    assert pair.destination.mismatches == 1
    assert pair.source_said[-2] == m.End((3, 1), {}, 1)


def test_resend_after_end_gives_another_end() -> None:
    """A slot of the stop is sent again, then END with the new counts and the new number of RESENDs."""
    pair = Pair.of(devices=[device("nic")])
    pair.spoiled = {(2, 3)}  # nic's last chunk
    pair.run()
    assert pair.source.visited[-1] is S.COMPLETED
    ends = [said for said in pair.source_said if isinstance(said, m.End)]
    assert ends == [m.End((2, 3), {1: 2}, 0), m.End((2, 4), {1: 2}, 1)]
    assert pair.source.corrupt == 1


def test_a_round_is_repeated_until_what_is_sent_again_is_settled() -> None:
    """A corrupted slot that is not live must not be overtaken: no sweep and no switchover before it is settled."""
    pair = Pair.of()
    pair.plain = True
    pair.spoiled = {(1, 1), (1, 3)}  # a slot of two, and that slot when it is sent again
    pair.run()
    assert pair.source.visited[-1] is S.COMPLETED
    did = [each for each in pair.source_did if isinstance(each, a.BeginRound | a.StopOwner)]
    again = a.BeginRound("ram", live=True, sweep=False)
    assert did[:4] == [a.BeginRound("ram", live=True), again, again, a.StopOwner()]


def test_too_much_corruption_fails() -> None:
    """`CORRUPT_RESENDS_MAX` slots are sent again; the next one fails the session, and the owner runs on."""
    pair = source_in(S.LOADING)
    for _ in range(limits.CORRUPT_RESENDS_MAX):
        assert pair.source.handle_corrupt("ram", pair.now)
    assert not pair.source.handle_corrupt("ram", pair.now)
    pair.poll()
    assert pair.source.state is S.FAILED
    assert isinstance(pair.source_error, CorruptError)
    assert pair.source_runs
