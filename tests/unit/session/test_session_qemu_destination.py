"""A destination of stock QEMUs, step by step: set-up, refusals, sync points, acks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qemu_destination_by_hand import CONFIGURATION, STARTING, VFIO, D, asked, attach, failure, feed, live, session, sync
from qemu_pair import ASK, BLOCKS, OPENING, RAM, UUID, command, section

from multifd import elements as e
from multifd import limits
from multifd.elements import AckMode, CommandNumber, Phase, SyncDialect
from multifd.errors import LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.session import qemu_actions as a

# -- set-up ------------------------------------------------------------------------------------------------------------


def test_the_return_path_answers() -> None:
    """OPEN_RETURN_PATH alone says nothing; a PING is answered with its value; a second opening is harmless."""
    machine = session()
    feed(machine, CONFIGURATION, command(CommandNumber.OPEN_RETURN_PATH))
    assert asked(machine) == []
    feed(machine, e.Command(CommandNumber.PING, b"\x12\x34\x56\x78"), command(CommandNumber.OPEN_RETURN_PATH))
    assert asked(machine) == [a.Reply(e.Pong(0x12345678))]


@pytest.mark.parametrize("order", ["blocks first", "channels first"])
def test_channels_start_when_all_are_there_and_blocks_are_ready(order: str) -> None:
    """Workers begin with both, whichever comes last, and main waits as long."""
    machine = session()
    attach(machine, 1)
    feed(machine, CONFIGURATION, *OPENING, *STARTING)
    assert asked(machine)[1:] == [a.PrepareBlocks(CONFIGURATION, RAM, BLOCKS)]
    steps: list[Callable[[], None]] = [lambda: machine.handle_prepared(0.0), lambda: attach(machine, 0)]
    if order == "channels first":
        steps.reverse()
    steps[0]()
    assert asked(machine) == []
    assert machine.main_blocked
    steps[1]()
    assert asked(machine) == [a.StartChannels()]
    assert not machine.main_blocked
    assert machine.state is D.START


def test_nothing_may_come_while_main_is_blocked() -> None:
    """An element handed in meanwhile is our own fault."""
    machine = session()
    feed(machine, CONFIGURATION, *OPENING, *STARTING)
    with pytest.raises(LocalProtocolError, match="main at 9: expected no element while main is blocked"):
        machine.handle_element(e.SyncMark(), 0.0, offset=9)


@pytest.mark.parametrize("dialect", SyncDialect)
def test_the_dialect_is_found_out(dialect: SyncDialect) -> None:
    """A mark in START, or none, tells which one it is."""
    assert live(dialect).sync is dialect
    assert session().sync is None


def test_a_channel_that_cant_be_is_dropped_alone() -> None:
    """It raises, and the session goes on; when the source then gives up, that channel is a likely reason."""
    machine = session()
    feed(machine, CONFIGURATION)
    attach(machine, 0)
    with pytest.raises(RemoteProtocolError, match="a channel below 2"):
        attach(machine, 2)
    assert machine.state is D.SETUP
    machine.handle_main_ended(None, 0.0)
    (finished,) = asked(machine)
    assert isinstance(finished, a.Finished)
    assert "multifd-channels must be the same" in str(finished.error)
    with pytest.raises(RemoteProtocolError, match="state failed"):
        attach(machine, 1)


@pytest.mark.parametrize(("missing", "words"), [(0, "main connection"), (1, "1 of 2 channels came; is multifd on at")])
def test_connections_that_do_not_come(missing: int, words: str) -> None:
    """From the first connection on all must come within a time; the error says which did not."""
    machine = session()
    assert machine.wake_at is None
    machine.handle_connected(5.0)
    attach(machine, *range(2 - missing), now=20.0)
    if missing:
        feed(machine, CONFIGURATION, *OPENING, now=21.0)
    assert machine.wake_at == 5.0 + limits.QEMU_SETUP_DEADLINE_S
    machine.handle_progress(30.0)
    machine.handle_timer(machine.wake_at)
    finished = asked(machine)[-1]
    assert isinstance(finished, a.Finished)
    assert words in str(finished.error)


def test_a_stranger_before_the_configuration_gives_way() -> None:
    """Its channel is dropped for the source's, whose time begins then; those that come later give way to nobody."""
    machine = session()
    assert machine.handle_channel(e.Handshake(bytes(16), 1), 0.0) == frozenset()
    feed(machine, CONFIGURATION)
    assert machine.handle_channel(e.Handshake(UUID, 0), 29.0) == {1}
    assert machine.wake_at == 29.0 + limits.QEMU_SETUP_DEADLINE_S
    with pytest.raises(RemoteProtocolError, match="uuid"):
        machine.handle_channel(e.Handshake(bytes(16), 1), 30.0)
    with pytest.raises(RemoteProtocolError, match="once"):
        attach(machine, 0)


def test_a_source_that_is_slow_before_its_pages_is_waited_for() -> None:
    """With all connections there nothing is waited for with a deadline: setup of a source may take its time."""
    machine = session()
    attach(machine, 0, 1)
    feed(machine, CONFIGURATION)
    assert machine.wake_at is None


