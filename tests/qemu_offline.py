"""A destination of QEMU's dialect without sockets, threads and memory for RAM: whole streams go in, an ending comes
out.

As `multifd.qemu.destination_run` with its channel workers does it, in one thread and in a fixed order: main as far as
it goes, then channels up to where they have to wait, then main again. Pages go into one scratch buffer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qemu_corpus import HANDSHAKE, Streams

from multifd import elements as e
from multifd import limits
from multifd.codec.streams import create_decoder
from multifd.errors import (
    DeadlineError,
    MultifdError,
    RefusedError,
    RemoteProtocolError,
    TransportError,
)
from multifd.session import qemu_actions as a
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_states import QemuDestinationState
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_description import described_sections
from multifd.wire.qemu_packet import FIRST_BYTES, Role, connection_role, parse_handshake
from multifd.wire.qemu_stream import StreamReader

PIECE = 64 * limits.KIB
TYPED = (RemoteProtocolError, RefusedError, TransportError, DeadlineError)
"""What a source can cause."""
_WHERE = re.compile(r"(main|channel \d+) at (\d+)")


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended. `state` is where it stood when the last byte had been read."""

    error: MultifdError | None
    replies: tuple[e.ReturnMessage, ...]
    state: QemuDestinationState
    waits: bool
    """Whether it had a deadline then."""
    refused: bool
    """It failed with main and the return path open."""
    dropped: tuple[str, ...]

    @property
    def text(self) -> str:
        """The error's."""
        return str(self.error)

    @property
    def where(self) -> tuple[str, int] | None:
        """The stream and the offset that the error names."""
        found = _WHERE.search(self.text)
        return (found[1].replace(" ", ""), int(found[2])) if found else None


class _Channel:
    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.reader: ChannelReader | None = None
        self.items: Iterator[e.Handshake | e.Packet] = iter(())
        self.stopped = False
        self.ended = False
        self.unordered = False

    @property
    def where(self) -> str:
        assert self.reader is not None
        return f"channel {self.number} at {self.reader.offset}"


