"""The relay's machine: nothing but the far end's own word moves the guest, and who must know of a failure is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from relay_by_hand import LOST, RAM, Driven, globalstate, handshake

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase, SyncDialect
from multifd.errors import (
    InDoubtError,
    LocalProtocolError,
    MultifdError,
    PeerError,
    RemoteProtocolError,
)
from multifd.session import qemu_relay as r
from multifd.session.qemu_relay import QemuRelaySession
from multifd.session.qemu_states import RELAY_TRANSITIONS, RelayState

SAFE: list[Callable[[Driven], Driven]] = [Driven.gathered, Driven.connected, Driven.live, Driven.stopped]


# -- the way that it should go


def test_a_migration_goes_through() -> None:
    """Each step asks for the next, in order; SHUT 0 is passed on at once."""
    driven = Driven().committed()
    driven.take()
    driven.session.handle_near_ended(None, 0.0)
    driven.take()
    assert driven.asked == [
        r.ConnectFar(), r.StartChannels(4096), r.Release(), r.Reply(e.Shut(0)), r.Finished(None),
    ]  # fmt: skip
    assert driven.session.state is RelayState.COMPLETED
    assert driven.session.guest == "at the far end"
    assert driven.session.final


def test_the_far_end_goes_on_only_when_the_source_is_done() -> None:
    """With a far end that waits: after SHUT 0 was passed on, and the source has closed main."""
    driven = Driven(continues=True).committed()
    assert r.ContinueFar() not in driven.take()
    driven.session.handle_near_ended(None, 0.0)
    assert driven.take() == [r.ContinueFar()]
    driven.session.handle_continued(0.0)
    assert driven.error is None
    assert driven.session.state is RelayState.COMPLETED


def test_a_guest_that_did_not_run_is_not_continued() -> None:
    """It was paused at the source when it was stopped: it stays so."""
    driven = Driven(continues=True).stopped()
    driven.feed(globalstate(b"paused"), e.EndOfState(), e.Description(b"{}"))
    driven.session.handle_main_whole(0.0)
    for channel in range(2):
        driven.session.handle_syncs_passed(channel, 2, 0.0)
    driven.session.handle_return(e.Shut(0), 0.0)
    driven.session.handle_near_ended(None, 0.0)
    assert driven.error is None
    assert r.ContinueFar() not in driven.asked
    assert "paused" in driven.session.notes[0]


def test_answers_are_passed_on() -> None:
    """PONG and acknowledgements, as they come."""
    driven = Driven().live()
    for message in (e.Pong(1), e.SwitchoverAck()):
        driven.session.handle_return(message, 0.0)
    assert driven.replies == [e.Pong(1), e.SwitchoverAck()]
    assert driven.session.acks == 1


@pytest.mark.parametrize("last", [0, 1])
def test_the_end_is_held_back_until_all_channels_are_through(last: int) -> None:
    """Whichever channel is the last one: the far end can't have the machine before."""
    driven = Driven().stopped()
    driven.feed(e.EndOfState(), e.Description(b"{}"))
    driven.session.handle_syncs_passed(1 - last, 2, 0.0)
    driven.session.handle_main_whole(0.0)
    driven.session.handle_syncs_passed(last, 1, 0.0)
    assert r.Release() not in driven.take()
    assert driven.session.main_blocked
    driven.session.handle_syncs_passed(last, 2, 0.0)
    assert driven.take() == [r.Release()]


def test_main_waits_at_each_mark() -> None:
    """The far end stands still at a mark, its monitor too, until all SYNCs are there: they go first."""
    driven = Driven().live()
    assert driven.session.main_blocked
    driven.session.handle_syncs_passed(0, 1, 0.0)
    assert driven.session.main_blocked
    driven.session.handle_syncs_passed(1, 3, 0.0)
    assert not driven.session.main_blocked
    driven.feed(e.RamBegins(Phase.PART, RAM))
    assert not driven.session.main_blocked
    driven.feed(e.SyncMark())
    assert driven.session.main_blocked
    driven.session.handle_failure(LOST, 0.0)
    assert not driven.session.main_blocked


def test_each_section_is_a_mark_in_the_old_dialect() -> None:
    """A START without a mark: then the ends of RAM's sections are marks."""
    driven = Driven().connected()
    driven.feed(e.Command(CommandNumber.OPEN_RETURN_PATH), e.RamBegins(Phase.START, RAM), e.RamEnds(Phase.START))
    for _ in range(3):
        driven.feed(e.RamBegins(Phase.PART, RAM), e.RamEnds(Phase.PART))
    driven.feed(e.RamBegins(Phase.END, RAM), e.RamEnds(Phase.END))
    assert (driven.session.sync, driven.session.marks) == (SyncDialect.PER_SECTION, 5)


