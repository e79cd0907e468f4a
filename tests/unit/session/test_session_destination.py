"""The destination's machine: set-up, rounds and counts, devices, STOP_COPY and END."""

from __future__ import annotations

import pytest
from destination_by_hand import HELLO, IN_ORDER, asked, ending, receiving, report, said
from machine_pair import BLOCK, CREDIT, EXPLICIT, SECRET, SESSION, Pair, destination_plan, device
from machine_samples import REFUSAL, destination_in

from multifd import limits
from multifd import messages as m
from multifd.errors import (
    Code,
    CorruptError,
    RefusedError,
    RemoteProtocolError,
)
from multifd.session import actions as a
from multifd.session.destination import DestinationSession
from multifd.session.states import DestinationState
from multifd.wire.control import serialize

D = DestinationState


# -- the plain way


@pytest.mark.parametrize("wire", [False, True], ids=["messages", "bytes"])
def test_a_whole_session_in_its_order(wire: bool) -> None:
    """HELLO to STARTED, with a device that takes part and one that does not; as dataclasses, and over the wire."""
    devices = (device("nic"), device("disk", explicit=False))
    pair = Pair.of(devices=devices, wire=wire).run()
    assert pair.destination.visited == IN_ORDER
    assert pair.destination_did == [
        a.Send(m.Hello((1, 1), SESSION, SECRET, EXPLICIT, 8, "multifd")),
        a.Decide((BLOCK,), devices, (m.KindInfo("ram"),), preflight=False),
        a.Send(m.Verdict(True, 2, (), (m.DeviceVerdict(True, CREDIT), m.DeviceVerdict(False, CREDIT)))),
        a.Send(m.Attached(2)),
        a.Send(m.Credit(1, CREDIT + 1)),
        a.Send(m.DeviceStatus(1, 1, True, 100, 0.1, 0.2, "ready")),
        a.Send(m.SwitchoverReady({1: 1})),
        a.Send(m.Credit(2, CREDIT + 1)),
        a.Send(m.DeviceStatus(2, 1, True, 100, 0.1, 0.2, "ready")),
        a.Send(m.Settled((3, 2))),
        a.Send(m.SyncDone("ram", 1)),
        a.Send(m.Credit(1, CREDIT + 2)),
        a.Send(m.DeviceStatus(1, 1, True, 200, 0.1, 0.2, "ready")),
        a.Send(m.Credit(2, CREDIT + 2)),
        a.Send(m.DeviceStatus(2, 1, True, 200, 0.1, 0.2, "ready")),
        a.Send(m.Settled((4, 3))),
        a.Send(m.SyncDone("ram", 2)),
        a.Prepare(),
        a.Send(m.Loaded({"prepare": 0.0})),
        a.StartOwner(),
        a.Send(m.Started({"start": 0.0})),
        a.Finished(None),
    ]
    assert pair.destination.session == SESSION
    assert pair.destination.final
    assert pair.destination.wake_at is None


# -- set-up


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (m.Hello((2, 3), SESSION, bytes(16), (), 1, ""), Code.VERSION),
        (m.Hello((1, 1), SESSION, bytes(16), ("zstd",), 1, ""), Code.FEATURE),
    ],
)
def test_a_hello_that_can_not_be_met_is_refused(hello: m.Hello, code: Code) -> None:
    """ABORTED with the code, and nothing else."""
    session = DestinationSession(destination_plan())
    session.handle_message(hello, 0.0)
    sent, finished = asked(session)
    assert isinstance(sent, a.Send)
    assert isinstance(sent.message, m.Aborted)
    assert sent.message.code is code
    assert isinstance(finished, a.Finished)
    assert isinstance(finished.error, RefusedError)
    assert session.visited == [D.HELLO, D.REFUSED]


def test_a_refusal_at_hello_fits_a_text_whatever_was_asked_for() -> None:
    """A source can ask for thousands of features with long names: what it is told is cut."""
    session = DestinationSession(destination_plan())
    features = tuple(f"{'x' * 1000}{number}" for number in range(4000))
    session.handle_message(m.Hello((1, 1), SESSION, bytes(16), features, 1, ""), 0.0)
    (aborted,) = said(session)
    assert len(serialize(aborted)) < 2 * limits.TEXT_BYTES_MAX


