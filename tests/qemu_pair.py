"""Both machines of QEMU's dialect without QEMU, sockets or time: a destination with its workers, links that hold what
is under way, and what fills them: our own source's machine, or a script of what stock QEMUs send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from multifd import elements as e
from multifd.elements import CommandNumber, Phase, SyncDialect
from multifd.errors import MultifdError, RemoteProtocolError
from multifd.session import qemu_actions as a
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_source import QemuSourceSession, SourceRules

RAM = e.SectionHeader(2, "ram", 0, 4)
BLOCKS = (e.RamBlock("pc.ram", 64 * 4096), e.RamBlock("pc.rom", 2 * 4096))
ASK = bytes.fromhex("ffffffffef100005")
"""How a VFIO device ends a PART with which it asks for an ack."""
UUID = bytes(range(16))

Move = Callable[[], object]


def describe(text: bytes) -> tuple[e.DescribedSection, ...]:
    """A VM description for tests: `name instance length`, a line each."""
    lines = [line.split() for line in text.decode().splitlines()]
    if any(len(line) != 3 for line in lines):
        raise RemoteProtocolError("main: VM description", "JSON")
    return tuple(e.DescribedSection(name, int(instance), int(length)) for name, instance, length in lines)


def description_of(sections: Sequence[e.Section]) -> bytes:
    """What `describe` reads: all FULL ones."""
    full = [each for each in sections if each.phase is Phase.FULL]
    return "\n".join(f"{each.header.name} {each.header.instance} {len(each.body)}" for each in full).encode()


def section(name: str, body: bytes = b"state", phase: Phase = Phase.FULL, instance: int = 0) -> e.Section:
    """A section of a device; its number is made of its name."""
    return e.Section(phase, e.SectionHeader(10 + len(name), name, instance, 1), body)


def command(number: CommandNumber, payload: bytes = b"") -> e.Command:
    """A command; PING has its value by itself."""
    return e.Command(number, b"\0\0\0\1" if number is CommandNumber.PING else payload)


OPENING = (command(CommandNumber.OPEN_RETURN_PATH), command(CommandNumber.PING))
DEVICES = (section("timer"), section("cpu"), section("cpu", b"more", instance=1))
EARLY = section("pci/virtio-mem-early")


def machine(
    name: str = "pc-q35-10.0", *, switchover_start: bool = True, early: tuple[e.Section, ...] = (EARLY,),
    description: bytes | None = b"?",
) -> e.MachineState:  # fmt: skip
    """A saved machine; its description fits unless one is given."""
    if description == b"?":
        description = description_of((*early, *DEVICES))
    return e.MachineState(e.Configuration(name), early, RAM, BLOCKS, switchover_start, DEVICES, description, UUID)


# -- what is under way -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """A packet with pages on a channel, sent after so many SYNC packets of that channel."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A SYNC packet; an old source has pages in it, which `epoch` counts as above."""

    epoch: int


class Empty:
    """A packet with neither pages nor SYNC, as 7.2 sends after a SYNC with pages."""


Item = Page | Sync | Empty


@dataclass(slots=True)
class Links:
    """First in, first out, each for itself."""

    main: deque[e.StreamElement]
    channels: list[deque[Item]]
    back: deque[e.ReturnMessage] = field(default_factory=deque)
    main_hung: bool = False
    channels_hung: bool = False