# -- failures before the far end can have it


@pytest.mark.parametrize("step", SAFE)
@pytest.mark.parametrize("happens", [
    lambda session: session.handle_near_ended(None, 0.0),
    lambda session: session.handle_near_ended(LOST, 0.0),
    lambda session: session.handle_far_ended(None, 0.0),
    lambda session: session.handle_far_ended(LOST, 0.0, gone=False),
    lambda session: session.handle_channel_ended(LOST, 0.0),
    lambda session: session.handle_failure(RemoteProtocolError("main at 7", "sense"), 0.0),
    lambda session: session.handle_return(e.Shut(1), 0.0),
    lambda session: session.handle_return(e.Shut(0), 0.0),
])  # fmt: skip
def test_before_the_release_everything_fails_safely(
    step: Callable[[Driven], Driven], happens: Callable[[QemuRelaySession], None]
) -> None:
    """The source is told SHUT 1 if it listens, and its guest runs on; also when the far end says SHUT 0 out of turn."""
    driven = step(Driven())
    driven.take()
    happens(driven.session)
    assert driven.error is not None
    assert driven.session.state is RelayState.FAILED
    assert driven.session.guest == "at the source"
    assert driven.replies == ([e.Shut(1)] if driven.session.return_path else [])


@pytest.mark.parametrize("step", SAFE)
def test_it_can_be_called_off_before_the_release(step: Callable[[Driven], Driven]) -> None:
    """With the same word to the source."""
    driven = step(Driven())
    assert driven.session.cancel("enough", 0.0)
    assert str(driven.error) == "enough"
    assert driven.session.state is RelayState.CANCELLED
    assert driven.replies == ([e.Shut(1)] if driven.session.return_path else [])
    assert not driven.session.cancel("again", 0.0)


@pytest.mark.parametrize("step", [Driven.released, Driven.committed, Driven.continuing])
def test_later_it_is_too_late(step: Callable[[Driven], Driven]) -> None:
    """Only the far end knows."""
    driven = step(Driven(continues=True))
    assert not driven.session.cancel("enough", 0.0)
    assert not driven.session.final


def test_a_source_without_return_path_is_refused() -> None:
    """It could not be told of a failure; nothing is written to it."""
    driven = Driven(return_path=False).live()
    assert "return-path" in str(driven.error)
    assert driven.replies == []


def test_an_answer_before_the_return_path_is_open_is_a_fault() -> None:
    """The source would fail over it, and blame this side."""
    driven = Driven().connected()
    driven.session.handle_return(e.Pong(1), 0.0)
    assert isinstance(driven.error, RemoteProtocolError)


# -- failures when only the far end knows


def test_a_far_end_that_says_no_leaves_the_guest() -> None:
    """SHUT 1 is passed on once."""
    driven = Driven().released()
    driven.session.handle_return(e.Shut(1), 0.0)
    assert isinstance(driven.error, PeerError)
    assert driven.replies == [e.Shut(1)]
    assert driven.session.shut == 1


def test_a_far_end_that_dies_leaves_the_guest() -> None:
    """As between two QEMUs: no SHUT is a failure."""
    driven = Driven().released()
    driven.session.handle_far_ended(None, 0.0)
    assert driven.session.state is RelayState.FAILED
    assert driven.replies == [e.Shut(1)]


def test_a_link_that_is_lost_may_have_swallowed_shut_0() -> None:
    """Then the guest may run at both; unless the far end waits for us."""
    driven = Driven().released()
    driven.session.handle_far_ended(LOST, 0.0, gone=False)
    assert isinstance(driven.error, InDoubtError)
    assert "stop one" in str(driven.error)
    assert driven.replies == []
    driven = Driven(continues=True).released()
    driven.session.handle_far_ended(LOST, 0.0, gone=False)
    assert driven.session.state is RelayState.FAILED
    assert driven.replies == [e.Shut(1)]


def test_a_source_that_gives_up_late() -> None:
    """Its guest runs on, and the far end's may, unless it waits for us."""
    driven = Driven().released()
    driven.session.handle_near_ended(None, 0.0)
    assert driven.session.state is RelayState.IN_DOUBT
    driven = Driven(continues=True).released()
    driven.session.handle_near_ended(None, 0.0)
    assert driven.session.state is RelayState.FAILED
    assert "end that QEMU" in str(driven.error)


def test_channels_do_not_matter_after_the_release() -> None:
    """Main tells what became of it."""
    driven = Driven().released()
    driven.session.handle_channel_ended(LOST, 0.0)
    assert not driven.session.final
    driven = Driven().committed()
    driven.session.handle_channel_ended(LOST, 0.0)
    driven.session.handle_far_ended(None, 0.0)
    assert not driven.session.final


