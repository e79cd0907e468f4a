"""Packets of a QEMU channel: which bytes are asked for when, what is refused, and what is written. Headers are made by
hand here, from proto/qemu.md section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from multifd.elements import Compression, DevicePacket, Handshake, Offsets, RamPacket
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.limits import QEMU_DEVICE_PAYLOAD_BYTES_MAX, QEMU_PAYLOAD_BYTES_MAX
from multifd.wire.qemu_packet import (
    DEVICE_HEADER_BYTES,
    HANDSHAKE_BYTES,
    PacketBuffers,
    Role,
    connection_role,
    header_bytes,
    parse_handshake,
    read_packet,
    serialize_device_header,
    serialize_handshake,
    serialize_ram_header,
)

PAGE = 4096
UUID = bytes(range(16))
HANDSHAKE = bytes.fromhex("11223344 00000001") + UUID + b"\x03" + bytes(7) + bytes(32)
ALL_BITS = (1 << 64) - 1


def ram_header(
    *,
    magic: int = 0x11223344,
    version: int = 1,
    flags: int = 0,
    alloc: int = 128,
    normal: int = 0,
    payload_bytes: int | None = None,
    number: int = 9,
    zero: int = 0,
    block: bytes = b"pc.ram",
    offsets: Sequence[int] = (),
    pages_max: int = 128,
) -> bytes:
    """A RAM packet's header; without `payload_bytes` it fits the normal pages."""
    size = normal * PAGE if payload_bytes is None else payload_bytes
    start = struct.pack(">IIIIIIQI", magic, version, flags, alloc, normal, size, number, zero)
    rest = struct.pack(f">{pages_max}Q", *offsets, *[0] * (pages_max - len(offsets)))
    return start.ljust(64, b"\0") + block.ljust(256, b"\0") + rest


def device_header(
    *, flags: int = 0x40, name: bytes = b"0000:00:02.0/vfio\0", instance: int = 7, payload_bytes: int = 5
) -> bytes:
    return struct.pack(">III256sII", 0x11223344, 1, flags, name, instance, payload_bytes)


def pages(*offsets: int) -> Offsets:
    return np.array(offsets, np.int64)


class Reading:
    """A packet reader with memory of its own: `place` gives two views, the second one page long."""

    def __init__(
        self, compression: Compression | None = Compression.NONE, *, page_size: int = PAGE, decodes: bool = True
    ) -> None:
        self.placed: list[RamPacket] = []
        self.decoded: list[tuple[bytes, int]] = []
        self._decodes = decodes
        self._page_size = page_size
        self.memory = memoryview(bytearray(1 << 20))
        self.steps = read_packet(
            PacketBuffers(),
            where="channel 3 at 64",
            page_size=page_size,
            compression=compression,
            decode=self.decode,
            place=self.place,
        )

    def place(self, packet: RamPacket) -> Sequence[memoryview]:
        self.placed.append(packet)
        length = len(packet.normal) * self._page_size
        return [self.memory[: length - self._page_size], self.memory[length - self._page_size : length]]

    def decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        if not self._decodes:
            raise ValueError("not today")
        self.decoded.append((bytes(payload), sum(map(len, targets))))

    def read(self, data: bytes) -> tuple[Any, list[int]]:
        """The packet in `data`, and the lengths that were asked for. `data` must be used up."""
        asked = []
        taken = 0
        try:
            while True:
                for buffer in next(self.steps):
                    asked.append(len(buffer))
                    part = data[taken : taken + len(buffer)]
                    buffer[: len(part)] = part
                    taken += len(buffer)
        except StopIteration as end:
            assert taken == len(data)
            return end.value, asked


def refused(data: bytes, compression: Compression | None = Compression.NONE) -> RemoteProtocolError:
    """The error that `data` is refused with, which names the packet's place."""
    reading = Reading(compression)
    with pytest.raises(RemoteProtocolError) as caught:
        reading.read(data)
    assert caught.value.where.startswith("channel 3 at 64: packet.")
    assert reading.placed == []
    return caught.value


# -- handshake ---------------------------------------------------------------------------------------------------------


def test_handshake_both_ways() -> None:
    """The 64 bytes stand as section 1 has them."""
    assert len(HANDSHAKE) == HANDSHAKE_BYTES
    assert parse_handshake(HANDSHAKE) == Handshake(UUID, 3)
    assert serialize_handshake(Handshake(UUID, 3)) == HANDSHAKE