def test_blocks_that_are_never_ready() -> None:
    """Preparation has a deadline of its own."""
    machine = session()
    attach(machine, 0, 1)
    feed(machine, CONFIGURATION, *OPENING, *STARTING, now=7.0)
    assert machine.wake_at == 7.0 + limits.QEMU_PREPARE_DEADLINE_S
    machine.handle_timer(machine.wake_at)
    assert "room for the blocks" in str(failure(machine))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (e.Configuration("pc-q35-10.0", capabilities=("x-ignore-shared",)), "x-ignore-shared is on .* turn it off"),
        (e.Configuration("pc-q35-10.0", capabilities=("mapped-ram",)), "mapped-ram is for files"),
        (e.Configuration("pc-q35-10.0", capabilities=("novel",)), "'novel' is on at the source and unknown"),
        (e.Configuration("pc-q35-10.0", uuid=bytes(16)), "is it the right machine"),
        (e.Configuration("microvm"), "say legacy"),
    ],
)
def test_a_machine_is_refused_as_soon_as_that_can_be_said(configuration: e.Configuration, words: str) -> None:
    """The refusal waits for the return path, so that the source hears SHUT 1, and goes before acks and all else."""
    machine = session(uuid=UUID, ack="on")
    feed(machine, configuration)
    assert asked(machine) == []
    attach(machine, 0, 1)
    assert machine.wake_at is not None
    feed(machine, command(CommandNumber.OPEN_RETURN_PATH))
    error = failure(machine)
    assert isinstance(error, RefusedError)
    assert machine.acks.owed == 0
    with pytest.raises(RefusedError, match=words):
        raise error


def test_a_refusal_is_the_cause_whatever_comes() -> None:
    """If the source does something else first, or goes away, the refusal is still what is told."""
    for act in (
        lambda it: feed(it, *STARTING[:1]),
        lambda it: it.handle_main_ended(None, 0.0),
        lambda it: it.handle_timer(1e6),
    ):
        machine = session()
        feed(machine, e.Configuration("pc-q35-10.0", capabilities=("mapped-ram",)))
        act(machine)
        (finished,) = asked(machine)
        assert isinstance(finished, a.Finished)
        assert isinstance(finished.error, RefusedError)


def test_without_ram_if_asked_for() -> None:
    """x-ignore-shared is taken if that is allowed, and remembered."""
    machine = session(allow_ignore_shared=True)
    feed(machine, e.Configuration("pc-q35-10.0", capabilities=("x-ignore-shared",)), *OPENING, *STARTING)
    assert machine.state is D.PREPARING
    assert machine.without_ram
    assert "main memory was not sent" in machine.notes[0]
    assert not live().without_ram


def test_a_return_path_is_needed() -> None:
    """Without it RAM does not even begin, and the sentence says what to set."""
    machine = session()
    feed(machine, CONFIGURATION, e.RamBegins(Phase.START, RAM))
    assert machine.state is D.FAILED
    (finished,) = asked(machine)  # no SHUT: nobody would read it
    assert isinstance(finished, a.Finished)
    expected = "set capability return-path at the source: without it a destination cannot refuse"
    assert str(finished.error) == expected
    lenient = session(require_return_path=False)
    feed(lenient, CONFIGURATION, e.RamBegins(Phase.START, RAM))
    assert lenient.state is D.BLOCKS


def test_ping_needs_the_return_path() -> None:
    """A PING that can't be answered is the source's fault."""
    machine = session()
    machine.handle_element(CONFIGURATION, 0.0)
    machine.handle_element(command(CommandNumber.PING), 0.0, offset=31)
    (finished,) = asked(machine)
    assert isinstance(finished, a.Finished)
    assert "main at 31: PING: expected OPEN_RETURN_PATH before it" in str(finished.error)


def test_device_packets_are_refused() -> None:
    """State that goes over channels could not be saved, and says so while the source still has the guest."""
    machine = live()
    machine.handle_device_packet(1, e.DevicePacket(VFIO, 0, b"x"), 0.0, offset=99)
    assert "channel 1 at 99: device '0000:00:04.0/vfio'" in str(failure(machine))


def test_postcopy_is_noted() -> None:
    """postcopy-ram is no reason to refuse, but a person is warned."""
    machine = session()
    feed(machine, CONFIGURATION, command(CommandNumber.POSTCOPY_ADVISE, bytes(16)))
    assert machine.state is D.SETUP
    assert "postcopy-ram" in machine.notes[0]


@pytest.mark.parametrize(
    "rules",
    [
        {"channels": 0}, {"channels": 256}, {"ack": "maybe"}, {"hold_ack_s": -1.0}, {"hold_ack_s": float("nan")},
        {"uuid": b"short"},
    ],
)  # fmt: skip
def test_rules_that_cant_be(rules: dict[str, Any]) -> None:
    """They are found before anything happens."""
    with pytest.raises(LocalProtocolError):
        session(**rules)