def test_a_source_that_is_lost_after_shut_0() -> None:
    """Nobody knows whether it took it: the far end is not continued."""
    for continues, advice in ((False, "stop one"), (True, "query-migrate at the source")):
        driven = Driven(continues=continues).committed()
        driven.session.handle_near_ended(LOST, 0.0)
        assert driven.session.state is RelayState.IN_DOUBT
        assert advice in str(driven.error)
        assert r.ContinueFar() not in driven.asked


@pytest.mark.parametrize("error", [None, LOST])
def test_the_source_is_asked(error: MultifdError | None) -> None:
    """If it can be: main was closed or lost, its own word settles either."""
    driven = Driven(continues=True, asks=True).committed()
    driven.session.handle_near_ended(error, 0.0)
    assert driven.take()[-1] == r.AskSource()
    driven.session.handle_source_status("completed", 0.0)
    assert driven.take() == [r.ContinueFar()]
    driven.session.handle_source_status("completed", 0.0)
    assert driven.take() == []


def test_a_source_that_is_not_done_keeps_its_guest() -> None:
    """It was called off with SHUT 0 in hand: a far end that waits is not continued, of another there are two."""
    driven = Driven(continues=True, asks=True).committed()
    driven.session.handle_near_ended(None, 0.0)
    driven.session.handle_source_status("cancelled", 0.0)
    assert "end that QEMU" in str(driven.error)
    assert driven.session.state is RelayState.FAILED
    driven = Driven(asks=True).committed()
    driven.session.handle_near_ended(None, 0.0)
    driven.session.handle_source_status("cancelled", 0.0)
    assert driven.session.state is RelayState.IN_DOUBT


def test_a_source_that_does_not_answer_is_in_doubt() -> None:
    """Asking has a deadline, and may fail."""
    driven = Driven(continues=True, asks=True).committed()
    driven.session.handle_near_ended(None, 0.0)
    driven.session.handle_timer(limits.QEMU_DONE_DEADLINE_S)
    assert driven.session.state is RelayState.IN_DOUBT
    assert r.ContinueFar() not in driven.asked


def test_a_far_end_that_does_not_go_on() -> None:
    """The guest is there, and stands still: that is said."""
    driven = Driven(continues=True).continuing()
    driven.session.handle_failure(MultifdError("no answer"), 0.0)
    assert driven.session.state is RelayState.IN_DOUBT
    assert "give it `cont`" in str(driven.error)


# -- who and what comes


def test_an_end_of_ram_out_of_turn_fails_it() -> None:
    """It is the source's fault, and nothing is raised here."""
    for step in (Driven.gathered, Driven.stopped):
        driven = step(Driven())
        driven.feed(e.RamBegins(Phase.END, RAM))
        assert isinstance(driven.error, RemoteProtocolError)
        assert driven.session.state is RelayState.FAILED
        driven.feed(e.RamBegins(Phase.END, RAM))
        assert driven.take() == []


def test_only_what_belongs_to_it_is_taken() -> None:
    """One main, each channel once, all of one machine, none of another number."""
    session = QemuRelaySession(2)
    session.handle_main(0.0)
    session.handle_channel(handshake(0, b"a" * 16), 0.0)
    with pytest.raises(RemoteProtocolError):
        session.handle_main(0.0)
    for wrong in (handshake(0, b"a" * 16), handshake(2, b"a" * 16), handshake(1, b"b" * 16)):
        with pytest.raises(RemoteProtocolError):
            session.handle_channel(wrong, 0.0)
    session.handle_channel(handshake(1, b"a" * 16), 0.0)
    with pytest.raises(RemoteProtocolError):
        session.handle_channel(handshake(1, b"a" * 16), 0.0)
    with pytest.raises(LocalProtocolError):
        QemuRelaySession(0)


def test_nothing_follows_the_end() -> None:
    """Whatever happens after a final state changes nothing."""
    driven = Driven().live()
    driven.session.handle_failure(LOST, 0.0)
    driven.take()
    session = driven.session
    session.handle_failure(MultifdError("other"), 0.0)
    session.handle_near_ended(None, 0.0)
    session.handle_far_ended(None, 0.0)
    session.handle_return(e.Shut(0), 0.0)
    session.handle_channel_ended(LOST, 0.0)
    session.handle_timer(1e9)
    session.handle_far_connected(0.0)
    assert driven.take() == []
    assert session.state is RelayState.FAILED
    assert session.wake_at is None


def test_no_illegal_transition_is_possible() -> None:
    """The table is what the machine keeps to."""
    for state, after in RELAY_TRANSITIONS.items():
        for other in RelayState:
            session = QemuRelaySession(1)
            session.state = state
            if other in after:
                session._move(other)
            else:
                with pytest.raises(LocalProtocolError):
                    session._move(other)