@pytest.mark.parametrize(
    ("at", "value", "field"), [(0, 0x10, "magic"), (3, 0x45, "magic"), (7, 2, "version"), (24, 255, "channel")]
)
def test_bad_handshake_is_refused(at: int, value: int, field: str) -> None:
    """Another magic or version, and the id that no channel can have."""
    data = bytearray(HANDSHAKE)
    data[at] = value
    with pytest.raises(RemoteProtocolError) as caught:
        parse_handshake(data, where="channel at 0")
    assert caught.value.where == f"channel at 0: handshake.{field}"


@pytest.mark.parametrize("handshake", [Handshake(UUID, 255), Handshake(UUID, -1), Handshake(UUID[1:], 0)])
def test_bad_handshake_is_not_written(handshake: Handshake) -> None:
    """Neither an id beyond the last channel nor a UUID of another length."""
    with pytest.raises(LocalProtocolError):
        serialize_handshake(handshake)


@pytest.mark.parametrize(
    ("first", "role"),
    [(b"QEVM", Role.MAIN), (b"\x11\x22\x33\x44", Role.CHANNEL), (b"GET ", None), (bytes(4), None), (b"QEV", None)],
)
def test_connections_are_told_apart(first: bytes, role: Role | None) -> None:
    """The first four bytes say main, channel or neither."""
    assert connection_role(first) is role
    assert connection_role(memoryview(first)) is role


# -- reading pages -----------------------------------------------------------------------------------------------------


def test_asks_for_header_then_place_then_payload() -> None:
    """276 bytes, the rest of the header, then what `place` returned: normal pages in their order, zero pages apart."""
    data = ram_header(normal=2, zero=1, offsets=(0x5000, 0x1000, 0x9000))
    reading = Reading()
    packet, asked = reading.read(data + b"a" * PAGE + b"b" * PAGE)
    assert asked == [DEVICE_HEADER_BYTES, 1068, PAGE, PAGE]
    assert reading.placed == [packet]
    assert (packet.block, packet.number, packet.sync) == ("pc.ram", 9, False)
    assert (packet.compression, packet.payload_bytes) == (Compression.NONE, 2 * PAGE)
    assert packet.normal.tolist() == [0x5000, 0x1000]
    assert packet.zero.tolist() == [0x9000]
    assert packet.normal.dtype == packet.zero.dtype == np.int64
    assert reading.memory[: 2 * PAGE] == b"a" * PAGE + b"b" * PAGE


def test_offsets_outlive_the_buffers() -> None:
    """The next packet may be read into the same header."""
    buffers = PacketBuffers()
    read = []
    for offset in (0x3000, 0x7000):
        memory = memoryview(bytearray(PAGE))
        steps = read_packet(
            buffers,
            where="",
            page_size=PAGE,
            compression=Compression.NONE,
            decode=None,
            place=lambda packet, memory=memory: [memory],  # type: ignore[misc]
        )
        data = ram_header(normal=1, offsets=(offset,))
        next(steps)[0][:] = data[:DEVICE_HEADER_BYTES]
        next(steps)[0][:] = data[DEVICE_HEADER_BYTES:]
        next(steps)
        with pytest.raises(StopIteration) as caught:
            next(steps)
        read.append(caught.value.value)
    assert [packet.normal.tolist() for packet in read] == [[0x3000], [0x7000]]


@pytest.mark.parametrize(("page_size", "pages_max"), [(1024, 512), (4096, 128), (16384, 32), (65536, 8)])
def test_header_follows_the_page_size(page_size: int, pages_max: int) -> None:
    """A header has room for 512 KiB of pages, whatever their size."""
    assert header_bytes(page_size) == 320 + 8 * pages_max
    data = ram_header(
        alloc=pages_max,
        normal=pages_max,
        payload_bytes=pages_max * page_size,
        offsets=range(0, pages_max * page_size, page_size),
        pages_max=pages_max,
    )
    packet, asked = Reading(page_size=page_size).read(data + bytes(512 * 1024))
    assert sum(asked[:2]) == header_bytes(page_size)
    assert len(packet.normal) == pages_max


