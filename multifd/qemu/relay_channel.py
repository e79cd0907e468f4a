"""One channel of a relay: a worker thread that takes packets from the source and gives them to the far end, as they
are, or encoded anew where the two ends differ in compression. Blocking, with one packet in hand: a far end that is slow
holds its source up, and nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multifd.codec.streams import Encoder, create_decoder, create_encoder
from multifd.elements import Compression, DevicePacket, Offsets, Packet, RamPacket
from multifd.engine.channel_worker import ChannelWorker
from multifd.engine.events import EventQueue
from multifd.engine.transport import DataSocket
from multifd.errors import MultifdError, RemoteProtocolError, TransportError
from multifd.limits import QEMU_PACKET_BYTES
from multifd.qemu.relay_far_end import FarChannel
from multifd.qemu.report import ChannelTally
from multifd.slot import Buffer
from multifd.wire.qemu_packet import (
    DEVICE_HEADER_BYTES,
    HANDSHAKE_BYTES,
    PacketBuffers,
    header_bytes,
    read_packet,
    serialize_ram_header,
)

_NO_PAGES: Offsets = np.empty(0, dtype=np.int64)


class End(enum.Enum):
    """Which of the two."""

    NEAR = "source"
    FAR = "far end"


@dataclass(frozen=True, slots=True)
class RelayChannelEnded:
    """The worker has ended: the source closed the channel (None), or something failed at one end."""

    channel: int
    end: End
    error: MultifdError | None


class RelayChannel(ChannelWorker):
    """Both handshakes are done when the worker begins."""

    def __init__(
        self,
        number: int,
        near: DataSocket,
        far: FarChannel,
        *,
        page_size: int,
        compression: tuple[Compression, Compression],
        events: EventQueue[RelayChannelEnded],
    ) -> None:
        """`compression`: the source's and the far end's."""
        # set once
        super().__init__(number, near, doing="qemu-relay")
        self._far = far
        self._page_size = page_size
        self._header_bytes = header_bytes(page_size)
        self._in, self._out = compression
        self._events = events
        # worker's; read by the loop
        self.came = ChannelTally()
        self.passed = ChannelTally()
        """`syncs` grows when a SYNC, and all before it, is in the far end's socket."""
        self.device_packets = 0
        # worker's
        self._offset = HANDSHAKE_BYTES
        self._buffers = PacketBuffers()
        self._pages = memoryview(bytearray(QEMU_PACKET_BYTES))
        self._encoded: memoryview = self._pages[:0]
        decoder = None if self._in is self._out else create_decoder(self._in)
        self._decode = self._keep if decoder is None else decoder.decode
        self._encoder: Encoder | None = None if self._in is self._out else create_encoder(self._out)

    def cancel(self, *, orderly: bool = False) -> None:
        """*loop*: end now, wherever it is; `orderly`: both ends have closed or may be told."""
        if not orderly:
            self._far.shut()
        super().cancel(orderly=orderly)

    def join(self) -> bool:
        """*pool*: see `ChannelWorker.join`; closes both."""
        ended = super().join()
        self._far.close()
        return ended

    # -- worker

    def _run(self) -> None:
        end, error = End.NEAR, None
        try:
            while (packet := self._receive()) is not None:
                end = End.FAR
                self._forward(packet)
                end = End.NEAR
        except MultifdError as raised:
            error = raised
        except (OSError, EOFError) as raised:
            error = TransportError(f"{self._where()}: the {end.value}'s connection was lost: {raised}")
        except Exception as raised:  # whatever it is, the loop must hear of it
            error = MultifdError(f"{self._where()}: {type(raised).__name__}: {raised}")
        self._events.post(RelayChannelEnded(self.number, end, error))

    def _receive(self) -> Packet | None:
        """The next packet, its pages or payload in memory; None at the channel's end."""
        reader = read_packet(
            self._buffers,
            where=self._where(),
            page_size=self._page_size,
            compression=self._in,
            decode=self._decode,
            place=self._place,
        )
        first = True
        try:
            while True:
                if not self._socket.receive(next(reader)):
                    if first:
                        return None
                    raise EOFError("it ended inside a packet")
                first = False
        except StopIteration as whole:
            packet: Packet = whole.value
        self._count(packet)
        return packet

    def _place(self, packet: RamPacket) -> Sequence[memoryview]:
        return (self._pages[: len(packet.normal) * self._page_size],)

    def _keep(self, payload: memoryview, _targets: Sequence[memoryview]) -> None:
        """What is passed on as it is need not be decoded."""
        self._encoded = payload

    def _forward(self, packet: Packet) -> None:
        if isinstance(packet, DevicePacket):
            if self._out is not Compression.NONE:
                where = f"{self._where()}: device {packet.name!r:.80}"
                raise RemoteProtocolError(where, "no state of devices on channels when the far end compresses")
            self._send((self._buffers.first, packet.payload))
            self.device_packets += 1
        elif self._in is self._out:
            payload = self._encoded if self._in is not Compression.NONE else self._pages
            self._send((self._buffers.header[: self._header_bytes], payload[: packet.payload_bytes]))
            self._passed(packet, packet.payload_bytes)
        else:
            self._forward_anew(packet)

    def _forward_anew(self, packet: RamPacket) -> None:
        """In the form of a source 9.0 or later: pages and SYNC apart, and nothing for what is neither."""
        if packet.block:
            pages = self._pages[: len(packet.normal) * self._page_size]
            payload: Buffer = pages
            if self._encoder is not None and len(pages):
                payload = self._encoder.encode((pages,))
            header = RamPacket(
                packet.block,
                packet.normal,
                packet.zero,
                number=packet.number,
                compression=self._out,
                payload_bytes=len(payload),
            )
            self._send((serialize_ram_header(header, self._page_size), payload))
            self._passed(header, len(payload))
        if packet.sync:
            sync = RamPacket("", _NO_PAGES, _NO_PAGES, number=packet.number, sync=True)
            self._send((serialize_ram_header(sync, self._page_size),))
            self._passed(sync, 0)

    def _send(self, buffers: Sequence[Buffer]) -> None:
        self._far.send([each for each in buffers if len(each)])
        self.passed.wire_bytes += sum(map(len, buffers))

    def _count(self, packet: Packet) -> None:
        if isinstance(packet, DevicePacket):
            length = DEVICE_HEADER_BYTES + len(packet.payload)
        else:
            length = self._header_bytes + packet.payload_bytes
            _tell(self.came, packet, packet.payload_bytes)
        self.came.wire_bytes += length
        self._offset += length

    def _passed(self, packet: RamPacket, payload_bytes: int) -> None:
        _tell(self.passed, packet, payload_bytes)
        if packet.sync:
            self._events.hint()

    def _where(self) -> str:
        return f"channel {self.number} at {self._offset}"


def _tell(tally: ChannelTally, packet: RamPacket, payload_bytes: int) -> None:
    if packet.block:
        tally.packets += 1
        tally.normal_pages += len(packet.normal)
        tally.zero_pages += len(packet.zero)
        tally.payload_bytes += payload_bytes
    tally.syncs += packet.sync
