"""The receiving end of one channel of QEMU's dialect: a worker thread that receives pages straight into place, and
stops at each SYNC until it is released (proto/qemu.md sections 5 and 6).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from multifd.codec.streams import create_decoder
from multifd.elements import Compression, DevicePacket, Offsets, Packet, RamPacket
from multifd.engine.channel_worker import ChannelWorker
from multifd.engine.events import EventQueue
from multifd.engine.transport import DataSocket
from multifd.errors import MultifdError, RemoteProtocolError, TransportError
from multifd.qemu.report import ChannelTally
from multifd.qemu.target import BlockTarget
from multifd.wire.qemu_packet import (
    DEVICE_HEADER_BYTES,
    HANDSHAKE_BYTES,
    PacketBuffers,
    RunReader,
    check_placed,
    header_bytes,
    read_packet,
)

_COUNTED_MAX = 4
"""Packets that come before they are counted: a quarter of the cost, and 2 MiB that nobody sees yet take 1.7 s on a link
of 10 Mbit/s, far less than any silence that is not borne.
"""


@dataclass(frozen=True, slots=True)
class Synced:
    """A SYNC came, which ends at `offset`, and the worker has stopped."""

    channel: int
    offset: int


@dataclass(frozen=True, slots=True)
class DeviceStateCame:
    """A piece of a device's state came, which ends at `offset`, and the worker has stopped: pieces are large, and no
    more of them are in memory than there are channels.
    """

    channel: int
    offset: int
    packet: DevicePacket


@dataclass(frozen=True, slots=True)
class ReceiveEnded:
    """The worker has ended: with an error, or because the connection ended between two packets."""

    channel: int
    error: MultifdError | None


ReceiveEvent = Synced | DeviceStateCame | ReceiveEnded


class ReceiveHooks(Protocol):
    """What may be done on the way; each is called in the channel's thread."""

    def before_channel_read(self, channel: int) -> None:
        """Before each packet; a packet that follows neighbouring pages is read together with these."""

    def before_sync(self, channel: int) -> None:
        """A SYNC has come, and nobody knows yet."""