@pytest.mark.parametrize("page_size", [0, 512, 4095, 1 << 20])
def test_other_page_sizes_are_our_fault(page_size: int) -> None:
    """No header can be laid out for them."""
    with pytest.raises(LocalProtocolError):
        next(Reading(page_size=page_size).steps)


def test_zero_pages_alone() -> None:
    """They have no payload, whatever the size says, and `place` sees them."""
    data = ram_header(zero=2, payload_bytes=77, offsets=(0, PAGE))
    reading = Reading()
    packet, asked = reading.read(data)
    assert asked == [276, 1068]
    assert reading.placed == [packet]
    assert (packet.zero.tolist(), packet.payload_bytes) == ([0, PAGE], 0)


@pytest.mark.parametrize("flags", [0x01, 0x00], ids=["sync", "empty"])
@pytest.mark.parametrize("compression", Compression)
def test_without_pages_the_rest_is_stale(flags: int, compression: Compression) -> None:
    """A packet that lists nothing has no payload; size, block, offsets and compression are what they are."""
    stale = ram_header(flags=flags, payload_bytes=524288, block=b"\xff", offsets=[ALL_BITS] * 128)
    reading = Reading(compression)
    packet, asked = reading.read(stale)
    assert asked == [276, 1068]
    assert reading.placed == []
    assert (packet.sync, packet.block, packet.payload_bytes) == (bool(flags), "", 0)
    assert not packet.normal.size
    assert not packet.zero.size


def test_sync_as_sources_from_9_0_send_it() -> None:
    """Everything but flags and number is zero, the capacity too."""
    packet, _asked = Reading().read(ram_header(flags=1, alloc=0, block=b""))
    assert packet.sync
    assert packet.number == 9


def test_sync_may_ride_on_pages() -> None:
    """Sources before 9.0 do that: pages first, then the sync."""
    packet, asked = Reading().read(ram_header(flags=1, normal=1) + bytes(PAGE))
    assert packet.sync
    assert asked[2:] == [0, PAGE]


def test_compressed_payload_is_decoded_into_place() -> None:
    """It goes to memory apart, and the decoder gets it with the views of `place`."""
    reading = Reading(Compression.ZSTD)
    packet, asked = reading.read(
        ram_header(flags=0x04, normal=3, payload_bytes=4, offsets=(0, PAGE, 2 * PAGE)) + b"zzzz"
    )
    assert asked[2:] == [4]
    assert reading.decoded == [(b"zzzz", 3 * PAGE)]
    assert (packet.compression, packet.payload_bytes) == (Compression.ZSTD, 4)


def test_what_the_decoder_refuses_is_the_peers_fault() -> None:
    """Its error becomes ours, with its words."""
    reading = Reading(Compression.ZLIB, decodes=False)
    with pytest.raises(RemoteProtocolError, match=r"channel 3 at 64: packet.payload.*not today"):
        reading.read(ram_header(flags=0x02, normal=1, payload_bytes=1) + b"z")


def test_compression_can_be_left_to_the_packet() -> None:
    """With None each packet says what it is."""
    for flags, compression in ((0x04, Compression.ZSTD), (0x02, Compression.ZLIB)):
        packet, _asked = Reading(None).read(ram_header(flags=flags, normal=1, payload_bytes=1) + b"z")
        assert packet.compression is compression
    packet, _asked = Reading(None).read(ram_header(normal=1) + bytes(PAGE))
    assert packet.compression is Compression.NONE


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("magic", {"magic": 0x11223345}),
        ("version", {"version": 2}),
        ("flags", {"flags": 0x80}),
        ("flags", {"flags": 0x80000000}),
        ("flags", {"flags": 0x06}),
        ("flags", {"flags": 0x0A, "normal": 0}),
        ("pages_alloc", {"alloc": 129}),
        ("pages_alloc", {"alloc": 0xFFFFFFFF, "normal": 0}),
        ("normal_pages", {"alloc": 0}),
        ("normal_pages", {"normal": 129}),
        ("normal_pages", {"normal": 0xFFFFFFFF, "payload_bytes": 0}),
        ("zero_pages", {"zero": 128}),
        ("zero_pages", {"zero": 0xFFFFFFFF}),
        ("compression", {"flags": 0x04}),
        ("compression", {"flags": 0x03}),
        ("compression", {"flags": 0x08}),
        ("compression", {"flags": 0x04, "normal": 0, "zero": 1}),
        ("payload_bytes", {"payload_bytes": PAGE - 1}),
        ("payload_bytes", {"payload_bytes": 0}),
        ("payload_bytes", {"payload_bytes": 0xFFFFFFFF}),
        ("offsets", {"offsets": (1,)}),
        ("offsets", {"offsets": (PAGE + 512,)}),
        ("offsets", {"offsets": (1 << 63,)}),
        ("offsets", {"offsets": (ALL_BITS,)}),
        ("offsets", {"offsets": (0, 1 << 63), "zero": 1}),
        ("block", {"block": b""}),
        ("block", {"block": b"pc\0ram"}),
        ("block", {"block": b"pc.ram\n"}),
        ("block", {"block": b"\xff\xfe"}),
        ("block", {"block": b"x" * 256}),
    ],
)
def test_bad_headers_are_refused(field: str, changes: dict[str, Any]) -> None:
    """Each rule of section 6, before anybody is asked for memory."""
    error = refused(ram_header(**{"normal": 1, **changes}))
    assert error.where == f"channel 3 at 64: packet.{field}"


