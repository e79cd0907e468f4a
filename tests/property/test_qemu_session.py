"""QEMU's dialect in any order of events: page data never crosses a sync point, whoever fails is told once, SHUT 0 is
said only of a whole machine, and everything comes to an end.
"""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from qemu_pair import (
    ASK,
    BLOCKS,
    DEVICES,
    EARLY,
    RAM,
    UUID,
    Empty,
    Page,
    Receiver,
    Sender,
    Sync,
    command,
    describe,
    machine,
    pair,
    receiver,
    section,
    stock_stream,
)

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase, SyncDialect, ZeroPages
from multifd.errors import RefusedError, RemoteProtocolError
from multifd.session import qemu_actions as a
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_source import SourceRules
from multifd.session.qemu_states import QemuDestinationState, QemuSourceState

D, S = QemuDestinationState, QemuSourceState
VFIO = "0000:00:04.0/vfio"
OVER_S = 4 * limits.QEMU_STORE_DEADLINE_S
"""Beyond all deadlines together."""

DIALECTS = st.sampled_from(SyncDialect)
SEEDS = st.integers(0, 2**32 - 1)
PARTS = st.lists(st.integers(0, 2), max_size=5)
CHANNELS = st.integers(1, 4)
ELEMENTS: list[e.StreamElement] = [
    e.Configuration("pc-q35-11.1"),
    e.Configuration("microvm", capabilities=("x-ignore-shared",)),
    *(command(number) for number in CommandNumber),
    *(e.RamBegins(phase, RAM) for phase in Phase),
    *(e.RamEnds(phase) for phase in Phase),
    e.BlockList(BLOCKS),
    e.ZeroRecords("pc.ram", np.array([0])),
    e.PageRecord("pc.ram", 0, bytes(4096)),
    e.SyncMark(),
    *DEVICES,
    *(section(VFIO, ASK, phase) for phase in Phase),
    e.EndOfState(),
    e.Description(b""),
    e.Description(b"timer 0 5"),
]

HONEST: tuple[e.StreamElement, ...] = (
    e.Configuration("pc-q35-11.1"),
    command(CommandNumber.OPEN_RETURN_PATH),
    e.RamBegins(Phase.START, RAM),
    e.BlockList(BLOCKS),
)
"""How a stream begins."""


def check_end(it: Receiver) -> None:
    """What must hold of a destination that has ended, whatever happened."""
    (error,) = it.finished
    shuts = [message.status for message in it.replies if isinstance(message, e.Shut)]
    assert it.session.final
    assert it.session.poll_action() is None
    assert it.session.wake_at is None
    if it.session.state is D.COMPLETED:
        assert error is None
        assert shuts == [0]
        assert it.stored is not None
    else:
        assert error is not None
        assert shuts in ([], [1])


def let_end(it: Receiver) -> None:
    """Time passes until everything is over. A source that is silent and does not stop its guest is left in peace, until
    its connection is lost.
    """
    for _ in range(20):
        if it.finished:
            break
        if it.session.wake_at is None:
            it.session.handle_main_ended(None, it.now)
        else:
            it.now = max(it.now, it.session.wake_at)
            it.session.handle_timer(it.now)
        it.poll()
    check_end(it)