class Offline:
    """One run over streams that are all there: `run`."""

    def __init__(self, streams: Streams) -> None:
        self.session = QemuDestinationSession(
            DestinationRules(
                max(1, len(streams.channels)),
                ack=streams.ack,
                allow_ignore_shared=streams.ignore_shared,
                description=streams.description,
            ),
            described_sections,
        )
        self.replies: list[e.ReturnMessage] = []
        self.dropped: list[str] = []
        self.error: MultifdError | None = None
        self._streams = streams
        self._reader = StreamReader(description=streams.description)
        self._channels: dict[int, _Channel] = {}
        self._blocks: dict[str, int] = {}
        self._scratch = memoryview(bytearray(limits.QEMU_PACKET_BYTES))
        self._taking = True
        self._to_store = False
        self._opened = False
        self._now = 0.0

    def run(self, *, silent: bool = False) -> Ending:
        """Read everything; then the source says nothing more (`silent`) or closes all its connections."""
        self._connect()
        for piece in self._main_pieces():
            self._feed(piece)
            self._go_on()
        while self._step_channels():
            pass
        session = self.session
        state, waits = session.state, session.wake_at is not None
        if self._to_store and not session.final:
            session.handle_stored(self._now)
            self._act()
        while silent and not session.final and session.wake_at is not None:
            self._now = session.wake_at
            session.handle_timer(self._now)
            self._act()
        if not session.final:
            self._close_channels()
        refused = self._opened and session.state is QemuDestinationState.FAILED
        if not session.final:
            self._close_main()
        assert session.final
        assert session.wake_at is None
        return Ending(self.error, tuple(self.replies), state, waits, refused, tuple(self.dropped))

    # -- connections

    def _connect(self) -> None:
        for number, data in enumerate(self._streams.channels):
            try:
                if len(data) < HANDSHAKE or connection_role(data[:FIRST_BYTES]) is not Role.CHANNEL:
                    raise RemoteProtocolError(f"connection {number}", "a channel", data[:FIRST_BYTES])
                handshake = parse_handshake(data[:HANDSHAKE])
                self.session.handle_channel(handshake, self._now)
                self._channels[handshake.channel] = _Channel(handshake.channel, data)
            except RemoteProtocolError as error:
                self.dropped.append(str(error))
            self._act()

    def _main_pieces(self) -> Iterator[bytes]:
        data = self._streams.main
        if len(data) < FIRST_BYTES or connection_role(data[:FIRST_BYTES]) is not Role.MAIN:
            self.dropped.append("main")
            return
        self.session.handle_connected(self._now)
        for at in range(0, len(data), PIECE):
            yield data[at : at + PIECE]

    def _close_channels(self) -> None:
        """An end between two packets may mean that main is about to end: a real destination waits for that."""
        for channel in self._channels.values():
            if channel.reader is not None and not channel.ended and not channel.stopped:
                channel.ended = True
                try:
                    channel.reader.end()
                except RemoteProtocolError as error:
                    self.session.handle_channel_ended(channel.number, error, self._now)
                    self._act()

    def _close_main(self) -> None:
        missing: MultifdError | None = None
        try:
            self._reader.end()
        except RemoteProtocolError as error:
            missing = error
        self.session.handle_main_ended(missing, self._now)
        self._act()

    # -- main

    def _feed(self, piece: bytes) -> None:
        if self.session.final:
            return
        try:
            for element in self._reader.feed(piece):
                self._go_on()
                if self.session.main_blocked or self.session.final:
                    return
                if isinstance(element, e.Command) and element.number is e.CommandNumber.OPEN_RETURN_PATH:
                    self._opened = True
                self.session.handle_element(element, self._now, offset=self._reader.offset)
                self._act()
        except RemoteProtocolError as error:
            self.session.handle_failure(error, self._now)
            self._act()

    def _go_on(self) -> None:
        while self.session.main_blocked and not self.session.final and self._step_channels():
            pass

    # -- channels

    def _step_channels(self) -> bool:
        """Each channel up to its next SYNC; whether there was anything."""
        moved = False
        for channel in self._channels.values():
            if channel.reader is None or channel.stopped or channel.ended or self.session.final:
                continue
            moved = self._step(channel) or moved
            self._act()
        return moved

    def _step(self, channel: _Channel) -> bool:
        assert channel.reader is not None
        try:
            for item in channel.items:
                if isinstance(item, e.Handshake):
                    continue
                if isinstance(item, e.DevicePacket):
                    offset = channel.reader.offset
                    self.session.handle_device_packet(channel.number, item, self._now, offset=offset)
                elif item.sync:
                    channel.stopped = self._taking
                    self.session.handle_synced(channel.number, self._now, offset=channel.reader.offset)
                return True
        except RemoteProtocolError as error:
            channel.ended = True
            self.session.handle_channel_ended(channel.number, error, self._now)
            return True
        return False

    def _place(self, channel: _Channel, packet: e.RamPacket) -> Sequence[memoryview]:
        if packet.block not in self._blocks:
            raise RemoteProtocolError(f"{channel.where}: packet.block", "one of the block list", packet.block)
        assert self.session.configuration is not None
        page = self.session.configuration.page_size
        for offsets in (packet.normal, packet.zero):
            if len(offsets) and int(offsets.max()) > self._blocks[packet.block] - page:
                raise RemoteProtocolError(f"{channel.where}: packet.offsets", "a page within the block")
        if not self._taking:
            raise RemoteProtocolError(f"{channel.where}: packet", "no pages after main's last mark")
        channel.unordered = True
        return (self._scratch[: len(packet.normal) * page],)

    def _start(self, channel: _Channel) -> None:
        assert self.session.configuration is not None
        channel.reader = ChannelReader(
            page_size=self.session.configuration.page_size,
            create_decoder=create_decoder,
            place=lambda packet: self._place(channel, packet),
            compression=self._streams.compression,
        )
        channel.items = channel.reader.feed(channel.data)

    # -- what to do

    def _act(self) -> None:
        while (action := self.session.poll_action()) is not None:
            match action:
                case a.PrepareBlocks():
                    self._blocks = {block.name: block.length for block in action.blocks}
                    self.session.handle_prepared(self._now)
                case a.StartChannels():
                    for channel in self._channels.values():
                        self._start(channel)
                case a.ZeroRam():
                    assert int(action.offsets.max()) < self._blocks[action.block]
                case a.WriteRam():
                    assert action.offset + len(action.data) <= self._blocks[action.block]
                case a.Release(final=True):
                    self._taking = False
                    for channel in self._channels.values():
                        channel.stopped = False
                        if channel.unordered:
                            late = RemoteProtocolError(f"{channel.where}: packet", "no pages after main's last mark")
                            self.session.handle_channel_ended(channel.number, late, self._now)
                case a.Release():
                    for channel in self._channels.values():
                        channel.stopped = channel.unordered = False
                case a.Reply():
                    self.replies.append(action.message)
                case a.Store():
                    self._to_store = True
                case a.Finished():
                    self.error = action.error