@pytest.mark.parametrize("payload_bytes", [0, QEMU_PAYLOAD_BYTES_MAX + 1, 0xFFFFFFFF])
def test_compressed_payload_has_bounds(payload_bytes: int) -> None:
    """At least a byte, at most what QEMU's buffers hold."""
    error = refused(ram_header(flags=4, normal=1, payload_bytes=payload_bytes), Compression.ZSTD)
    assert error.where.endswith("packet.payload_bytes")


@pytest.mark.parametrize(
    ("flags", "agreed", "words"),
    [
        (0x04, Compression.NONE, ("none", "zstd")),
        (0x00, Compression.ZLIB, ("zlib", "none")),
        (0x08, Compression.ZSTD, ("zstd", "qpl")),
        (0x20, None, ("none, zlib or zstd", "qatzip")),
    ],
)
def test_another_compression_is_named_with_ours(flags: int, agreed: Compression | None, words: tuple[str, str]) -> None:
    """A mismatch is what people get wrong: the error says both."""
    error = refused(ram_header(flags=flags, normal=1), agreed)
    assert words[0] in error.expected
    assert error.got == words[1]


def test_errors_of_place_come_through() -> None:
    """Only it knows blocks and their ends."""
    reading = Reading()
    error = RemoteProtocolError("channel 3 at 64: packet.block", "a block of the list")

    def place(packet: RamPacket) -> Sequence[memoryview]:
        raise error

    reading.steps = read_packet(
        PacketBuffers(), where="", page_size=PAGE, compression=Compression.NONE, decode=None, place=place
    )
    with pytest.raises(RemoteProtocolError) as caught:
        reading.read(ram_header(normal=1) + bytes(PAGE))
    assert caught.value is error


def test_place_that_gives_too_little_is_our_fault() -> None:
    """Going on would take payload for the next header."""
    reading = Reading()
    reading.steps = read_packet(
        PacketBuffers(),
        where="",
        page_size=PAGE,
        compression=Compression.NONE,
        decode=None,
        place=lambda _packet: [reading.memory[: PAGE - 1]],
    )
    with pytest.raises(LocalProtocolError):
        reading.read(ram_header(normal=1) + bytes(PAGE))


# -- reading device state ----------------------------------------------------------------------------------------------


def test_device_packet() -> None:
    """It has the short header, then its payload; what stands behind the name's NUL does not matter."""
    name = b"0000:00:02.0/vfio\0left over"
    packet, asked = Reading(Compression.ZSTD).read(device_header(name=name) + b"state")
    assert asked == [DEVICE_HEADER_BYTES, 5]
    assert packet == DevicePacket("0000:00:02.0/vfio", 7, b"state")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("flags", {"flags": 0x41}),
        ("flags", {"flags": 0x44}),
        ("flags", {"flags": 0xC0}),
        ("name", {"name": b"\0"}),
        ("name", {"name": b"\x01\0"}),
        ("name", {"name": b"x" * 256}),
        ("payload_bytes", {"payload_bytes": 0}),
        ("payload_bytes", {"payload_bytes": QEMU_DEVICE_PAYLOAD_BYTES_MAX + 1}),
        ("payload_bytes", {"payload_bytes": 0xFFFFFFFF}),
    ],
)
def test_bad_device_headers_are_refused(field: str, changes: dict[str, Any]) -> None:
    """DEVICE_STATE stands alone, and a length has bounds before memory is taken for it."""
    assert refused(device_header(**changes)).where == f"channel 3 at 64: packet.{field}"


