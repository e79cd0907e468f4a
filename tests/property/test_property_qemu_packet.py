"""Packets of QEMU's channels: whatever is written is read back however it is cut, and any bytes give packets or the
peer's error.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multifd.codec.streams import create_decoder, create_encoder
from multifd.elements import Compression, DevicePacket, Handshake, Packet, Pong, RamPacket, Shut, SwitchoverAck
from multifd.errors import RemoteProtocolError
from multifd.limits import QEMU_DEVICE_PAYLOAD_BYTES_MAX
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_packet import (
    RunReader,
    RunWriter,
    header_bytes,
    serialize_device_header,
    serialize_handshake,
    serialize_ram_header,
)
from multifd.wire.qemu_return import ReturnReader, serialize_return

PAGE_SIZE = st.sampled_from([1024, 4096, 16384, 65536])
COMPRESSION = st.sampled_from(Compression)
NAME = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=60)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
HANDSHAKE = st.builds(Handshake, st.binary(min_size=16, max_size=16), st.integers(0, 254))
DEVICE = st.builds(DevicePacket, NAME, U32, st.binary(min_size=1, max_size=50))
MESSAGE = st.builds(Shut, U32) | st.builds(Pong, U32) | st.builds(SwitchoverAck)
EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF]


class Read:
    """A channel read from bytes, with the contents of its pages."""

    def __init__(self, page_size: int, compression: Compression | None = None) -> None:
        self.items: list[Handshake | Packet] = []
        self.pages: list[bytearray] = []
        self._page_size = page_size
        self.reader = ChannelReader(
            page_size=page_size, create_decoder=create_decoder, place=self.place, compression=compression
        )

    def place(self, packet: RamPacket) -> Sequence[memoryview]:
        self.pages.append(bytearray(len(packet.normal) * self._page_size))
        view = memoryview(self.pages[-1])
        return [view[:1000], view[1000:]]

    def feed(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        for start, end in itertools.pairwise(places):
            self.items.extend(self.reader.feed(data[start:end]))


def shown(item: Handshake | Packet) -> object:
    """What can be compared."""
    if isinstance(item, RamPacket):
        return item.block, item.normal.tolist(), item.zero.tolist(), item.number, item.sync, item.payload_bytes
    return item


@st.composite
def channels(draw: st.DrawFn) -> tuple[int, list[Handshake | Packet], list[bytes], bytes]:
    """(page size, what is on a channel, contents of its pages, bytes)."""
    page_size, compression = draw(PAGE_SIZE), draw(COMPRESSION)
    encoder = create_encoder(compression)
    handshake = draw(HANDSHAKE)
    items: list[Handshake | Packet] = [handshake]
    contents, parts = [], [serialize_handshake(handshake)]
    for _ in range(draw(st.integers(0, 4))):
        item: Packet | None = draw(st.none() | DEVICE)
        if isinstance(item, DevicePacket):
            parts += [serialize_device_header(item), item.payload]
        else:
            offsets = np.array(draw(st.lists(st.integers(0, 2**40), max_size=8)), np.int64) * page_size
            normal = draw(st.integers(0, len(offsets)))
            content = bytes(draw(st.integers(0, 255)) for _ in range(normal)) * page_size
            payload = content if encoder is None or not content else encoder.encode([content])
            sync = not len(offsets)
            block = "" if sync else draw(NAME)
            number = draw(U64)
            item = RamPacket(block, offsets[:normal], offsets[normal:], number, sync, compression, len(payload))
            parts += [serialize_ram_header(item, page_size), payload]
            if not sync:
                contents.append(content)
        items.append(item)
    return page_size, items, contents, b"".join(parts)


@settings(deadline=None)
@given(channels(), st.lists(st.integers(0, 10000), max_size=5))
def test_channels_come_back(channel: tuple[int, list[Handshake | Packet], list[bytes], bytes], cuts: list[int]) -> None:
    """Any channel, cut anywhere, comes back in order with the contents of its pages."""
    page_size, items, contents, data = channel
    read = Read(page_size)
    read.feed(data, cuts)
    read.reader.end()
    assert list(map(shown, read.items)) == list(map(shown, items))
    assert read.pages == contents


def feed_any(data: bytes, page_size: int, compression: Compression | None) -> None:
    """Anything but packets, nothing yet, or the peer's error fails."""
    read = Read(page_size, compression)
    try:
        read.feed(data)
    except RemoteProtocolError as error:
        assert error.where.startswith("channel ")  # noqa: PT017  # packets are right too
    for item in read.items:
        if isinstance(item, RamPacket):
            assert len(item.normal) + len(item.zero) <= 524288 // page_size
            assert all(at >= 0 and at % page_size == 0 for at in (*item.normal.tolist(), *item.zero.tolist()))
        elif isinstance(item, DevicePacket):
            assert 1 <= len(item.payload) <= QEMU_DEVICE_PAYLOAD_BYTES_MAX


@settings(deadline=None)
@given(st.binary(max_size=500), PAGE_SIZE, st.none() | COMPRESSION)
@example(b"", 4096, None)
def test_any_bytes(data: bytes, page_size: int, compression: Compression | None) -> None:
    """Any bytes are refused, or more are needed."""
    feed_any(data, page_size, compression)


