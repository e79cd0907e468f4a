"""Reads a captured migration as a destination would, and says every rule of the wire that it breaks.

The machine that judges the main stream is the destination's own (`session.qemu_destination`), fed without sockets: a
mark on main has each channel read up to its next SYNC. Rules that a live destination has no need of are added here:
pages that come twice between two sync points, acknowledgements owed and given, the return path's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from multifd import elements as e
from multifd.codec.streams import create_decoder
from multifd.elements import Compression, DevicePacket, Offsets, RamPacket, ReturnMessage
from multifd.errors import MultifdError, ProtocolError, RemoteProtocolError
from multifd.qemu.capture import MAIN, RETURN_PATH, Capture, CapturedChannel
from multifd.qemu.memory_target import MemoryBlock, MemoryMachine
from multifd.qemu.repeats import Seams, Seen
from multifd.session import qemu_actions as a
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_machine_type import MULTIFD_ZERO_SINCE, parse_version
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_description import described_sections
from multifd.wire.qemu_return import ReturnReader
from multifd.wire.qemu_stream import StreamReader

VIOLATIONS_MAX = 1000
"""More of one stream say nothing new."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken: `rule` for programs, `where` in which stream, `text` for people."""

    rule: str
    where: str
    text: str


class Linter:
    """One reading of one capture: `run`, then the fields tell what was found."""

    def __init__(self, capture: Capture, *, ack: str | None = None, description: bool = True) -> None:
        """`ack` as for a destination; None: on if the return path has an acknowledgement. `description` false: the
        machine sends no VM description.
        """
        self.violations: list[Violation] = []
        self.machine = MemoryMachine()
        self.state: e.MachineState | None = None
        self.replies = self._read_return_path(capture)
        given = sum(isinstance(each, e.SwitchoverAck) for each in self.replies)
        chosen = ack or ("on" if given else "off")
        self.session = QemuDestinationSession(
            DestinationRules(
                max(1, capture.channels),
                ack=chosen,
                allow_ignore_shared=True,
                description=description,
                require_return_path=False,
            ),
            described_sections,
        )
        self.channels: list[CapturedChannel] = []
        self.zero_records = 0
        self.page_records = 0
        self.pings: list[int] = []
        self.return_path = False
        """Whether the source has opened it."""
        self._capture = capture
        self._description = description
        self._seen: dict[str, Seen] = {}
        self._seams = Seams()
        self._blocks: dict[str, MemoryBlock] = {}
        self._offset = 0

    @property
    def compression(self) -> Compression | None:
        """What the channels' payload is in; None if none came, or they differ."""
        found = {channel.reader.compression for channel in self.channels} - {None}
        return found.pop() if len(found) == 1 else None

    def run(self) -> None:
        """Read it all."""
        reader = StreamReader(description=self._description)
        try:
            for element in self._elements(reader):
                self._offset = reader.offset
                self._handle(element, reader.offset)
                if self.session.final and self.state is None:
                    break  # it failed; if it is whole, nothing may follow
            else:
                reader.end()
        except MultifdError as error:
            self._broke("stream", error)
        self._finish()

    # -- main

    def _elements(self, reader: StreamReader) -> Iterator[e.StreamElement]:
        for piece in self._capture.stream(MAIN):
            yield from reader.feed(piece)

    def _handle(self, element: e.StreamElement, offset: int) -> None:
        self.session.handle_element(element, 0.0, offset=offset)
        if isinstance(element, e.Configuration):
            self._open_channels(element)
        elif isinstance(element, e.Command):
            self.return_path |= element.number is e.CommandNumber.OPEN_RETURN_PATH
            if element.number is e.CommandNumber.PING:
                self.pings.append(int.from_bytes(element.payload, "big"))
        elif isinstance(element, e.ZeroRecords):
            self.zero_records += len(element.offsets)
            self._see(element.block, element.offsets, f"main at {offset}")
        elif isinstance(element, e.PageRecord):
            self.page_records += 1
            self._see(element.block, np.array([element.offset]), f"main at {offset}")
        self._act()
        while self.session.main_blocked and not self.session.final:
            self._sync()
            self._act()

    def _open_channels(self, configuration: e.Configuration) -> None:
        if not self._capture.channels:
            raise RemoteProtocolError("channels", "at least channel0.bin beside main.bin")
        for number in range(self._capture.channels):
            reader = ChannelReader(
                page_size=configuration.page_size, create_decoder=create_decoder, place=self._placer(number)
            )
            channel = CapturedChannel(number, self._capture.stream(f"channel{number}"), reader)
            self.channels.append(channel)
            handshake = channel.handshake()
            if handshake.channel != number:
                raise RemoteProtocolError(f"channel {number} at 24: handshake.channel", str(number), handshake.channel)
            self.session.handle_channel(handshake, 0.0)

    def _act(self) -> None:
        while (action := self.session.poll_action()) is not None:
            match action:
                case a.PrepareBlocks():
                    self._blocks = dict(self.machine.begin(action.configuration, action.ram, action.blocks))
                    self._seen = {name: Seen(len(block.present)) for name, block in self._blocks.items()}
                    self.session.handle_prepared(0.0)
                case a.ZeroRam():
                    self._blocks[action.block].zero(action.offsets)
                case a.WriteRam():
                    (view,) = self._blocks[action.block].place(np.array([action.offset]))
                    view[:] = action.data
                case a.Release(final=True):
                    self._drain()
                case a.Store():
                    self.state = action.state
                    self.machine.commit(action.state)
                    self.session.handle_stored(0.0)
                case a.Finished(error=MultifdError() as error):
                    self._broke("stream", error)
                case _:
                    pass  # replies are in the capture

    # -- channels

    def _sync(self) -> None:
        """Every channel up to its next SYNC: what a mark on main waits for."""
        for channel in self.channels:
            for packet in channel.packets():
                if isinstance(packet, DevicePacket):
                    continue
                self._zero(channel, packet)
                if packet.sync:
                    self.session.handle_synced(channel.number, 0.0, offset=channel.reader.offset)
                    break
            else:
                where = f"channel {channel.number} at {channel.reader.offset}"
                raise RemoteProtocolError(where, f"a SYNC for the mark that main has at {self._offset}", "its end")

    def _drain(self) -> None:
        """Main is at its end: what channels may still have is one SYNC each."""
        for channel in self.channels:
            for packet in channel.packets():
                where = f"channel {channel.number} at {channel.reader.offset}"
                if isinstance(packet, DevicePacket):
                    continue
                if len(packet.normal) or len(packet.zero):
                    self._say("sync", where, "pages after the last mark on main: nothing says when they are in place")
                if packet.sync:
                    self.session.handle_synced(channel.number, 0.0, offset=channel.reader.offset)

    def _placer(self, number: int) -> Callable[[RamPacket], Sequence[memoryview]]:
        def place(packet: RamPacket) -> Sequence[memoryview]:
            channel = self.channels[number]
            where = f"channel {number} at {channel.reader.offset}"
            block = self._blocks.get(packet.block)
            if block is None:
                raise RemoteProtocolError(f"{where}: packet.block", f"one of {sorted(self._blocks)}", packet.block)
            for offsets in (packet.normal, packet.zero):
                if len(offsets) and int(offsets.max()) + self._page_size > block.length:
                    expected = f"pages within the {block.length} bytes of {packet.block}"
                    raise RemoteProtocolError(f"{where}: packet.offsets", expected, int(offsets.max()))
            if not channel.tally.syncs:
                text = "pages before the channel's first SYNC: a destination may not know its blocks yet"
                self._say("early-data", where, text)
            self._see(packet.block, np.concatenate([packet.normal, packet.zero]), where, packet)
            return block.place(packet.normal)

        return place

    def _zero(self, channel: CapturedChannel, packet: RamPacket) -> None:
        if len(packet.zero):
            self._blocks[packet.block].zero(packet.zero)
        if packet.sync and len(packet.normal) and not self._is_old():
            where = f"channel {channel.number} at {channel.reader.offset}"
            self._say("sync", where, "pages in a SYNC packet, from a machine type of 9.0 or newer")

    def _is_old(self) -> bool:
        """Whether the source may be older than 9.0, as far as the machine type tells."""
        assert self.session.configuration is not None
        version = parse_version(self.session.configuration.machine)
        return version is None or version < MULTIFD_ZERO_SINCE

    def _see(self, block: str, offsets: Offsets, where: str, packet: RamPacket | None = None) -> None:
        """Pages of a packet or, without one, of main. Channels are read when main has its mark already."""
        seen = self._seen.get(block)
        if seen is None:
            return  # the machine has said so
        interval = self.session.marks + (packet is None)
        repeated = seen.repeated(offsets // self._page_size, interval)
        explained = (
            packet is not None and self._is_old() and self._seams.explain(packet, repeated, self._page_size, interval)
        )
        if len(repeated) and not explained:
            text = f"{len(repeated)} pages of {block} that came before since the last sync point: which is newer?"
            self._say("duplicate", where, text)

    @property
    def _page_size(self) -> int:
        assert self.session.configuration is not None
        return self.session.configuration.page_size

    # -- the return path

    def _read_return_path(self, capture: Capture) -> list[ReturnMessage]:
        reader, messages = ReturnReader(), list[ReturnMessage]()
        try:
            for piece in capture.stream(RETURN_PATH):
                messages.extend(reader.feed(piece))
            reader.end()
        except ProtocolError as error:
            self._broke("return-path", error)
        return messages

    def _finish(self) -> None:
        """What can only be judged when all is read."""
        if self.replies and self.state is not None and not self.return_path:
            self._say("return-path", "return path", "messages, although the source has not opened it")
        shuts = [number for number, each in enumerate(self.replies) if isinstance(each, e.Shut)]
        if shuts and shuts[0] != len(self.replies) - 1:
            self._say("return-path", "return path", "something follows SHUT, which is the end")
        if any(self.replies[number] == e.Shut(0) for number in shuts) and self.state is None:
            self._say("return-path", "return path", "SHUT 0, although the stream is not whole: it commits nothing")
        pongs = [each.value for each in self.replies if isinstance(each, e.Pong)]
        if pongs != self.pings[: len(pongs)]:
            self._say("return-path", "return path", f"PONG {pongs} for PING {self.pings}")
        elif self.replies and len(pongs) < len(self.pings):
            self._say("return-path", "return path", f"no PONG for PING {self.pings[len(pongs) :]}")
        if self._seams.count:
            self.session.notes.append(
                f"{self._seams.count} pages came twice, as the last of a packet and the first of the next: "
                "sources before 9.0 do that, and it is harmless"
            )
        found = {channel.reader.compression for channel in self.channels} - {None}
        if len(found) > 1:
            words = ", ".join(sorted(each.name.lower() for each in found if each is not None))
            self._say("compression", "channels", f"one compression on all of them, not {words}")
        self._finish_acks()

    def _finish_acks(self) -> None:
        given = sum(isinstance(each, e.SwitchoverAck) for each in self.replies)
        acks = self.session.acks
        if given != acks.owed:
            why = {e.AckMode.OFF: "switchover-ack is off", e.AckMode.LEGACY: "one for all devices together"}
            reason = why.get(acks.mode, "one for each request of a device")
            text = f"{given} SWITCHOVER_ACK given, {acks.owed} owed ({acks.mode.value}: {reason})"
            self._say("acks", "return path", text)

    # -- saying it

    def _broke(self, rule: str, error: MultifdError) -> None:
        if isinstance(error, ProtocolError):
            got = "" if error.got is None else f", got {error.got!r:.100}"
            self._say(rule, error.where, f"expected {error.expected}{got}")
        else:
            self._say(rule, f"main at {self._offset}", str(error))

    def _say(self, rule: str, where: str, text: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(rule, where, text))