# -- writing -----------------------------------------------------------------------------------------------------------


def test_ram_header_is_written_as_sources_from_9_0_do() -> None:
    """Capacity in full, normal offsets, zero offsets, zeros."""
    packet = RamPacket("pc.ram", pages(0x5000, 0x1000), pages(0x9000), 9, payload_bytes=2 * PAGE)
    assert serialize_ram_header(packet, PAGE) == ram_header(normal=2, zero=1, offsets=(0x5000, 0x1000, 0x9000))


def test_compressed_and_zero_headers_carry_the_compression() -> None:
    """Also where zero pages are alone and nothing is compressed."""
    packet = RamPacket("m", pages(0), pages(), 9, compression=Compression.ZLIB, payload_bytes=33)
    assert serialize_ram_header(packet, PAGE) == ram_header(flags=0x02, normal=1, payload_bytes=33, block=b"m")
    packet = RamPacket("m", pages(), pages(PAGE), 9, compression=Compression.ZSTD)
    assert serialize_ram_header(packet, PAGE) == ram_header(flags=0x04, zero=1, block=b"m", offsets=(PAGE,))


def test_sync_is_written_with_zeros() -> None:
    """Flags and number are all there is, on a compressed channel too."""
    packet = RamPacket("", pages(), pages(), 9, sync=True, compression=Compression.ZSTD)
    assert serialize_ram_header(packet, PAGE) == ram_header(flags=1, alloc=0, block=b"")


@pytest.mark.parametrize(
    ("where", "packet"),
    [
        ("packet", RamPacket("m", pages(0), pages(), sync=True, payload_bytes=PAGE)),
        ("packet", RamPacket("", pages(), pages())),
        ("packet.pages", RamPacket("m", np.arange(129) * PAGE, pages(), payload_bytes=129 * PAGE)),
        ("packet.pages", RamPacket("m", pages(0), np.arange(128) * PAGE, payload_bytes=PAGE)),
        ("packet.number", RamPacket("m", pages(0), pages(), -1, payload_bytes=PAGE)),
        ("packet.number", RamPacket("", pages(), pages(), 1 << 64, sync=True)),
        ("packet.offsets", RamPacket("m", pages(1), pages(), payload_bytes=PAGE)),
        ("packet.offsets", RamPacket("m", pages(0), pages(-PAGE), payload_bytes=PAGE)),
        ("packet.payload_bytes", RamPacket("m", pages(0), pages())),
        ("packet.payload_bytes", RamPacket("m", pages(), pages(0), payload_bytes=PAGE)),
        ("packet.payload_bytes", RamPacket("m", pages(0), pages(), compression=Compression.ZLIB)),
        ("packet.payload_bytes", RamPacket("m", pages(0), pages(), 0, False, Compression.ZSTD, (1 << 20) + 1)),
        ("packet.block", RamPacket("", pages(0), pages(), payload_bytes=PAGE)),
        ("packet.block", RamPacket("x" * 256, pages(0), pages(), payload_bytes=PAGE)),
        ("packet.block", RamPacket("a\nb", pages(0), pages(), payload_bytes=PAGE)),
    ],
)
def test_bad_packets_are_not_written(where: str, packet: RamPacket) -> None:
    """Nothing goes out that a destination would refuse, or that 9.2 mishandles."""
    with pytest.raises(LocalProtocolError) as caught:
        serialize_ram_header(packet, PAGE)
    assert caught.value.where == where


def test_device_header_both_ways() -> None:
    """276 bytes as section 6 has them; nothing beyond its bounds."""
    assert serialize_device_header(DevicePacket("0000:00:02.0/vfio", 7, b"state")) == device_header()
    for packet in (
        DevicePacket("a", 0, b""),
        DevicePacket("a", 1 << 32, b"x"),
        DevicePacket("", 0, b"x"),
        DevicePacket("a", 0, bytes(QEMU_DEVICE_PAYLOAD_BYTES_MAX + 1)),
    ):
        with pytest.raises(LocalProtocolError):
            serialize_device_header(packet)