def test_a_verdict_fits_a_frame_whatever_was_offered() -> None:
    """Reasons quote the source's own texts: those that do not fit any more are left out."""
    session = DestinationSession(destination_plan())
    session.handle_message(HELLO, 0.0)
    session.handle_message(m.Inventory(1, 1, (BLOCK,), (), (), False), 0.0)
    refusals = [m.Refusal(m.What.DEVICE, f"d{number}", Code.DEVICE, "é" * 4000) for number in range(5000)]
    session.handle_decision(refusals, (), 0.0)
    verdict = said(session)[-1]
    assert isinstance(verdict, m.Verdict)
    assert not verdict.accepted
    assert len(serialize(verdict)) <= limits.FRAME_BYTES_MAX
    assert session.state is D.REFUSED


def test_inventory_is_decided_when_it_is_whole() -> None:
    """Pages are gathered; the offer is what all of them say together; a page too many is an error."""
    session = DestinationSession(destination_plan())
    session.handle_message(HELLO, 0.0)
    asked(session)
    second = m.BlockInfo("second", 1, 4096)
    session.handle_message(m.Inventory(1, 2, (BLOCK,), (), (), True), 0.0)
    assert asked(session) == []
    session.handle_message(m.Inventory(2, 2, (second,), (), (), True), 0.0)
    assert asked(session) == [a.Decide((BLOCK, second), (), (), preflight=True)]
    with pytest.raises(RemoteProtocolError, match="nothing after page 2"):
        session.handle_message(m.Inventory(2, 2, (), (), (), True), 0.0)


def test_channels_are_granted_up_to_the_most() -> None:
    """The lower of what is asked for and what is possible."""
    pair = Pair.of(channels=40).run(lambda p: p.destination.state is D.PRECOPY)
    assert pair.destination.channels == 8
    assert m.Attached(8) in pair.destination_said


def test_a_decision_after_the_end_says_nothing() -> None:
    """The session was called off while the offer was being looked at: no VERDICT goes out."""
    session = DestinationSession(destination_plan())
    session.handle_message(HELLO, 0.0)
    session.handle_message(m.Inventory(1, 1, (BLOCK,), (), (), False), 0.0)
    session.handle_message(m.Cancel(Code.CANCELLED, "enough"), 0.0)
    asked(session)
    session.handle_decision((REFUSAL,), (), 0.0)
    assert asked(session) == []
    assert session.state is D.ABORTED


def test_only_awaited_channels_attach() -> None:
    """1..N, each once, and only while they are awaited."""
    session = destination_in(D.ATTACH).destination
    assert [session.may_attach(number) for number in (0, 1, 2, 3)] == [False, True, True, False]
    session.handle_attached(2, 0.0)
    assert [session.may_attach(number) for number in (1, 2)] == [True, False]
    assert session.visited[-2:] == [D.INVENTORY, D.ATTACH]
    session.handle_attached(1, 0.0)
    assert session.visited[-2:] == [D.ATTACH, D.PRECOPY]
    assert not session.may_attach(1)


@pytest.mark.parametrize("state", D)
def test_no_channel_attaches_out_of_turn(state: D) -> None:
    """Neither before VERDICT nor after the last one was there."""
    session = destination_in(state).destination
    assert session.may_attach(1) is (state is D.ATTACH)


# -- rounds and counts


def test_settled_is_reported_in_batches() -> None:
    """Not at once, but no later than `SETTLED_DELAY_S` after the first that is reported; never twice the same."""
    session = receiving()
    session.handle_settled((1, 0), 1.0)
    assert asked(session) == []
    assert session.wake_at == 1.0 + limits.SETTLED_DELAY_S
    session.handle_settled((4, 2), 1.001)
    session.handle_settled((4, 2), 1.002)
    session.handle_timer(1.0 + limits.SETTLED_DELAY_S)
    assert said(session) == [m.Settled((4, 2))]
    session.handle_timer(2.0)
    assert asked(session) == []