@given(DIALECTS, PARTS, CHANNELS, SEEDS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_stock_streams_complete_in_any_order(
    dialect: SyncDialect, parts: list[int], channels: int, seed: int, surplus: bool
) -> None:
    """Whatever comes first, main or any channel, every page is taken between the marks that it was sent between, and
    the machine is stored whole.
    """
    links = stock_stream(dialect, parts, channels=channels, seed=seed, surplus=surplus)
    pages = sum(isinstance(item, Page) for items in links.channels for item in items)
    records = sum(isinstance(element, e.ZeroRecords) for element in links.main)
    it = receiver(links, ack="on")
    it.run(Random(seed).randrange)
    check_end(it)
    assert it.session.state is D.COMPLETED
    assert it.session.sync is dialect
    assert it.crossings == 0
    assert (it.pages, it.zeros) == (pages, records)
    assert it.stored == machine()
    assert it.replies == [e.SwitchoverAck(), e.Pong(1), e.Shut(0)]


@given(PARTS, SEEDS, st.integers(0, 4), st.floats(0, 5))
@settings(max_examples=75, deadline=None)
def test_acks_are_as_many_as_requests(parts: list[int], seed: int, requests: int, hold: float) -> None:
    """In the counted mode every request is answered once, never before its time; and no other ack is given."""
    live = [
        section(VFIO, b"", Phase.START),
        *[section(VFIO, ASK, Phase.PART)] * requests,
        section(VFIO, b"", Phase.END),
    ]
    links = stock_stream(SyncDialect.PER_ROUND, parts, channels=1, seed=seed, live=live)
    it = receiver(links, ack="counted", hold_ack_s=hold)
    it.poll()
    random = Random(seed)
    while (moves := it.moves()) and it.session.state is not D.STORING:
        it.now += random.random()
        it.session.handle_timer(it.now)
        moves[random.randrange(len(moves))]()
    assert it.session.acks.owed == requests
    it.now += hold
    it.session.handle_timer(it.now)
    it.poll()
    assert it.replies.count(e.SwitchoverAck()) == it.session.acks.given == requests
    owed, given_at = ([each.at for each in it.session.acks.log if each.kind == kind] for kind in ("owed", "given"))
    assert all(late >= early + hold for early, late in zip(owed, given_at, strict=True))


HARD = ("main is cut", "main is cut within an element", "a channel is cut", "a channel ends", "the disk is full",
        "a user cancels", "a device uses a channel")  # fmt: skip
"""After these nothing can be well."""
SOFT = ("main is forged", "main loses something", "a channel loses something", "a channel says too much", "main hangs",
        "channels hang", "a timer rings")  # fmt: skip


def break_off(fault: str, it: Receiver, random: Random) -> None:
    """One of the hard faults."""
    channel = random.randrange(len(it.links.channels))
    match fault:
        case "main is cut":
            it.session.handle_main_ended(None, it.now)
        case "main is cut within an element":
            it.session.handle_main_ended(RemoteProtocolError("main at 9: end of the stream", "more"), it.now)
        case "a channel is cut":
            it.session.handle_channel_ended(channel, RefusedError((), "reset"), it.now)
        case "a channel ends":
            it.session.handle_channel_ended(channel, None, it.now)
        case "the disk is full":
            it.session.handle_failure(RefusedError((), "full"), it.now)
        case "a user cancels":
            it.session.cancel("enough", it.now)
        case "a device uses a channel":
            it.session.handle_device_packet(channel, e.DevicePacket(VFIO, 0, b"x"), it.now)


def spoil(fault: str, it: Receiver, random: Random) -> None:
    """One of the soft faults."""
    links = it.links
    items = random.choice(links.channels)
    match fault:
        case "main is forged":
            links.main.insert(random.randrange(len(links.main) + 1), random.choice(ELEMENTS))
        case "main loses something" if links.main:
            links.main.popleft()
        case "a channel loses something" if items:
            items.pop()
        case "a channel says too much":
            items.append(random.choice((Page(99), Sync(99), Empty())))
        case "main hangs":
            links.main_hung = True
        case "channels hang":
            links.channels_hung = True
        case "a timer rings":
            it.session.handle_timer(it.now)


def walk(it: Receiver, random: Random, fault: str, when: int) -> None:
    """All that happens by itself, with a fault after so many steps."""
    it.poll()
    steps = 0
    while moves := it.moves():
        if steps == when:
            (break_off if fault in HARD else spoil)(fault, it, random)
            it.poll()
            moves = it.moves() or [it.poll]
        steps += 1
        moves[random.randrange(len(moves))]()


@given(DIALECTS, PARTS, st.integers(1, 3), SEEDS, st.sampled_from(HARD + SOFT), st.integers(0, 60), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_destination_ends_whatever_happens(
    dialect: SyncDialect, parts: list[int], channels: int, seed: int, fault: str, when: int, description: bool
) -> None:
    """With a fault at any moment it ends, says SHUT at most once, and 0 only after it has stored a whole machine."""
    random = Random(seed)
    it = receiver(stock_stream(dialect, parts, channels=channels, seed=seed), ack="on", description=description)
    walk(it, random, fault, when)
    let_end(it)
    if it.session.state is D.COMPLETED and it.stored is not None and it.stored.description is not None:
        full = [each for each in (*it.stored.early, *it.stored.sections) if each.phase is Phase.FULL]
        assert [each.header.name for each in full] == [each.name for each in describe(it.stored.description)]


def test_faults_are_what_they_seem() -> None:
    """The hard ones end any session in the middle of its stream; without any the same session completes."""
    for fault in (*HARD, "none"):
        it = receiver(stock_stream(SyncDialect.PER_ROUND, [1, 0, 2], channels=2, seed=7))
        walk(it, Random(7), fault, 20 if fault != "none" else -1)
        assert (it.session.state is D.COMPLETED) is (fault == "none"), fault


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 99)), max_size=80), st.booleans())
@settings(max_examples=300, deadline=None)
def test_nothing_is_raised_for_what_a_source_does(choices: list[tuple[int, int]], honest: bool) -> None:
    """Any elements in any order, with anything else between them, give actions and at most a failure."""
    it = QemuDestinationSession(DestinationRules(1, ack="on", allow_ignore_shared=True), describe)
    if honest:  # a start, so that more is reached
        it.handle_channel(e.Handshake(UUID, 0), 0.0)
        for element in HONEST:
            it.handle_element(element, 0.0)
    synced = True
    finished = 0
    for now, (choice, pick) in enumerate(choices):
        if choice == 0:
            it.handle_prepared(now)
        elif choice == 1 and it.state not in (D.CONFIGURATION, D.SETUP, D.BLOCKS, D.PREPARING) and not synced:
            it.handle_synced(0, now)
            synced = True
        elif choice == 2:
            it.handle_stored(now)
        elif choice == 3:
            it.handle_progress(now)
        elif choice == 4:
            it.handle_timer(now)
        elif not it.main_blocked:
            it.handle_element(ELEMENTS[pick % len(ELEMENTS)], now, offset=now)
        while (action := it.poll_action()) is not None:
            assert not finished
            finished += isinstance(action, a.Finished)
            if isinstance(action, (a.Release, a.StartChannels)):
                synced = False
    assert finished == it.final


