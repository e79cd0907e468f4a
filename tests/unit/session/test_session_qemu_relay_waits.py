"""How long a relay waits: as long as it takes while the guest runs, or where giving up could make two guests of one."""

from __future__ import annotations

import pytest
from relay_by_hand import RAM, Driven, handshake

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase
from multifd.errors import DeadlineError
from multifd.session.qemu_states import RelayState


def test_missing_channels_have_a_deadline() -> None:
    """From the first connection on; the sentence says what may be wrong."""
    driven = Driven()
    assert driven.session.wake_at is None
    driven.session.handle_channel(handshake(1), 5.0)
    driven.session.handle_main(6.0)
    assert driven.session.wake_at == 5.0 + limits.QEMU_SETUP_DEADLINE_S
    driven.session.handle_timer(driven.session.wake_at)
    assert isinstance(driven.error, DeadlineError)
    assert "multifd-channels" in str(driven.error)


def test_connecting_has_a_deadline() -> None:
    """And passing on has none: while the guest runs the two QEMUs wait for each other as long as they like."""
    driven = Driven().gathered()
    assert driven.session.wake_at == limits.QEMU_SETUP_DEADLINE_S
    assert Driven().connected().session.wake_at is None
    live = Driven().live()
    for channel in range(2):
        live.session.handle_syncs_passed(channel, 1, 0.0)
    assert live.session.wake_at is None
    driven.session.handle_timer(limits.QEMU_SETUP_DEADLINE_S)
    assert "far end" in str(driven.error)


def test_syncs_have_a_deadline() -> None:
    """While main is held up at a mark: it is for silence, and the sentence says which channels are late."""
    driven = Driven().live()
    session = driven.session
    assert session.wake_at == limits.QEMU_SYNC_DEADLINE_S
    session.handle_progress(5.0)
    assert session.wake_at == 5.0 + limits.QEMU_SYNC_DEADLINE_S
    session.handle_syncs_passed(0, 1, 6.0)
    session.handle_timer(5.0 + limits.QEMU_SYNC_DEADLINE_S)
    assert isinstance(driven.error, DeadlineError)
    assert "SYNC on channel 1 to be passed on, at mark 1" in str(driven.error)
    assert session.state is RelayState.FAILED
    assert driven.replies == [e.Shut(1)]


def test_a_mark_whose_syncs_are_through_is_not_waited_for() -> None:
    """They may have been passed on before main came to it."""
    driven = Driven().connected()
    for channel in range(2):
        driven.session.handle_syncs_passed(channel, 1, 0.0)
    driven.feed(e.Command(CommandNumber.OPEN_RETURN_PATH), e.SyncMark())
    assert driven.session.wake_at is None


def through(driven: Driven) -> Driven:
    """All SYNCs so far are passed on."""
    for channel in range(2):
        driven.session.handle_syncs_passed(channel, driven.session.marks, 0.0)
    return driven


@pytest.mark.parametrize("first", [e.RamBegins(Phase.END, RAM), e.Command(CommandNumber.SWITCHOVER_START)])
def test_a_stopped_guest_has_a_deadline(first: e.StreamElement) -> None:
    """From either sign that it was stopped, to the release; for silence."""
    driven = through(Driven().live())
    session = driven.session
    session.handle_element(first, 10.0)
    assert session.wake_at == 10.0 + limits.QEMU_STOP_SILENCE_S
    session.handle_progress(20.0)
    session.handle_timer(10.0 + limits.QEMU_STOP_SILENCE_S)
    assert not session.final
    session.handle_timer(20.0 + limits.QEMU_STOP_SILENCE_S)
    assert isinstance(driven.error, DeadlineError)
    assert "no-vmdesc" not in str(driven.error)
    assert (session.state, driven.replies) == (RelayState.FAILED, [e.Shut(1)])


def test_what_a_stopped_guest_waits_for_is_said() -> None:
    """Channels, if it is those; a description that never comes, if nothing else is missing."""
    driven = Driven().stopped()
    driven.session.handle_timer(limits.QEMU_STOP_SILENCE_S)
    assert "SYNC on channel 0, 1" in str(driven.error)
    driven = through(Driven().stopped())
    driven.session.handle_timer(limits.QEMU_STOP_SILENCE_S)
    assert "--no-vmdesc" in str(driven.error)


def test_a_far_end_that_waits_has_a_deadline_for_shut() -> None:
    """It can't run by itself, so the guest may go on at the source; bytes that are still leaving put it off."""
    driven = Driven(continues=True).released()
    assert driven.session.wake_at == limits.QEMU_SHUT_DEADLINE_S
    driven.session.handle_progress(7.0)
    assert driven.session.wake_at == 7.0 + limits.QEMU_SHUT_DEADLINE_S
    driven.session.handle_timer(7.0 + limits.QEMU_SHUT_DEADLINE_S)
    assert "SHUT" in str(driven.error)
    assert "end that QEMU" in str(driven.error)
    assert (driven.session.state, driven.replies) == (RelayState.FAILED, [e.Shut(1)])


def test_a_far_end_that_may_run_is_waited_for_for_ever() -> None:
    """Giving up could make two of one: its SHUT 0 may come at any time."""
    driven = Driven().released()
    assert driven.session.wake_at is None
    driven.session.handle_progress(1e8)
    driven.session.handle_timer(1e9)
    assert not driven.session.final
    driven.session.handle_return(e.Shut(0), 1e9)
    assert driven.session.state is RelayState.COMMITTED
    assert driven.session.wake_at == 1e9 + limits.QEMU_DONE_DEADLINE_S


def test_shut_0_ends_the_wait_for_it() -> None:
    """What is waited for then is the source."""
    driven = Driven(continues=True).committed()
    assert driven.session.wake_at == limits.QEMU_DONE_DEADLINE_S
    driven.session.handle_progress(5.0)
    assert driven.session.wake_at == limits.QEMU_DONE_DEADLINE_S


def test_a_source_that_does_not_close_has_a_deadline() -> None:
    """Without a far end that waits it changes nothing; with one it is not continued."""
    driven = Driven().committed()
    driven.session.handle_timer(limits.QEMU_DONE_DEADLINE_S)
    assert driven.error is None
    assert driven.session.notes
    driven = Driven(continues=True).committed()
    driven.session.handle_timer(limits.QEMU_DONE_DEADLINE_S)
    assert driven.session.state is RelayState.IN_DOUBT