def test_sync_done_comes_when_all_is_settled_and_after_the_counts() -> None:
    """SETTLED that covers the round is written before SYNC_DONE."""
    session = receiving()
    session.handle_message(m.Sync("ram", 1, (2, 1)), 0.0)
    session.handle_settled((2, 0), 0.0)
    assert asked(session) == []
    session.handle_settled((2, 1), 0.0)
    assert said(session) == [m.Settled((2, 1)), m.SyncDone("ram", 1)]
    session.handle_message(m.Sync("acme/log", 1, (2, 1)), 0.0)
    assert said(session) == [m.SyncDone("acme/log", 1)]


def test_counts_are_awaited_while_a_sync_or_end_is_open() -> None:
    """That is when every slot that is settled counts at once."""
    session = receiving()
    assert not session.awaits_counts
    session.handle_message(m.Sync("ram", 1, (1, 0)), 0.0)
    assert session.awaits_counts
    session.handle_settled((1, 0), 0.0)
    assert not session.awaits_counts
    session.handle_message(m.StopCopy({}), 0.0)
    session.handle_message(m.End((2, 0), {}, 0), 0.0)
    assert session.awaits_counts


def test_resend_is_written_before_the_count_that_covers_it() -> None:
    """proto/control.md section 2: so that a source never forgets a slot that is to be sent again."""
    session = receiving()
    session.handle_mismatch(2, 1, live=True, now=0.0)
    session.handle_settled((0, 1), 0.0)
    session.handle_timer(1.0)
    assert said(session) == [m.Resend(2, 1), m.Settled((0, 1))]
    assert (session.mismatches, session.corrupt) == (1, 0)


@pytest.mark.parametrize(("state", "live"), [(D.PRECOPY, False), (D.STOP_COPY, True), (D.STOP_COPY, False)])
def test_what_nobody_could_have_written_is_corruption(state: D, live: bool) -> None:
    """`CORRUPT_RESENDS_MAX` are sent again, the next one ends the session; nothing in the stop is live."""
    session = destination_in(state).destination
    asked(session)
    for number in range(1, limits.CORRUPT_RESENDS_MAX + 1):
        session.handle_mismatch(1, number, live=live, now=0.0)
    assert session.state is state
    session.handle_mismatch(1, 9, live=live, now=0.0)
    assert session.state is D.ABORTED
    actions = asked(session)
    assert isinstance(actions[-1], a.Finished)
    assert isinstance(actions[-1].error, CorruptError)
    session.handle_mismatch(1, 10, live=live, now=0.0)
    assert asked(session) == []


# -- devices


def test_ready_is_said_once_for_each_set_of_epochs() -> None:
    """When all that take part are ready; again after a re-arm of one of them."""
    session = receiving(devices=2)
    report(session, 1)
    assert not any(isinstance(message, m.SwitchoverReady) for message in said(session))
    report(session, 2)
    assert said(session)[-1] == m.SwitchoverReady({1: 1, 2: 1})
    report(session, 2)
    report(session, 1, epoch=2, ready=False)
    assert not any(isinstance(message, m.SwitchoverReady) for message in said(session))
    report(session, 1, epoch=2)
    assert said(session)[-1] == m.SwitchoverReady({1: 2, 2: 1})


def test_no_ready_if_nobody_takes_part() -> None:
    """Devices that do not take part have statuses and credit, and no say."""
    session = receiving(devices=2, takes_part=False)
    report(session, 1, epoch=7)
    report(session, 2)
    assert [type(message) for message in said(session)] == [m.Credit, m.DeviceStatus] * 2


def test_an_epoch_that_is_skipped_is_a_protocol_error() -> None:
    """Chunks are loaded in order, so an epoch can't be missing."""
    session = receiving(devices=1)
    with pytest.raises(RemoteProtocolError, match="epoch"):
        report(session, 1, epoch=3)


# -- STOP_COPY and END


@pytest.mark.parametrize("epochs", [{}, {1: 1, 2: 1}, {2: 1}])
def test_stop_copy_names_all_that_take_part(epochs: dict[int, int]) -> None:
    """No more and no fewer."""
    session = receiving(devices=1)
    with pytest.raises(RemoteProtocolError, match=r"STOP_COPY\.epochs"):
        session.handle_message(m.StopCopy(epochs), 0.0)
    session.handle_message(m.StopCopy({1: 1}), 0.0)
    assert session.state is D.STOP_COPY


