"""Messages of devices at the destination, and the owner's right to run between LOADED and COMMIT, in both machines."""

from __future__ import annotations

import pytest
from machine_pair import EXPLICIT, Pair, destination_plan, device
from machine_samples import source_in

from multifd import limits
from multifd import messages as m
from multifd.errors import LocalProtocolError, OwnerError, RemoteProtocolError
from multifd.session import actions as a
from multifd.session.device_messages import MessageCounts
from multifd.session.states import DestinationState, SourceState

S = SourceState
D = DestinationState
FEATURES = (*EXPLICIT, m.DEVICE_MESSAGES)
MOST = limits.DEVICE_MESSAGES_MAX


def pair_with_messages() -> Pair:
    """In precopy, with the feature in use and two devices."""
    devices = [device("nic"), device("gpu")]
    pair = Pair.of(devices=devices, destination=destination_plan(features=FEATURES), features=FEATURES)
    pair.held = {a.Survey}
    return pair.run(lambda p: p.destination.state is D.PRECOPY)


def test_what_a_device_says_is_delivered_and_heard() -> None:
    """In its order, to its own counterpart; and the destination learns that it was heard."""
    pair = pair_with_messages()
    for number, data in [(1, b"one"), (2, b"two"), (1, b"three")]:
        pair.destination.handle_said(number, data)
    pair.run(lambda p: a.Heard(1, 2) in p.destination_did)
    delivered = [action for action in pair.source_did if isinstance(action, a.Deliver)]
    assert delivered == [a.Deliver(1, b"one"), a.Deliver(2, b"two"), a.Deliver(1, b"three")]
    heard = [action for action in pair.destination_did if isinstance(action, a.Heard)]
    assert heard == [a.Heard(1, 1), a.Heard(2, 1), a.Heard(1, 2)]
    pair.held.clear()
    pair.run()
    assert pair.destination_runs


def test_the_feature_is_refused_where_it_is_missing() -> None:
    """A destination of before it says so at HELLO."""
    pair = Pair.of(features=FEATURES, destination=destination_plan(features=EXPLICIT)).run()
    assert pair.source.state is S.REFUSED
    assert m.DEVICE_MESSAGES in str(pair.source_error)


def test_a_message_without_the_feature_breaks_the_protocol() -> None:
    """On either way, whatever it says; and our own side does not send one."""
    pair = source_in(S.PRECOPY)
    with pytest.raises(RemoteProtocolError, match="DEVICE_MESSAGE: expected none without the feature"):
        pair.source.handle_message(m.DeviceMessage(1, b"x"), pair.now)
    with pytest.raises(RemoteProtocolError, match="DEVICE_HEARD: expected none without the feature"):
        pair.destination.handle_message(m.DeviceHeard(1, 1), pair.now)
    with pytest.raises(LocalProtocolError, match="DEVICE_MESSAGE"):
        pair.destination.handle_said(1, b"x")


def test_no_more_is_under_way_than_may_be() -> None:
    """One more than `DEVICE_MESSAGES_MAX` of a device unheard is an error of whoever sends it; others are not held."""
    counts = MessageCounts(FEATURES, 2)
    for _ in range(MOST):
        counts.take(1)
    with pytest.raises(RemoteProtocolError, match=f"at most {MOST} of a device unheard"):
        counts.take(1)
    counts.take(2)
    assert [counts.hear(1), counts.hear(1)] == [1, 2]
    counts.take(1)
    saying = MessageCounts(FEATURES, 1)
    for _ in range(MOST):
        saying.say(1)
    with pytest.raises(LocalProtocolError, match="DEVICE_MESSAGE"):
        saying.say(1)
    saying.handle_heard(1, 1)
    saying.say(1)


@pytest.mark.parametrize("count", [0, 2, 4, 1 << 63])
def test_heard_counts_what_was_said_once(count: int) -> None:
    """A count that is not above the last, or above all that was said, is refused."""
    counts = MessageCounts(FEATURES, 1)
    for _ in range(3):
        counts.say(1)
    counts.handle_heard(1, 2)
    with pytest.raises(RemoteProtocolError, match=r"DEVICE_HEARD.count: expected 3..3, of what was said"):
        counts.handle_heard(1, count)


@pytest.mark.parametrize("number", [0, 3, 1 << 31])
def test_a_device_that_nobody_knows_is_refused(number: int) -> None:
    """By both sides, which name the field."""
    counts = MessageCounts(FEATURES, 2)
    with pytest.raises(RemoteProtocolError, match=r"DEVICE_MESSAGE.device: expected 1..2"):
        counts.take(number)
    with pytest.raises(RemoteProtocolError, match=r"DEVICE_HEARD.device: expected 1..2"):
        counts.handle_heard(number, 1)


def test_after_the_end_nothing_is_said_or_heard() -> None:
    """The source writes no DEVICE_HEARD after COMMIT, the destination no message after LOADED was answered."""
    pair = pair_with_messages()
    pair.held = {a.Deliver, a.StartOwner}
    pair.destination.handle_said(1, b"late to be heard")
    pair.run(lambda p: p.destination.state is D.STARTING)
    assert pair.source.state is S.COMMITTED
    said = len(pair.source_said)
    pair.do_held(a.Deliver)
    assert len(pair.source_said) == said
    there = len(pair.destination_said)
    pair.destination.handle_said(1, b"nobody listens")
    pair.poll()
    assert len(pair.destination_said) == there


# -- the right to run


def test_commit_waits_for_the_owner() -> None:
    """After LOADED the owner is asked; COMMIT follows its answer, and is not written twice."""
    pair = source_in(S.RELEASING)
    assert pair.source_did[-1] == a.Release()
    assert pair.destination.state is D.LOADED
    assert m.Commit() not in pair.source_said
    pair.do_held(a.Release)
    pair.source.handle_released(pair.now)
    pair.held.clear()
    pair.run()
    assert pair.source.visited[-3:] == [S.RELEASING, S.COMMITTED, S.COMPLETED]
    assert pair.source_said.count(m.Commit()) == 1
    pair.assert_one_runs()


def test_an_owner_that_keeps_the_right_runs_on() -> None:
    """It is started again here, and the destination, which holds everything, never starts."""
    pair = source_in(S.RELEASING)
    pair.source.handle_failure(OwnerError("somebody said no"), pair.now)
    pair.source.handle_released(pair.now)  # too late
    pair.run()
    assert pair.source.state is S.FAILED
    assert pair.destination.visited[-2:] == [D.LOADED, D.ABORTED]
    assert pair.source_runs
    assert not pair.destination_runs


def test_an_owner_that_takes_too_long_runs_on() -> None:
    """`RELEASE_DEADLINE_S` ends it, before the destination gives up waiting for COMMIT."""
    pair = source_in(S.RELEASING)
    began = pair.now
    pair.run()
    assert "the owner to give up the right to run" in str(pair.source_error)
    assert began + limits.RELEASE_DEADLINE_S <= pair.now < began + limits.COMMIT_DEADLINE_S
    assert pair.source_runs