@settings(deadline=None)
@given(channels(), st.lists(st.tuples(st.integers(0, 400), st.sampled_from(EXTREMES)), max_size=4), st.data())
def test_changed_bytes(
    channel: tuple[int, list[Handshake | Packet], list[bytes], bytes],
    changes: list[tuple[int, int]],
    data: st.DataObject,
) -> None:
    """A good channel with bytes of its headers set to extremes, followed by anything, gives packets or the error."""
    page_size, _items, _contents, good = channel
    spoiled = bytearray(good)
    for at, value in changes:
        spoiled[at % len(spoiled)] = value
    feed_any(bytes(spoiled) + data.draw(st.binary(max_size=50)), page_size, data.draw(st.none() | COMPRESSION))


@settings(deadline=None)
@given(COMPRESSION.filter(bool), st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=4), st.data())
def test_changed_payload(compression: Compression, packets: list[bytes], data: st.DataObject) -> None:
    """Compressed payload with a byte changed decodes to its length or is refused: nothing else happens."""
    encoder, decoder = create_encoder(compression), create_decoder(compression)
    assert encoder is not None
    assert decoder is not None
    spoiled_one = data.draw(st.integers(0, len(packets) - 1))
    for number, packet in enumerate(packets):
        payload = bytearray(encoder.encode([packet]))
        if number == spoiled_one:
            payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
        memory = bytearray(len(packet))
        try:
            decoder.decode(memoryview(payload), [memoryview(memory)])
        except ValueError:
            assert memory == bytes(len(packet))  # decoding to something else is right as well
            return
        assert number >= spoiled_one or memory == packet


@given(st.lists(MESSAGE, max_size=5), st.lists(st.integers(0, 40), max_size=4))
def test_return_messages_come_back(messages: list[Shut | Pong | SwitchoverAck], cuts: list[int]) -> None:
    """Any messages, cut anywhere, come back in order."""
    data = b"".join(map(serialize_return, messages))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = ReturnReader()
    assert [m for start, end in itertools.pairwise(places) for m in reader.feed(data[start:end])] == messages
    reader.end()


@given(st.binary(max_size=40))
def test_any_bytes_on_the_return_path(data: bytes) -> None:
    """Any bytes give messages that are written as they were, then nothing yet or the peer's error."""
    reader = ReturnReader()
    messages = []
    try:
        for message in reader.feed(data):
            messages.append(message)  # an error comes after some
    except RemoteProtocolError as error:
        assert error.where.startswith(f"return path at {reader.offset}: frame")  # noqa: PT017  # no error is right too
    assert b"".join(map(serialize_return, messages)) == data[: reader.offset]


@st.composite
def headers(draw: st.DrawFn) -> tuple[int, bytes]:
    """(page size, header): of neighbours more often than not, a few bytes of which may be anything."""
    page_size = draw(PAGE_SIZE)
    count = draw(st.integers(1, 524288 // page_size))
    first = draw(st.integers(0, 2**44) | st.integers(2**63 // page_size - 520, 2**63 // page_size - count)) * page_size
    offsets = np.arange(count, dtype=np.int64) * page_size + first
    if draw(st.integers(0, 3)) == 0:
        offsets = np.array(draw(st.permutations(offsets[:8].tolist())), np.int64)
    normal = draw(st.sampled_from([len(offsets), len(offsets), len(offsets) // 2]))
    packet = RamPacket(draw(NAME), offsets[:normal], offsets[normal:], number=1, payload_bytes=normal * page_size)
    data = bytearray(serialize_ram_header(packet, page_size))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2)):
        data[min(at, len(data) - 1)] = value
    return page_size, bytes(data)


@given(headers())
def test_the_short_way_reads_what_the_long_way_reads(made: tuple[int, bytes]) -> None:
    """Whatever `RunReader` takes for neighbouring pages, the reader of all packets takes for the same pages; and it
    takes every header of neighbours that was not tampered with.
    """
    page_size, data = made
    assert len(data) == header_bytes(page_size)
    runs = RunReader(page_size)
    runs.header[:] = data
    run = runs.offset()
    reading = Read(page_size, Compression.NONE)
    try:
        reading.feed(serialize_handshake(Handshake(bytes(16), 0)) + data + bytes(524288))
    except RemoteProtocolError:
        # of the header, then; or of the zeros after the packet, which are no other
        if not reading.items[1:]:
            assert run is None
            return
    packet = reading.items[1]
    assert isinstance(packet, RamPacket)
    offsets = packet.normal.tolist()
    neighbours = bool(offsets) and offsets == list(range(offsets[0], offsets[0] + len(offsets) * page_size, page_size))
    if neighbours and not len(packet.zero) and not packet.sync:
        assert run is not None
        assert (runs.block, run, runs.length) == (packet.block, offsets[0], len(offsets) * page_size)
        written = RunWriter(page_size).serialize(runs.block, run, runs.length, number=packet.number)
        assert written == serialize_ram_header(packet, page_size)
    else:
        assert run is None