@pytest.mark.parametrize(
    ("end", "where"),
    [
        (m.End((1,), {1: 1}, 0), "END.counts"),
        (m.End((1, 1, 1), {1: 1}, 0), "END.counts"),
        (m.End((1, 1), {}, 0), "END.chunks"),
        (m.End((1, 1), {1: 1, 2: 1}, 0), "END.chunks"),
        (m.End((1, 1), {2: 1}, 0), "END.chunks"),
        (m.End((1, 1), {1: 1}, 1), "END.resends"),
    ],
)
def test_an_end_that_can_not_be_is_a_protocol_error(end: m.End, where: str) -> None:
    """Counts of other channels, chunks of other devices, RESENDs that were never sent."""
    session = receiving(devices=1)
    session.handle_message(m.StopCopy({1: 1}), 0.0)
    with pytest.raises(RemoteProtocolError) as raised:
        session.handle_message(end, 0.0)
    assert raised.value.where == where


def test_more_slots_than_end_says_fail_the_session() -> None:
    """What is settled already can't have been never sent."""
    session = ending(m.End((1, 0), {}, 0), settled=(1, 1))
    assert session.state is D.ABORTED
    actions = asked(session)
    assert isinstance(actions[-1], a.Finished)
    assert isinstance(actions[-1].error, RemoteProtocolError)


def test_loading_ends_when_every_count_is_met() -> None:
    """Slots of every channel, chunks of every device, LAST of stop-copy among them: only then the owner may prepare."""
    session = ending(m.End((2, 1), {1: 2}, 0), devices=1)
    session.handle_settled((2, 1), 0.0)
    report(session, 1, chunks=1, complete=False)
    report(session, 1, chunks=2, complete=False)
    assert a.Prepare() not in asked(session)
    report(session, 1, chunks=2, complete=True)
    assert asked(session)[-2:] == [a.Send(m.Settled((2, 1))), a.Prepare()]
    session.handle_prepared({"prepare": 0.5}, 0.0)
    assert asked(session) == [a.Send(m.Loaded({"prepare": 0.5}))]
    assert session.state is D.LOADED


def test_devices_that_are_done_wait_for_the_slots() -> None:
    """The other way round: the last count to be met is a channel's."""
    session = ending(m.End((2, 1), {1: 2}, 0), devices=1)
    report(session, 1, chunks=2, complete=True)
    session.handle_settled((2, 0), 0.0)
    assert a.Prepare() not in asked(session)
    session.handle_settled((2, 1), 0.0)
    assert a.Prepare() in asked(session)


def test_an_end_before_the_last_resend_is_not_the_last() -> None:
    """A slot of the stop is bad: its count is met, but END names fewer RESENDs, so another one follows."""
    session = ending(m.End((2, 0), {}, 0), settled=(1, 0))
    session.handle_mismatch(1, 2, live=False, now=0.0)
    session.handle_settled((2, 0), 0.0)
    assert a.Prepare() not in asked(session)
    session.handle_message(m.End((3, 0), {}, 1), 0.0)
    assert a.Prepare() not in asked(session)
    session.handle_settled((3, 0), 0.0)
    assert a.Prepare() in asked(session)


def test_counts_of_an_end_never_go_back() -> None:
    """The second one says less than the first: a protocol error."""
    session = ending(m.End((3, 3), {}, 0))
    with pytest.raises(RemoteProtocolError, match=r"END\.counts"):
        session.handle_message(m.End((4, 2), {}, 0), 0.0)


def test_nothing_follows_the_end_whose_counts_were_met() -> None:
    """Neither an END that asks for more, nor a slot: while it prepares, and when LOADED is sent, the state is whole."""
    session = ending(m.End((1, 1), {}, 0), settled=(1, 1))
    assert a.Prepare() in asked(session)
    with pytest.raises(RemoteProtocolError, match="END"):
        session.handle_message(m.End((2, 1), {}, 0), 0.0)
    session.handle_prepared({}, 0.0)
    session.handle_settled((2, 1), 0.0)
    assert session.visited[-3:] == [D.LOADING, D.LOADED, D.ABORTED]
    assert isinstance(said(session)[-1], m.Aborted)