def stock_stream(
    dialect: SyncDialect, parts: Sequence[int], *, channels: int, seed: int, surplus: bool = False,
    early: Sequence[e.Section] = (EARLY,), live: Sequence[e.Section] = (), switchover_start: bool = True,
) -> Links:  # fmt: skip
    """What a QEMU sends: one PART for each of `parts`, with so many marks in it in the per-round dialect.

    `surplus`: each channel's SYNC without a mark, as 9.1 and 9.2 send one at the end. `live`: sections of other live
    devices between the PARTs. `seed` decides which channel gets a page.
    """
    links = Links(deque([e.Configuration("pc-q35-10.0"), *OPENING, *early]), [deque() for _ in range(channels)])
    rng = np.random.default_rng(seed)
    epoch = 0
    others = deque(live)

    def pages(count: int) -> None:
        for channel in rng.integers(0, channels, count):
            links.channels[channel].append(Page(epoch))
        links.main.append(e.ZeroRecords("pc.ram", np.array([4096 * (epoch % 64)])))

    def sync() -> None:
        nonlocal epoch
        for channel in links.channels:
            channel.append(Sync(epoch))
        epoch += 1
        if dialect is SyncDialect.PER_ROUND:
            links.main.append(e.SyncMark())

    def ram(phase: Phase, marks: int, *first: e.StreamElement) -> None:
        links.main.extend((e.RamBegins(phase, RAM), *first))
        for _ in range(marks if dialect is SyncDialect.PER_ROUND else 1):
            if phase is not Phase.START:
                pages(3)
            sync()
        links.main.append(e.RamEnds(phase))
        if others:
            links.main.append(others.popleft())

    ram(Phase.START, 1, e.BlockList(BLOCKS))
    for marks in parts:
        ram(Phase.PART, marks)
    if switchover_start:
        links.main.append(command(CommandNumber.SWITCHOVER_START))
    ram(Phase.END, 1)
    sections = [each for each in (*early, *live, *DEVICES) if each.phase is Phase.FULL]
    links.main.extend((*others, *DEVICES, e.EndOfState(), e.Description(description_of(sections))))
    if surplus:
        for channel in links.channels:
            channel.append(Sync(epoch))
    return links


# -- the ends ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Receiver:
    """A destination's machine with workers and jobs, and the checks that any moment allows."""

    session: QemuDestinationSession
    links: Links
    now: float = 0.0
    arriving: list[int] = field(default_factory=list)
    started: bool = False
    at_end: bool = False
    stopped: set[int] = field(default_factory=set)
    releases: int = 0
    crossings: int = 0
    """Pages that were taken on the wrong side of a sync point."""
    pages: int = 0
    zeros: int = 0
    jobs: deque[a.PrepareBlocks | a.Store] = field(default_factory=deque)
    stored: e.MachineState | None = None
    replies: list[e.ReturnMessage] = field(default_factory=list)
    finished: list[MultifdError | None] = field(default_factory=list)

    def moves(self) -> list[Move]:
        """What can happen next, by itself."""
        moves: list[Move] = [lambda c=c: self.arrive(c) for c in self.arriving]  # type: ignore[misc]
        if self.finished:
            return []
        if self.links.main and not self.links.main_hung and not self.session.main_blocked:
            moves.append(self.read_main)
        if self.started and not self.links.channels_hung:
            moves += [
                lambda c=c: self.read_channel(c)  # type: ignore[misc]
                for c, items in enumerate(self.links.channels)
                if items and c not in self.stopped
            ]
        if self.jobs:
            moves.append(self.do_job)
        return moves

    def poll(self) -> None:
        """Do what the machine asks for."""
        while (action := self.session.poll_action()) is not None:
            assert not self.finished, "nothing follows Finished"
            match action:
                case a.PrepareBlocks() | a.Store():
                    self.jobs.append(action)
                case a.StartChannels():
                    assert not self.started
                    self.started = True
                case a.ZeroRam() | a.WriteRam():
                    self.zeros += 1
                case a.Release(final):
                    assert len(self.stopped) == self.session.rules.channels or final
                    self.releases += not final
                    self.at_end = self.at_end or final
                    self.stopped.clear()
                case a.Reply(message):
                    assert not any(isinstance(each, e.Shut) for each in self.replies), "nothing follows SHUT"
                    self.replies.append(message)
                    self.links.back.append(message)
                case a.Finished(error):
                    self.finished.append(error)

    def arrive(self, channel: int) -> None:
        """A channel connects."""
        self.arriving.remove(channel)
        self.session.handle_channel(e.Handshake(UUID, channel), self.now)
        self.poll()

    def read_main(self) -> None:
        """Main's next element."""
        self.session.handle_element(self.links.main.popleft(), self.now)
        self.poll()

    def read_channel(self, channel: int) -> None:
        """A worker's next packet. Its pages were sent after as many sync points as main has come to, or it is wrong."""
        item = self.links.channels[channel].popleft()
        if isinstance(item, Empty):
            return
        if self.at_end and isinstance(item, Page):
            error = RemoteProtocolError(f"channel {channel} at 0: packet", "none with pages after the last sync point")
            self.session.handle_channel_ended(channel, error, self.now)
        else:
            self.crossings += item.epoch != self.releases
            self.pages += isinstance(item, Page)
        if isinstance(item, Sync):
            if not self.at_end:
                self.stopped.add(channel)
            self.session.handle_synced(channel, self.now)
        self.poll()

    def do_job(self) -> None:
        """What takes time at this side is done."""
        job = self.jobs.popleft()
        if isinstance(job, a.Store):
            self.stored = job.state
            self.session.handle_stored(self.now)
        else:
            self.session.handle_prepared(self.now)
        self.poll()

    def run(self, choose: Callable[[int], int] = lambda _count: 0) -> None:
        """Until nothing happens by itself; `choose` picks one of so many moves."""
        self.poll()
        while moves := self.moves():
            moves[choose(len(moves))]()