# -- sync points -------------------------------------------------------------------------------------------------------


def test_a_mark_waits_for_channels_that_are_late() -> None:
    """Main is blocked from the mark until the last channel's SYNC, and a wait for silence runs meanwhile."""
    machine = live()
    feed(machine, e.RamBegins(Phase.PART, RAM))
    assert machine.wake_at is None
    feed(machine, e.SyncMark(), now=10.0)
    assert machine.main_blocked
    machine.handle_synced(1, 11.0)
    assert asked(machine) == []
    assert machine.wake_at == 11.0 + limits.QEMU_SYNC_DEADLINE_S
    machine.handle_progress(50.0)
    assert machine.wake_at == 50.0 + limits.QEMU_SYNC_DEADLINE_S
    machine.handle_synced(0, 60.0)
    assert asked(machine) == [a.Release()]
    assert not machine.main_blocked
    assert machine.wake_at is None
    assert machine.marks == 2


def test_a_sync_that_never_comes() -> None:
    """When nothing moves for long the session fails, and says which channel is late."""
    machine = live()
    feed(machine, e.RamBegins(Phase.PART, RAM), e.SyncMark(), now=10.0)
    machine.handle_synced(0, 10.0)
    machine.handle_timer(machine.wake_at or 0.0)
    assert "SYNC on channel 1 at mark 2 of main" in str(failure(machine))


def test_a_channel_ahead_of_main_just_waits() -> None:
    """An early SYNC begins no wait: the source may be held back or paused for as long as it likes."""
    machine = live()
    sync(machine, now=10.0)
    assert machine.wake_at is None
    feed(machine, e.RamBegins(Phase.PART, RAM), now=1e6)
    assert asked(machine) == []
    feed(machine, e.SyncMark(), now=1e6)
    assert asked(machine) == [a.Release()]


def test_records_of_pages_are_passed_on() -> None:
    """Zero pages and pages on main are done in their order, before the channels go on."""
    machine = live()
    offsets = np.array([0, 4096])
    sync(machine)
    feed(machine, e.RamBegins(Phase.PART, RAM), e.ZeroRecords("pc.ram", offsets))
    feed(machine, e.PageRecord("pc.ram", 8192, b"x" * 4096), e.SyncMark())
    zero, write, release = asked(machine)
    assert isinstance(zero, a.ZeroRam)
    assert (zero.block, zero.offsets) == ("pc.ram", offsets)
    assert write == a.WriteRam("pc.ram", 8192, b"x" * 4096)
    assert release == a.Release()


def test_sections_by_the_thousand_take_no_memory() -> None:
    """A source that is held back sends PARTs without end: nothing is kept of them."""
    machine = live()
    part = (e.RamBegins(Phase.PART, RAM), e.RamEnds(Phase.PART))
    feed(machine, *part * 100)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    feed(machine, *part * 2000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000  # the tuple of elements above is 32 KiB
    assert machine.state is D.LIVE


def test_elements_out_of_order_fail() -> None:
    """What the tables do not have ends the session, with its place."""
    machine = live()
    machine.handle_element(e.EndOfState(), 0.0, offset=1234)
    assert "main at 1234: EndOfState in state live: expected it in devices only" in str(failure(machine))


# -- acks --------------------------------------------------------------------------------------------------------------


def test_legacy_ack_goes_before_the_pong() -> None:
    """A stock destination gives its one ack when the return path opens, before it answers the PING."""
    machine = session(ack="on")
    feed(machine, CONFIGURATION, *OPENING)
    assert asked(machine) == [a.Reply(e.SwitchoverAck()), a.Reply(e.Pong(1))]
    assert machine.acks.mode is AckMode.LEGACY
    feed(machine, command(CommandNumber.OPEN_RETURN_PATH))
    assert asked(machine) == []


def test_an_ack_is_held_back() -> None:
    """It comes by the timer, at its time, and is the only thing that does."""
    machine = session(ack="legacy", hold_ack_s=3.0)
    attach(machine, 0, 1)
    feed(machine, CONFIGURATION, *OPENING, now=10.0)
    assert asked(machine) == [a.Reply(e.Pong(1))]
    assert machine.wake_at == 13.0
    machine.handle_timer(12.9)
    assert asked(machine) == []
    machine.handle_timer(13.0)
    assert asked(machine) == [a.Reply(e.SwitchoverAck())]
    assert machine.wake_at is None


def test_counted_acks_answer_devices() -> None:
    """A machine of 11.1 gets an ack for each device that asks, and none of itself."""
    machine = session(ack="on")
    start, part = (section(VFIO, body, phase) for body, phase in ((b"", Phase.START), (ASK, Phase.PART)))
    feed(machine, e.Configuration("pc-q35-11.1"), *OPENING, start)
    assert asked(machine) == [a.Reply(e.Pong(1))]
    feed(machine, part)
    assert asked(machine) == [a.Reply(e.SwitchoverAck())]
    assert (machine.acks.owed, machine.acks.given) == (1, 1)