# -- both of ours ------------------------------------------------------------------------------------------------------

STATES = st.builds(
    machine,
    st.sampled_from(["pc-q35-7.2", "pc-q35-8.2", "pc-q35-10.0", "pc-q35-11.1", "microvm"]),
    switchover_start=st.booleans(),
    early=st.sampled_from([(), (EARLY,)]),
)


def both(sender: Sender, it: Receiver, random: Random, fault: str = "", when: int = -1) -> None:
    """Everything that can happen, in any order, until nothing does."""
    steps = 0
    it.poll()
    while moves := [*sender.moves(), *it.moves()]:
        moves[random.randrange(len(moves))]()
        steps += 1
        if steps == when:
            harm(fault, sender, it)


def harm(fault: str, sender: Sender, it: Receiver) -> None:
    """Something goes wrong at either end or between them."""
    match fault:
        case "source cancels":
            sender.session.cancel("enough", 0.0)
        case "destination cancels":
            it.session.cancel("enough", 0.0)
        case "source fails":
            sender.session.handle_failure(RefusedError((), "no"), 0.0)
        case "destination fails":
            it.session.handle_failure(RefusedError((), "no"), 0.0)
        case "channel is cut":
            it.session.handle_channel_ended(0, RefusedError((), "reset"), 0.0)
        case "main is cut":
            sender.session.handle_main_ended(None, 0.0)
            it.session.handle_main_ended(None, 0.0)
        case "main hangs":
            it.links.main_hung = True
        case "channels hang":
            it.links.channels_hung = True
    sender.poll()
    it.poll()


HARM = ("source cancels", "destination cancels", "source fails", "destination fails", "channel is cut", "main is cut",
        "main hangs", "channels hang")  # fmt: skip


@given(STATES, CHANNELS, st.sampled_from([None, *SyncDialect]), st.sampled_from([None, *ZeroPages]), SEEDS)
@settings(max_examples=100, deadline=None)
def test_what_is_sent_is_what_is_received(
    state: e.MachineState, channels: int, dialect: SyncDialect | None, zero_pages: ZeroPages | None, seed: int
) -> None:
    """Our source and our destination agree on any machine, and both complete with the same state."""
    sender, it = pair(state, SourceRules(channels, sync=dialect, zero_pages=zero_pages))
    both(sender, it, Random(seed))
    check_end(it)
    assert it.stored == state
    assert it.crossings == 0
    assert it.session.sync is sender.session.sync
    assert sender.finished == [None]
    assert sender.session.state is S.COMPLETED
    assert (it.pages, it.zeros) == (sender.sent, sender.on_main)


@given(STATES, CHANNELS, SEEDS, st.sampled_from(HARM), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_both_ends_end_and_agree(state: e.MachineState, channels: int, seed: int, fault: str, when: int) -> None:
    """With a fault anywhere both come to an end, and a source completes only if the destination has."""
    sender, it = pair(state, SourceRules(channels))
    both(sender, it, Random(seed), fault, when)
    for _ in range(5):  # an end that is over is seen by the other
        if sender.finished and not it.finished:
            it.session.handle_main_ended(None, 0.0)
        elif it.finished and not sender.finished:
            sender.session.handle_main_ended(None, 0.0)
        elif not it.finished:
            sender.session.handle_timer(OVER_S)
            it.session.handle_timer(OVER_S)
        sender.poll()
        it.poll()
    check_end(it)
    assert it.crossings == 0
    assert len(sender.finished) == 1
    assert sender.session.state is not S.COMPLETED or it.session.state is D.COMPLETED