def receiver(links: Links, **rules: object) -> Receiver:
    """A destination of these links, whose channels have yet to connect."""
    count = len(links.channels)
    session = QemuDestinationSession(DestinationRules(count, **rules), describe)  # type: ignore[arg-type]
    return Receiver(session, links, arriving=list(range(count)))


@dataclass(slots=True)
class Sender:
    """Our own source's machine, filling links."""

    session: QemuSourceSession
    links: Links
    now: float = 0.0
    epochs: list[int] = field(default_factory=list)
    sent: int = 0
    on_main: int = 0
    jobs: deque[a.QemuSourceAction] = field(default_factory=deque)
    finished: list[MultifdError | None] = field(default_factory=list)

    def moves(self) -> list[Move]:
        """What can happen next, by itself."""
        if self.finished:
            return []
        moves: list[Move] = [self.do_job] if self.jobs else []
        return [*moves, self.read_back] if self.links.back else moves

    def poll(self) -> None:
        """Take what the machine asks for."""
        while (action := self.session.poll_action()) is not None:
            assert not self.finished, "nothing follows Finished"
            if isinstance(action, a.Finished):
                self.finished.append(action.error)
            else:
                self.jobs.append(action)

    def do_job(self) -> None:
        """The next thing that was asked for."""
        job = self.jobs.popleft()
        match job:
            case a.Write(elements):
                self.links.main.extend(elements)
            case a.OpenChannels():
                self.session.handle_opened(self.now)
            case a.SendPages(zero_pages):
                self._send_pages(on_main=zero_pages is e.ZeroPages.LEGACY)
                self.session.handle_pages_sent(self.now)
            case a.SyncChannels():
                for channel, items in enumerate(self.links.channels):
                    items.append(Sync(self.epochs[channel]))
                    self.epochs[channel] += 1
                self.session.handle_sync_sent(self.now)
            case _:
                raise AssertionError(job)
        self.poll()

    def read_back(self) -> None:
        """The return path's next message."""
        self.session.handle_return(self.links.back.popleft(), self.now)
        self.poll()

    def _send_pages(self, *, on_main: bool) -> None:
        for channel, items in enumerate(self.links.channels):
            items.extend([Page(self.epochs[channel])] * 3)
            self.sent += 3
        if on_main:
            self.links.main.append(e.ZeroRecords("pc.ram", np.array([0, 4096])))
            self.on_main += 1


def pair(state: e.MachineState, source: SourceRules, **rules: object) -> tuple[Sender, Receiver]:
    """Our source and our destination."""
    links = Links(deque(), [deque() for _ in range(source.channels)])
    sender = Sender(QemuSourceSession(state, source, describe), links, epochs=[0] * source.channels)
    sender.session.start(0.0)
    sender.poll()
    return sender, receiver(links, **rules)
