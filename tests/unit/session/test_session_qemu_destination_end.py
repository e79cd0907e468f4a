"""A destination of stock QEMUs, step by step: from the stop of the guest to SHUT, and how it fails."""

from __future__ import annotations

import pytest
from qemu_destination_by_hand import (
    CONFIGURATION,
    STARTING,
    VFIO,
    D,
    asked,
    attach,
    failure,
    feed,
    live,
    session,
    storing,
    sync,
)
from qemu_pair import DEVICES, OPENING, RAM, command, machine, section

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase
from multifd.errors import MultifdError, RefusedError, RemoteProtocolError
from multifd.session import qemu_actions as a


def test_everything_is_handed_over_to_be_stored() -> None:
    """What is stored is the whole machine, with what came early and late told apart."""
    state = machine()
    it = session()
    attach(it, 0, 1)
    assert state.description is not None
    feed(it, state.configuration, *OPENING, *state.early, *STARTING)
    it.handle_prepared(0.0)
    feed(it, e.SyncMark())
    sync(it)
    feed(it, e.RamEnds(Phase.START), command(CommandNumber.SWITCHOVER_START))
    feed(it, e.RamBegins(Phase.END, RAM), e.RamEnds(Phase.END), *state.sections, e.EndOfState())
    assert asked(it)[-1] == a.Release(final=True)
    feed(it, e.Description(state.description))
    assert asked(it) == [a.Store(state)]
    it.handle_stored(0.0)
    assert asked(it) == [a.Reply(e.Shut(0)), a.Finished(None)]
    assert it.state is D.COMPLETED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"timer 0 5\ncpu 0 5", "section 3 is cpu 1 with 4 bytes, which the VM description does not have"),
        (b"timer 0 5\ncpu 0 5\ncpu 1 3", "says cpu 1 with 3 bytes"),
        (b"nonsense", "VM description: expected JSON"),
    ],
)
def test_sections_must_be_as_described(text: bytes, words: str) -> None:
    """Any difference fails while the source still has the guest; nothing is stored."""
    it = live()
    feed(it, e.RamBegins(Phase.END, RAM), e.RamEnds(Phase.END), *DEVICES, e.EndOfState(), e.Description(text))
    assert words in str(failure(it))


def test_without_a_description() -> None:
    """Who says that none comes stores at the end of the state, and is told what that means."""
    it = storing(description=False)
    assert "nothing tells whether all sections came" in it.notes[-1]
    it.handle_stored(0.0)
    assert asked(it) == [a.Reply(e.Shut(0)), a.Finished(None)]


def test_a_missing_description_is_not_waited_for_without_end() -> None:
    """The source's guest is stopped, so silence is short; the text says what to do."""
    it = live()
    feed(it, e.RamBegins(Phase.END, RAM), e.RamEnds(Phase.END), now=10.0)
    assert it.wake_at == 10.0 + limits.QEMU_STOP_SILENCE_S
    feed(it, *DEVICES, e.EndOfState(), now=20.0)
    assert it.wake_at == 20.0 + limits.QEMU_STOP_SILENCE_S
    it.handle_timer(it.wake_at)
    assert "receive it with --no-vmdesc" in str(failure(it))


def test_silence_counts_from_the_stop_on() -> None:
    """Before SWITCHOVER_START a source may be silent for ever, as with pause-before-switchover; after it, not."""
    it = live()
    feed(it, e.RamBegins(Phase.PART, RAM), e.RamEnds(Phase.PART))
    assert it.wake_at is None
    feed(it, command(CommandNumber.SWITCHOVER_START), now=5.0)
    assert it.wake_at == 5.0 + limits.QEMU_STOP_SILENCE_S
    it.handle_timer(it.wake_at)
    assert "more of the stream after the guest was stopped" in str(failure(it))


def test_a_live_device_must_end() -> None:
    """A device that began and did not end is a fault of the stream."""
    it = live()
    feed(it, section(VFIO, b"", Phase.START), e.RamBegins(Phase.END, RAM), e.RamEnds(Phase.END), e.EndOfState())
    assert f"an END of {VFIO} 0" in str(failure(it))


def test_storing_has_a_deadline() -> None:
    """The guest is stopped meanwhile: a disk that hangs gives it back to the source."""
    it = storing()
    assert it.wake_at == limits.QEMU_STORE_DEADLINE_S
    it.handle_progress(100.0)
    assert it.wake_at == limits.QEMU_STORE_DEADLINE_S
    it.handle_timer(it.wake_at)
    assert "stored at this side" in str(failure(it))
    it.handle_stored(1e6)
    assert asked(it) == []


def test_the_first_error_wins() -> None:
    """After one failure nothing changes any more, and nothing is said again."""
    it = live()
    it.handle_failure(RefusedError((), "one"), 0.0)
    it.handle_failure(RefusedError((), "two"), 0.0)
    assert not it.cancel("three", 0.0)
    assert str(failure(it)) == "one"
    it.handle_synced(0, 0.0)
    it.handle_element(e.EndOfState(), 0.0)
    it.handle_main_ended(None, 0.0)
    it.handle_channel_ended(0, None, 0.0)
    it.handle_timer(1e9)
    assert asked(it) == []


def test_what_was_asked_for_and_not_begun_is_taken_back() -> None:
    """A failure leaves replies in the queue, in their order, and nothing else."""
    it = session()
    attach(it, 0, 1)
    feed(it, CONFIGURATION, *OPENING, *STARTING)
    it.cancel("enough", 0.0)
    replies, finished = asked(it)[:-1], it.state
    assert replies == [a.Reply(e.Pong(1)), a.Reply(e.Shut(1))]
    assert finished is D.CANCELLED


def test_a_lost_main_is_told_nothing() -> None:
    """Where main is gone no SHUT is written; the text says who has the guest."""
    it = live()
    it.handle_main_ended(RemoteProtocolError("main at 99: end of the stream", "a section"), 0.0)
    (finished,) = asked(it)
    assert isinstance(finished, a.Finished)
    assert "(main at 99: end of the stream: a section was missing)" in str(finished.error)
    assert "the guest stays there" in str(finished.error)


@pytest.mark.parametrize(
    ("state", "error", "fails"),
    [
        ("live", None, True),
        ("live", RefusedError((), "broken"), True),
        ("storing", None, False),
        ("storing", RefusedError((), "broken"), True),
    ],
)
def test_the_end_of_a_channel(state: str, error: MultifdError | None, fails: bool) -> None:
    """A channel that ends before the state did is a failure; afterwards only one that ends badly is."""
    it = live() if state == "live" else storing()
    it.handle_channel_ended(1, error, 0.0)
    assert (it.state is D.FAILED) is fails
    if fails:
        assert ("broken" if error else "channel 1 ended before the state did") in str(failure(it))


@pytest.mark.parametrize("times", [1, 2])
def test_one_surplus_sync_at_the_end(times: int) -> None:
    """Sources of 9.1 and 9.2 send a SYNC without a mark at the very end; two are an error."""
    it = storing()
    for _ in range(times):
        it.handle_synced(0, 0.0, offset=5)
    assert (it.state is D.FAILED) is (times == 2)


def test_cancel_is_too_late_after_shut_0() -> None:
    """Up to SHUT 0 it can be called off; after it the machine is here."""
    it = storing()
    assert it.cancel("enough", 0.0)
    assert asked(it)[0] == a.Reply(e.Shut(1))
    done = storing()
    done.handle_stored(0.0)
    assert not done.cancel("enough", 0.0)
    assert asked(done) == [a.Reply(e.Shut(0)), a.Finished(None)]
