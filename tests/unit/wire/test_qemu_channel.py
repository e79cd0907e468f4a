"""Whole channels from bytes: cut anywhere, one element at a time, up to the fault and not beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from multifd.elements import Compression, DevicePacket, Handshake, Packet, RamPacket
from multifd.errors import RemoteProtocolError
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_packet import serialize_device_header, serialize_handshake, serialize_ram_header

PAGE = 4096
NONE = np.empty(0, np.int64)
ONE = np.zeros(1, np.int64)
HANDSHAKE = Handshake(bytes(range(16)), 3)
DEVICE = DevicePacket("dev", 1, b"state")
SYNC = serialize_ram_header(RamPacket("", NONE, NONE, 5, sync=True), PAGE)


class Xor:
    """A decoder of its own kind, which fills one page."""

    def decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        if not payload[0]:
            raise ValueError("zero")
        targets[0][:] = bytes([payload[0] ^ 0xFF]) * len(targets[0])


class Channel:
    """A reader with one page of memory, and what it was asked for."""

    def __init__(self, compression: Compression | None = None) -> None:
        self.asked: list[Compression] = []
        self.page = memoryview(bytearray(PAGE))
        self.reader = ChannelReader(
            page_size=PAGE, create_decoder=self.create, place=self.place, compression=compression
        )

    def create(self, compression: Compression) -> Xor | None:
        self.asked.append(compression)
        return Xor() if compression else None

    def place(self, packet: RamPacket) -> Sequence[memoryview]:
        if packet.block != "m":
            raise RemoteProtocolError("place", "m", packet.block)
        return [self.page]

    def feed(self, data: bytes) -> list[Handshake | Packet]:
        return list(self.reader.feed(data))


def page(payload: bytes, compression: Compression = Compression.NONE, block: str = "m") -> bytes:
    """A packet of one page."""
    return serialize_ram_header(RamPacket(block, ONE, NONE, 0, False, compression, len(payload)), PAGE) + payload


def shown(items: list[Handshake | Packet]) -> list[object]:
    """What can be compared: packets hold arrays."""
    return [(each.block, len(each.normal), each.sync) if isinstance(each, RamPacket) else each for each in items]


WHOLE = (
    serialize_handshake(HANDSHAKE)
    + page(b"a" * PAGE)
    + SYNC
    + serialize_device_header(DEVICE)
    + DEVICE.payload
    + page(b"b" * PAGE)
)
ITEMS = [HANDSHAKE, ("m", 1, False), ("", 0, True), DEVICE, ("m", 1, False)]


@pytest.mark.parametrize("step", [1, 63, 277, 1345, 5000, len(WHOLE)])
def test_cut_anywhere(step: int) -> None:
    """The same elements come, however the bytes do, and the last page is in place."""
    channel = Channel()
    items = [item for at in range(0, len(WHOLE), step) for item in channel.feed(WHOLE[at : at + step])]
    assert shown(items) == ITEMS
    assert channel.page == b"b" * PAGE
    assert channel.reader.offset == len(WHOLE)
    channel.reader.end()


def test_elements_come_one_at_a_time() -> None:
    """What follows an element is not looked at before the next step: its page can be taken first."""
    channel = Channel()
    items = channel.reader.feed(WHOLE + bytes(2000))
    pages = [bytes(channel.page) for item in (next(items) for _ in ITEMS) if isinstance(item, RamPacket)]
    assert pages == [b"a" * PAGE, b"a" * PAGE, b"b" * PAGE]
    with pytest.raises(RemoteProtocolError, match=f"channel 3 at {len(WHOLE)}: packet.magic"):
        next(items)


def test_after_an_error_it_is_dead() -> None:
    """Every further call says the same, at the end too."""
    channel = Channel()
    channel.feed(WHOLE)
    for attempt in (lambda: channel.feed(bytes(2000)), lambda: channel.feed(SYNC), channel.reader.end):
        with pytest.raises(RemoteProtocolError, match=f"channel 3 at {len(WHOLE)}: packet.magic"):
            attempt()


def test_errors_of_place_leave_it_dead_too() -> None:
    """Whoever places knows which blocks there are."""
    channel = Channel()
    channel.feed(WHOLE)
    for data in (page(b"c" * PAGE, block="n"), SYNC):
        with pytest.raises(RemoteProtocolError, match="place"):
            channel.feed(data)


@pytest.mark.parametrize("length", [0, 1, 63])
def test_end_inside_the_handshake(length: int) -> None:
    """A channel without a whole handshake is none."""
    channel = Channel()
    channel.feed(WHOLE[:length])
    with pytest.raises(RemoteProtocolError, match="channel at 0: handshake"):
        channel.reader.end()


@pytest.mark.parametrize("length", [1, 276, 1343, 1344, 1344 + PAGE - 1])
def test_end_inside_a_packet(length: int) -> None:
    """Only between packets a channel may end."""
    channel = Channel()
    channel.feed(WHOLE[: 64 + length])
    with pytest.raises(RemoteProtocolError, match=f"channel 3 at 64: packet.*{length} bytes"):
        channel.reader.end()


def test_compression_is_found_out() -> None:
    """The first packet with pages tells it; a SYNC before it does not; another one after it is refused."""
    channel = Channel()
    channel.feed(serialize_handshake(HANDSHAKE) + SYNC)
    assert channel.reader.compression is None
    channel.feed(page(b"\x01", Compression.ZSTD))
    assert channel.reader.compression is Compression.ZSTD
    assert channel.page == b"\xfe" * PAGE
    channel.feed(page(b"\x02", Compression.ZSTD))
    assert channel.asked == [Compression.ZSTD]
    with pytest.raises(RemoteProtocolError, match=r"packet\.compression"):
        channel.feed(page(b"\x01", Compression.ZLIB))


def test_compression_can_be_given() -> None:
    """Then the first packet with pages must have it."""
    with pytest.raises(RemoteProtocolError, match=r"packet\.compression"):
        Channel(Compression.ZLIB).feed(WHOLE)


def test_undecodable_payload() -> None:
    """The decoder's refusal names the packet."""
    with pytest.raises(RemoteProtocolError, match=r"channel 3 at 64: packet\.payload"):
        Channel().feed(serialize_handshake(HANDSHAKE) + page(b"\x00", Compression.ZSTD))
