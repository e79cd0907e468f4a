"""A channel of QEMU's dialect from bytes: for captured streams (proto/qemu.md sections 1 and 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

from multifd.elements import Compression, Handshake, Packet, RamPacket
from multifd.errors import RemoteProtocolError
from multifd.slot import Buffer
from multifd.wire.qemu_packet import HANDSHAKE_BYTES, PacketBuffers, Place, parse_handshake, read_packet


class Decoder(Protocol):
    """What `ChannelReader` needs of a decoder."""

    def decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        """See `qemu_packet.Decode`."""


class ChannelReader:
    """Reads a handshake, then packets. After an error, also one of `place`, every further call raises it again."""

    def __init__(
        self,
        *,
        page_size: int,
        create_decoder: Callable[[Compression], Decoder | None],
        place: Place,
        compression: Compression | None = None,
    ) -> None:
        """`create_decoder` is asked for this channel's decoder when its first pages come; `place`: see there. With
        `compression` None the first packet that lists pages tells it.
        """
        self.offset = 0
        """Of the next byte that was not consumed, from the channel's begin."""
        self.compression = compression
        self._page_size = page_size
        self._create_decoder = create_decoder
        self._decoder: Decoder | None = None
        self._where_to = place
        self._buffers = PacketBuffers()
        self._name = "channel"
        self._begin = 0  # of the handshake or packet that is being read
        self._steps: Generator[Sequence[memoryview], None, Handshake | Packet] = self._read_handshake()
        self._wanted: deque[memoryview] = deque()
        self._error: Exception | None = None

    def feed(self, data: Buffer) -> Iterator[Handshake | Packet]:
        """Whatever `data` completes, each as soon as it is whole. Lazy: exhaust it before the next call.

        A packet's normal pages are in place when it is yielded. Raises `RemoteProtocolError` after all that came before
        the fault, and whatever `place` raises.
        """
        view = memoryview(data)
        while True:
            if self._error is not None:
                raise self._error
            while self._wanted:
                if not view:
                    return
                view = self._fill(view)
            item = self._advance()
            if item is not None:
                yield item

    def end(self) -> None:
        """The channel's bytes have ended. Raises `RemoteProtocolError` if they did inside the handshake or a packet."""
        if self._error is not None:
            raise self._error
        if self.offset != self._begin or not self.offset:
            what = "packet" if self._begin else "handshake"
            raise RemoteProtocolError(f"{self._where}: {what}", "all of it", f"{self.offset - self._begin} bytes")

    def _fill(self, view: memoryview) -> memoryview:
        """Move what there is into the next wanted buffer; what is left of `view`."""
        target = self._wanted.popleft()
        count = min(len(target), len(view))
        target[:count] = view[:count]
        if count < len(target):
            self._wanted.appendleft(target[count:])
        self.offset += count
        return view[count:]

    def _advance(self) -> Handshake | Packet | None:
        """One step: a handshake or packet that is whole now; None if it wants more."""
        try:
            self._wanted.extend(next(self._steps))
        except StopIteration as whole:
            item: Handshake | Packet = whole.value
        except Exception as error:
            self._error = error
            raise
        else:
            return None
        self._begin = self.offset
        if isinstance(item, Handshake):
            self._name = f"channel {item.channel}"
        self._steps = read_packet(
            self._buffers,
            where=self._where,
            page_size=self._page_size,
            compression=self.compression,
            decode=self._decode,
            place=self._place,
        )
        return item

    def _read_handshake(self) -> Generator[Sequence[memoryview], None, Handshake]:
        buffer = memoryview(bytearray(HANDSHAKE_BYTES))
        yield (buffer,)
        return parse_handshake(buffer, where=self._where)

    def _place(self, packet: RamPacket) -> Sequence[memoryview]:
        if self.compression is None:
            self.compression = packet.compression
        if self._decoder is None:
            self._decoder = self._create_decoder(self.compression)
        return self._where_to(packet)

    def _decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        assert self._decoder is not None
        self._decoder.decode(payload, targets)

    @property
    def _where(self) -> str:
        return f"{self._name} at {self._begin}"
