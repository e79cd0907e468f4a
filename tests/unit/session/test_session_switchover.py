"""Explicit switchover: gate and announcement are for the newest epochs of all that take part, and nothing else."""

import pytest

from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.session.switchover import ReadyGate, ReadyTracker


def test_gate_without_participants_is_open_and_waits_for_nobody() -> None:
    """Nobody takes part: open from the start, and a re-arm does not close it."""
    gate = ReadyGate([1, 2], [])
    assert gate.open
    assert gate.waiting_for() == ()
    assert gate.rearm(2) == 2
    assert gate.open
    assert gate.current() == {}


def test_gate_opens_on_ready_of_all_current_epochs() -> None:
    """Rule 3: every epoch is the source's own; a second time has no effect."""
    gate = ReadyGate([1, 2, 3], [3, 1])
    assert not gate.open
    assert gate.waiting_for() == (1, 3)
    assert gate.handle_ready({1: 1, 3: 1}) is True
    assert gate.open
    assert gate.waiting_for() == ()
    assert gate.handle_ready({1: 1, 3: 1}) is False
    assert gate.open


def test_rearm_takes_acceptance_back_and_only_the_new_epoch_opens_again() -> None:
    """A READY for the epoch before the re-arm counts for nothing (rule 4)."""
    gate = ReadyGate([1, 2], [1, 2])
    gate.handle_ready({1: 1, 2: 1})
    assert gate.rearm(1) == 2
    assert not gate.open
    assert gate.handle_ready({1: 1, 2: 1}) is False
    assert not gate.open
    assert gate.handle_ready({1: 2, 2: 1}) is True
    assert gate.current() == {1: 2, 2: 1}


def test_rearm_of_a_bystander_keeps_the_gate_open() -> None:
    """A device that does not take part has epochs, but no say."""
    gate = ReadyGate([1, 2], [1])
    gate.handle_ready({1: 1})
    assert gate.rearm(2) == 2
    assert gate.open
    assert gate.epochs == {1: 1, 2: 2}


@pytest.mark.parametrize(
    "epochs",
    [
        {1: 1, 2: 1, 3: 1},  # 3 does not take part
        {1: 1, 2: 1, 9: 1},  # unknown
        {1: 1, 2: 2},  # from the future
        {1: 1, 2: 0},  # zero is invalid in every number
        {1: 1},  # 2 is missing
        {},
    ],
)
def test_gate_refuses_what_no_destination_may_send(epochs: dict[int, int]) -> None:
    """Rules 1 and 2 are protocol errors of the peer, also when the gate is open already; they change nothing."""
    gate = ReadyGate([1, 2, 3], [1, 2])
    with pytest.raises(RemoteProtocolError, match="SWITCHOVER_READY"):
        gate.handle_ready(epochs)
    assert not gate.open
    gate.handle_ready({1: 1, 2: 1})
    with pytest.raises(RemoteProtocolError):
        gate.handle_ready(epochs)
    assert gate.open


def test_gate_names_rule_one_before_rule_two() -> None:
    """First rule that fits: with an unknown device and a missing one the unknown one is named."""
    gate = ReadyGate([1, 2], [1, 2])
    with pytest.raises(RemoteProtocolError, match="devices that take part, got 7"):
        gate.handle_ready({7: 1})


def test_ready_is_refused_if_nobody_takes_part_but_names_a_device() -> None:
    """With nobody taking part every device in READY is one that does not; an empty one has no effect."""
    gate = ReadyGate([1], [])
    with pytest.raises(RemoteProtocolError):
        gate.handle_ready({1: 1})
    assert gate.handle_ready({}) is False


def test_gate_refuses_misuse() -> None:
    """Devices that were never named are this side's fault."""
    with pytest.raises(LocalProtocolError):
        ReadyGate([1], [2])
    with pytest.raises(LocalProtocolError):
        ReadyGate([1], [1]).rearm(2)


def test_tracker_announces_once_when_the_last_device_is_ready() -> None:
    """All that take part are ready: one READY with all epochs, and no second one."""
    tracker = ReadyTracker([1, 2])
    assert tracker.poll_ready() is None
    tracker.handle_device_ready(1, 1)
    assert tracker.poll_ready() is None
    tracker.handle_device_ready(2, 1)
    assert tracker.poll_ready() == {1: 1, 2: 1}
    assert tracker.poll_ready() is None


def test_tracker_without_participants_never_announces() -> None:
    """Nobody takes part: no READY, and calls about other devices have no effect."""
    tracker = ReadyTracker([])
    tracker.handle_epoch(1, 7)
    tracker.handle_device_ready(1, 7)
    assert tracker.poll_ready() is None


def test_tracker_announces_anew_after_a_rearm() -> None:
    """A chunk of a newer epoch takes readiness back; ready again under it, READY is due again."""
    tracker = ReadyTracker([1, 2])
    tracker.handle_device_ready(1, 1)
    tracker.handle_device_ready(2, 1)
    assert tracker.poll_ready() is not None
    tracker.handle_epoch(1, 1)
    assert tracker.poll_ready() is None
    tracker.handle_epoch(1, 2)
    assert tracker.poll_ready() is None
    tracker.handle_device_ready(1, 1)  # its set-up ended late: not its newest epoch any more
    assert tracker.poll_ready() is None
    tracker.handle_device_ready(1, 2)
    assert tracker.poll_ready() == {1: 2, 2: 1}


def test_tracker_forgets_an_announcement_that_was_not_sent() -> None:
    """A re-arm between ready and poll: nothing is announced for the old epoch."""
    tracker = ReadyTracker([1])
    tracker.handle_device_ready(1, 1)
    tracker.handle_epoch(1, 2)
    assert tracker.poll_ready() is None


@pytest.mark.parametrize("epoch", [1, 4, 0])
def test_tracker_refuses_epochs_that_go_back_or_jump(epoch: int) -> None:
    """From epoch 2 only 2 and 3 can follow."""
    tracker = ReadyTracker([1])
    tracker.handle_epoch(1, 2)
    with pytest.raises(RemoteProtocolError, match="2 or 3 for device 1"):
        tracker.handle_epoch(1, epoch)