class QemuChannelReceiver(ChannelWorker):
    """One channel of a destination of QEMU's dialect. Its handshake has been read when the worker begins."""

    def __init__(
        self,
        number: int,
        connection: DataSocket,
        *,
        blocks: Mapping[str, BlockTarget],
        page_size: int,
        compression: Compression,
        hooks: ReceiveHooks,
        events: EventQueue[ReceiveEvent],
    ) -> None:
        # set once
        super().__init__(number, connection, doing="qemu-receive")
        self._blocks = blocks
        self._page_size = page_size
        self._compression = compression
        self._header_bytes = header_bytes(page_size)
        self._hooks = hooks
        self._events = events
        # loop's and worker's; a flag is set before the event, and looked at after the event was cleared
        self._go_on = threading.Event()
        self._open = False
        """Nobody stops at a SYNC any more: main is at its end, or the session."""
        self._taking = True
        """Pages may come."""
        self.unordered = False
        """Pages came since the last SYNC that main has met. The worker sets it; the loop clears it while that waits."""
        # worker's; read by the loop
        self.tally = ChannelTally()
        # worker's
        self._offset = HANDSHAKE_BYTES
        self._buffers = PacketBuffers()
        self._runs = RunReader(page_size)
        decoder = create_decoder(compression)
        self._decode = None if decoder is None else decoder.decode
        self._target: BlockTarget | None = None

    # -- loop

    def release(self) -> None:
        """*loop*: go on after a SYNC: the worker has stopped, and so have all others, and main."""
        self.unordered = False
        self._go_on.set()

    def finish(self) -> RemoteProtocolError | None:
        """*loop*: main is at its end: no pages may come from now on, and SYNCs stop nobody. The error if pages have
        come that no SYNC has put in order.
        """
        self._taking = False
        self._open = True
        self._go_on.set()
        return self._late() if self.unordered else None

    def cancel(self, *, orderly: bool = False) -> None:
        """*loop*: see `ChannelWorker.cancel`."""
        self._open = True
        self._go_on.set()
        super().cancel(orderly=orderly)

    # -- worker

    def _run(self) -> None:
        error: MultifdError | None = None
        try:
            while self._receive():
                pass
        except MultifdError as raised:
            error = raised
        except (OSError, EOFError) as raised:
            error = TransportError(f"{self._where()}: the connection was lost: {raised}")
        except Exception as raised:  # whatever it is, the loop must hear of it
            error = MultifdError(f"{self._where()}: {type(raised).__name__}: {raised}")
        self._events.post(ReceiveEnded(self.number, error))

    def _receive(self) -> bool:
        """Packets up to one that is more than a run of neighbouring pages, and that one; False if the connection has
        ended between two.
        """
        self._hooks.before_channel_read(self.number)
        if self._compression is Compression.NONE:
            got = self._receive_runs()
            if not got:
                return False
            self._socket.give_back(self._runs.header[:got])
        return self._receive_any()

    def _receive_runs(self) -> int:
        """All packets of neighbouring pages up to another. Returns the length of that one's header, which has been
        read; less if the connection has ended.

        The pages of a packet and the header after them come by one call: more comes for certain, since pages are
        followed by a SYNC sooner or later. The loop is flat: each function costs cache misses (docs/BENCHMARKS.md).
        """
        runs, header, receive = self._runs, self._runs.header, self._socket.receive_until_end
        before_read, number, header_bytes = self._hooks.before_channel_read, self.number, self._header_bytes
        block, length, count = "", 0, 0
        got = self._socket.receive_some(header)
        try:
            while got == header_bytes and (offset := runs.offset()) is not None:
                if count == _COUNTED_MAX or runs.length != length or runs.block is not block:
                    self._count_run(count, length)
                    block, length, count = runs.block, runs.length, 0
                    target = self._target_of(block)
                self.unordered = True  # see `_check_taking`
                if offset + length > target.length or not self._taking:
                    self._count_run(count, length)  # errors say where they are
                    count = 0
                    self._check_taking()
                    raise self._beyond_end(target, offset + length - self._page_size)
                view = target.place_run(offset, length)
                if len(view) != length:
                    check_placed((view,), length)
                before_read(number)
                got = receive((view, header)) - length
                if got < 0:
                    raise EOFError("it ended inside a packet")
                count += 1
        finally:
            self._count_run(count, length)
        return got

    def _count_run(self, packets: int, length: int) -> None:
        """So many packets came, with so many bytes of pages each."""
        tally, wire_length = self.tally, self._header_bytes + length
        tally.packets += packets
        tally.normal_pages += packets * (length // self._page_size)
        tally.payload_bytes += packets * length
        tally.wire_bytes += packets * wire_length
        self._offset += packets * wire_length

    def _receive_any(self) -> bool:
        """One packet of any kind; False if the connection has ended before it."""
        reader = read_packet(
            self._buffers,
            where=self._where(),
            page_size=self._page_size,
            compression=self._compression,
            decode=self._decode,
            place=self._place,
        )
        try:
            first = True
            while True:
                if not self._socket.receive(next(reader)):
                    if first:
                        return False
                    raise EOFError("it ended inside a packet")
                first = False
        except StopIteration as end:
            packet: Packet = end.value
        if isinstance(packet, DevicePacket):
            length = DEVICE_HEADER_BYTES + len(packet.payload)
            self._offset += length
            self.tally.wire_bytes += length
            self._stop_with(DeviceStateCame(self.number, self._offset, packet))
        else:
            self._take(packet)
        return True

    def _place(self, packet: RamPacket) -> Sequence[memoryview]:
        target = self._target_of(packet.block)
        self._check_end(packet.normal, target)
        self._check_end(packet.zero, target)
        self._check_taking()
        self._target = target
        return target.place(packet.normal) if len(packet.normal) else ()

    def _target_of(self, block: str) -> BlockTarget:
        target = self._blocks.get(block)
        if target is None:
            raise RemoteProtocolError(f"{self._where()}: packet.block", "one of the block list", block)
        return target

    def _check_taking(self) -> None:
        self.unordered = True  # before the look at `_taking`: `finish` does it the other way round
        if not self._taking:
            raise self._late()

    def _check_end(self, offsets: Offsets, target: BlockTarget) -> None:
        if len(offsets) and (last := int(offsets.max())) > target.length - self._page_size:
            raise self._beyond_end(target, last)

    def _beyond_end(self, target: BlockTarget, last: int) -> RemoteProtocolError:
        expected = f"a page within the block's {target.length} bytes"
        return RemoteProtocolError(f"{self._where()}: packet.offsets", expected, hex(last))

    def _take(self, packet: RamPacket) -> None:
        tally = self.tally
        length = self._header_bytes + packet.payload_bytes
        self._offset += length
        if packet.block:
            zeros = len(packet.zero)
            if zeros:
                assert self._target is not None
                self._target.zero(packet.zero)
            tally.packets += 1
            tally.normal_pages += len(packet.normal)
            tally.zero_pages += zeros
            tally.payload_bytes += packet.payload_bytes
        tally.wire_bytes += length
        if packet.sync:
            tally.syncs += 1
            self._hooks.before_sync(self.number)
            self._stop_with(Synced(self.number, self._offset))

    def _stop_with(self, event: Synced | DeviceStateCame) -> None:
        """Tell of it, and read on when it has been dealt with."""
        self._go_on.clear()
        self._events.post(event)
        if not self._open:
            self._go_on.wait()

    def _where(self) -> str:
        return f"channel {self.number} at {self._offset}"

    def _late(self) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self._where()}: packet", "no pages that main's last mark does not cover")
