"""Channels of QEMU's dialect (proto/qemu.md sections 1 and 6): the handshake and packet headers both ways, and readers
that do no I/O. Knows no blocks and no decoders: whoever reads says where pages go. Called by the channels' threads, for
every packet.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Callable, Generator, Sequence

import numpy as np

from multifd.elements import Compression, DevicePacket, Handshake, Offsets, Packet, RamPacket
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.limits import (
    MIB,
    QEMU_CHANNELS_MAX,
    QEMU_DEVICE_PAYLOAD_BYTES_MAX,
    QEMU_PACKET_BYTES,
    QEMU_PAGE_BITS_MAX,
    QEMU_PAGE_BITS_MIN,
    QEMU_PAYLOAD_BYTES_MAX,
)
from multifd.slot import Buffer
from multifd.wire.qemu_incoming import decode_name

FIRST_BYTES = 4
"""So many bytes tell what a connection is."""
HANDSHAKE_BYTES = 64
DEVICE_HEADER_BYTES = 276
"""Also what the header of a RAM packet has at least, so that it can be read before the kind of a packet is known."""

Place = Callable[[RamPacket], Sequence[memoryview]]
"""Where a packet's normal pages go: views in the order of its offsets, adjacent pages in one, `len(normal) * page_size`
bytes in all. Called once for each packet that lists pages, zero pages alone too. Checks what only it knows: raises
`RemoteProtocolError` for a block that is not known, and for offsets, normal or zero, beyond its end.
"""
Decode = Callable[[memoryview, Sequence[memoryview]], None]
"""Decodes a payload into the views that `Place` returned. Raises `ValueError` if it does not fill them exactly."""

_MAGIC = 0x11223344
_VERSION = 1
_SYNC = 0x01
_COMPRESSION_BITS = 0x3E
_DEVICE_STATE = 0x40
_COMPRESSION_NAMES = {0x00: "none", 0x02: "zlib", 0x04: "zstd", 0x08: "qpl", 0x10: "uadk", 0x20: "qatzip"}
_COMPRESSIONS = {int(each): each for each in Compression}
_NAME_BYTES = 256  # the last is NUL
_NAME_EXPECTED = f"a name of 1..{_NAME_BYTES - 1} bytes, then NUL"
_NAMES_KEPT_MAX = 64
_SPAN_BYTES = 64 * MIB  # its offsets are listed once for all channels, in the time that two packets take
_SPANS_KEPT_MAX = 16  # 129 KiB each with pages of 4 KiB; channels are in the same one, or in neighbouring ones
_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1

_HANDSHAKE = struct.Struct(">II16sB39x")  # magic, version, uuid, channel
_START = struct.Struct(">III")  # magic, version, flags: what both headers begin with
_RAM = struct.Struct(">III III QI 28x 256s")  # start, alloc, normal, payload bytes, number, zero, block; offsets follow
_DEVICE = struct.Struct(">III 256s II")  # start, name, instance, payload bytes
_NUMBER_AT, _ZERO_AT = 24, 32  # of the fields that change with every packet, number is before the offsets alone
_FIRST = struct.Struct(f">{_RAM.size}xQ")
_PAGES_MAX = {  # page size → offsets in a header
    1 << bits: QEMU_PACKET_BYTES >> bits for bits in range(QEMU_PAGE_BITS_MIN, QEMU_PAGE_BITS_MAX + 1)
}
_NO_OFFSETS: Offsets = np.empty(0, np.int64)
_HEADER_BYTES_MAX = _RAM.size + 8 * max(_PAGES_MAX.values())


# -- what a connection is ----------------------------------------------------------------------------------------------


class Role(enum.Enum):
    """What a connection is for."""

    MAIN = "main"
    CHANNEL = "channel"


def connection_role(first: Buffer) -> Role | None:
    """What a connection is whose first `FIRST_BYTES` these are (section 1); None for neither."""
    return {b"QEVM": Role.MAIN, _MAGIC.to_bytes(FIRST_BYTES, "big"): Role.CHANNEL}.get(bytes(first))


def parse_handshake(data: Buffer, *, where: str = "channel at 0") -> Handshake:
    """Read the `HANDSHAKE_BYTES` that a channel begins with. Raises `RemoteProtocolError`.

    Whether the UUID is the right one, and the channel within the number agreed on and not yet taken, is for others to
    ask.
    """
    magic, version, uuid, channel = _HANDSHAKE.unpack(data)
    _check_magic(magic, version, f"{where}: handshake")
    if channel >= QEMU_CHANNELS_MAX:
        raise RemoteProtocolError(f"{where}: handshake.channel", f"below {QEMU_CHANNELS_MAX}", channel)
    return Handshake(uuid, channel)


def serialize_handshake(handshake: Handshake) -> bytes:
    """The `HANDSHAKE_BYTES` that a channel begins with. Raises `LocalProtocolError`."""
    if len(handshake.uuid) != 16:
        raise LocalProtocolError("handshake.uuid", "16 bytes", len(handshake.uuid))
    if not 0 <= handshake.channel < QEMU_CHANNELS_MAX:
        raise LocalProtocolError("handshake.channel", f"0..{QEMU_CHANNELS_MAX - 1}", handshake.channel)
    return _HANDSHAKE.pack(_MAGIC, _VERSION, handshake.uuid, handshake.channel)


# -- reading packets ---------------------------------------------------------------------------------------------------


class PacketBuffers:
    """What one channel reads headers and encoded payload into, packet after packet. One thread uses it at a time."""

    def __init__(self) -> None:
        memory = bytearray(_HEADER_BYTES_MAX)
        self.header = memoryview(memory)
        self.first = self.header[:DEVICE_HEADER_BYTES]
        self.offsets = np.frombuffer(memory, ">u8", offset=_RAM.size)
        self._payload: memoryview | None = None

    @property
    def payload(self) -> memoryview:
        """`QEMU_PAYLOAD_BYTES_MAX` bytes, taken when they are first asked for: only compressed channels need them."""
        if self._payload is None:
            self._payload = memoryview(bytearray(QEMU_PAYLOAD_BYTES_MAX))
        return self._payload


def header_bytes(page_size: int) -> int:
    """Bytes of the header of every RAM and SYNC packet. Raises `LocalProtocolError` for a page size that can't be."""
    return _RAM.size + 8 * _pages_max(page_size)


class RunReader:
    """Reads headers of packets that only list neighbouring pages, uncompressed: those that memory mostly travels in.

    Nearly all of them differ from the one before in their number and their offsets alone, so that the rest is compared
    as it is, and the offsets with those of a table. That leaves the processor's caches to the payload: between two
    packets whatever Python needs has fallen out of them.
    """

    def __init__(self, page_size: int) -> None:
        """Raises `LocalProtocolError` for a page size that can't be."""
        self._raw = bytearray(header_bytes(page_size))
        self._page_size = page_size
        self._span = _Span(page_size)
        self._before = self._behind = bytes(_RAM.size)  # a header before its number, and from `zero` to the offsets
        self._pages = self._offset_max = 0
        self.header = memoryview(self._raw)
        """To be filled with the next header."""
        self.block = ""
        """The block and the length, bytes, of the last packet that `offset` was not None for."""
        self.length = 0

    def offset(self) -> int | None:
        """Where in the block the pages lie that `header` lists. None if it is the header of another packet, right or
        wrong: `read_packet` tells.
        """
        raw = self._raw
        if not (raw.startswith(self._before) and raw.startswith(self._behind, _ZERO_AT)) and not self._learn():
            return None
        first: int = _FIRST.unpack_from(raw)[0]
        if first > self._offset_max or not raw.startswith(self._span.listed(first, self._pages), _RAM.size):
            return None
        return first

    def _learn(self) -> bool:
        """Take this header as the one to compare with; False if it is none of ours."""
        raw = self._raw
        magic, version, flags, capacity, normal, payload_bytes, _number, zero, block = _RAM.unpack_from(raw)
        name = _parse_block(block)
        if (magic, version, flags, zero) != (_MAGIC, _VERSION, 0, 0) or name is None:
            return False
        if not 1 <= normal <= capacity <= _PAGES_MAX[self._page_size] or payload_bytes != normal * self._page_size:
            return False
        self.block, self.length = name, payload_bytes
        self._before, self._behind = bytes(raw[:_NUMBER_AT]), bytes(raw[_ZERO_AT : _RAM.size])
        self._pages = normal
        self._offset_max = 2**63 - payload_bytes
        return True


class _Span:
    """The part of a block that a channel is in, for its offsets as headers list them."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._shift = page_size.bit_length() - 1
        self._begin = -1
        self._table = memoryview(b"")

    def listed(self, first: int, pages: int) -> memoryview:
        """The offsets of so many neighbouring pages, at most a packet's, from `first` on (rounded down to a page)."""
        begin = first & -_SPAN_BYTES
        if begin != self._begin:
            self._table = _list_span(begin, self._page_size)
            self._begin = begin
        at = (first - begin) >> self._shift << 3
        return self._table[at : at + (pages << 3)]


@functools.lru_cache(_SPANS_KEPT_MAX)
def _list_span(begin: int, page_size: int) -> memoryview:
    """All offsets of a span, and a packet's more, so that no packet goes beyond. All channels use the same few."""
    offsets = np.arange(0, _SPAN_BYTES + QEMU_PACKET_BYTES, page_size, dtype=np.uint64) + np.uint64(begin)
    return memoryview(offsets.astype(">u8").tobytes())


def read_packet(
    buffers: PacketBuffers,
    *,
    where: str,
    page_size: int,
    compression: Compression | None,
    decode: Decode | None,
    place: Place,
) -> Generator[Sequence[memoryview], None, Packet]:
    """Read one packet: yields lists of buffers, all to be filled to their end before the next step; returns the packet.

    When it returns, its normal pages are where `place` said; its zero pages are for the caller to write. `compression`
    is what was agreed on, None to take what the packet says; `decode` is not needed for `NONE`. `where` names channel
    and offset in errors.

    Raises `RemoteProtocolError`, and whatever `place` raises.
    """
    header_end = header_bytes(page_size)
    yield (buffers.first,)
    flags = _parse_start(buffers.first, where)
    if flags & _DEVICE_STATE:
        return (yield from _read_device(buffers.first, where))
    yield (buffers.header[DEVICE_HEADER_BYTES:header_end],)
    packet = _parse_ram(buffers.header, buffers.offsets, where, page_size, compression)
    if not packet.block:
        return packet
    targets = place(packet)
    if packet.payload_bytes:
        check_placed(targets, len(packet.normal) * page_size)
        if packet.compression is Compression.NONE:
            yield targets
        else:
            payload = buffers.payload[: packet.payload_bytes]
            yield (payload,)
            _decode(decode, payload, targets, where)
    return packet


def _read_device(header: memoryview, where: str) -> Generator[Sequence[memoryview], None, DevicePacket]:
    _magic, _version, flags, raw_name, instance, length = _DEVICE.unpack_from(header)
    if flags != _DEVICE_STATE:
        raise RemoteProtocolError(f"{where}: packet.flags", "DEVICE_STATE alone, without SYNC or compression", flags)
    name = _parse_name(raw_name.partition(b"\0")[0], f"{where}: packet.name")
    if not 1 <= length <= QEMU_DEVICE_PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"{where}: packet.payload_bytes", f"1..{QEMU_DEVICE_PAYLOAD_BYTES_MAX}", length)
    payload = bytearray(length)
    yield (memoryview(payload),)
    return DevicePacket(name, instance, bytes(payload))


def _parse_start(header: memoryview, where: str) -> int:
    """The flags, as far as both kinds of packet have the same rules for them."""
    magic, version, flags = _START.unpack_from(header)
    _check_magic(magic, version, f"{where}: packet")
    if flags & ~(_SYNC | _COMPRESSION_BITS | _DEVICE_STATE) or flags & _COMPRESSION_BITS not in _COMPRESSION_NAMES:
        raise RemoteProtocolError(f"{where}: packet.flags", "no flag or compression that is not known", hex(flags))
    return int(flags)


def _parse_ram(
    header: memoryview,
    offsets: np.ndarray[tuple[int], np.dtype[np.uint64]],
    where: str,
    page_size: int,
    compression: Compression | None,
) -> RamPacket:
    """Read a RAM packet's header and apply all rules but those of `place`."""
    _magic, _version, flags, capacity, normal, payload_bytes, number, zero, block = _RAM.unpack_from(header)
    sync = bool(flags & _SYNC)
    listed = _check_counts(capacity, normal, zero, page_size, where)
    if not listed:  # whatever size, block and compression say: old sources leave there what they had before
        return RamPacket("", _NO_OFFSETS, _NO_OFFSETS, number, sync)
    used = _check_compression(flags & _COMPRESSION_BITS, compression, where)
    pages: Offsets = offsets[:listed].astype(np.int64)
    together = int(np.bitwise_or.reduce(pages))  # all of them in one step: negative if one is, odd bits of any
    if together < 0 or together & (page_size - 1):
        bad = pages[(pages < 0) | (pages & (page_size - 1) != 0)][0]
        raise RemoteProtocolError(f"{where}: packet.offsets", f"multiples of {page_size} below 2**63", hex(bad))
    if not normal:
        payload_bytes = 0
    elif used is not Compression.NONE:
        if not 1 <= payload_bytes <= QEMU_PAYLOAD_BYTES_MAX:
            raise RemoteProtocolError(f"{where}: packet.payload_bytes", f"1..{QEMU_PAYLOAD_BYTES_MAX}", payload_bytes)
    elif payload_bytes != normal * page_size:
        expected = f"{normal * page_size}, of {normal} pages"
        raise RemoteProtocolError(f"{where}: packet.payload_bytes", expected, payload_bytes)
    name = _parse_block(block)
    if name is None:
        raise RemoteProtocolError(f"{where}: packet.block", _NAME_EXPECTED, block.rstrip(b"\0"))
    return RamPacket(name, pages[:normal], pages[normal:], number, sync, used, payload_bytes)


def _check_magic(magic: int, version: int, what: str) -> None:
    if magic != _MAGIC:
        raise RemoteProtocolError(f"{what}.magic", hex(_MAGIC), hex(magic))
    if version != _VERSION:
        raise RemoteProtocolError(f"{what}.version", str(_VERSION), version)


def _check_counts(capacity: int, normal: int, zero: int, page_size: int, where: str) -> int:
    """How many pages are listed."""
    pages_max = _PAGES_MAX[page_size]
    if capacity > pages_max:
        raise RemoteProtocolError(f"{where}: packet.pages_alloc", f"at most {pages_max}", capacity)
    if normal > capacity:
        raise RemoteProtocolError(f"{where}: packet.normal_pages", f"at most pages_alloc, {capacity}", normal)
    if zero > capacity - normal:
        raise RemoteProtocolError(f"{where}: packet.zero_pages", f"at most {capacity - normal}, what is left", zero)
    return normal + zero


def _check_compression(field: int, agreed: Compression | None, where: str) -> Compression:
    if field == agreed:
        return agreed
    if agreed is None and field in _COMPRESSIONS:
        return _COMPRESSIONS[field]
    expected = (
        "none, zlib or zstd"
        if agreed is None
        else f"{_COMPRESSION_NAMES[agreed]}, as this side is set; both ends need the same"
    )
    raise RemoteProtocolError(f"{where}: packet.compression", expected, _COMPRESSION_NAMES[field])


@functools.lru_cache(_NAMES_KEPT_MAX)
def _parse_block(padded: bytes) -> str | None:
    """A block's name, None if it is none. Nearly every packet has one of a few."""
    return _decode_terminated(padded.rstrip(b"\0"))


def _parse_name(raw: bytes, where: str) -> str:
    name = _decode_terminated(raw)
    if name is None:
        raise RemoteProtocolError(where, _NAME_EXPECTED, raw)
    return name


def _decode_terminated(raw: bytes) -> str | None:
    return decode_name(raw) if len(raw) < _NAME_BYTES else None


def check_placed(targets: Sequence[memoryview], length: int) -> None:
    """Raise `LocalProtocolError` unless the views have room for exactly `length` bytes: going on over a bug of ours
    would break the framing, and blame the peer.
    """
    placed = sum(map(len, targets))
    if placed != length:
        raise LocalProtocolError("place", f"views of {length} bytes in all", placed)


def _decode(decode: Decode | None, payload: memoryview, targets: Sequence[memoryview], where: str) -> None:
    assert decode is not None
    try:
        decode(payload, targets)
    except ValueError as error:
        raise RemoteProtocolError(f"{where}: packet.payload", "the listed pages when decoded", str(error)) from error


def _pages_max(page_size: int) -> int:
    if page_size not in _PAGES_MAX:
        raise LocalProtocolError("page_size", f"a power of two, {min(_PAGES_MAX)}..{max(_PAGES_MAX)}", page_size)
    return _PAGES_MAX[page_size]


# -- writing packets ---------------------------------------------------------------------------------------------------


def serialize_ram_header(packet: RamPacket, page_size: int) -> bytes:
    """The header of a packet that lists pages or of a SYNC, `header_bytes(page_size)` bytes, as sources 9.0 and later
    write it; the payload follows. Raises `LocalProtocolError`.

    A SYNC that lists pages is refused: a destination 9.2 mishandles it.
    """
    pages_max = _pages_max(page_size)
    normal, zero = len(packet.normal), len(packet.zero)
    if packet.sync == bool(normal + zero):
        raise LocalProtocolError("packet", "pages or SYNC, and not both", packet)
    if normal + zero > pages_max:
        raise LocalProtocolError("packet.pages", f"at most {pages_max}", normal + zero)
    if not 0 <= packet.number <= _U64_MAX:
        raise LocalProtocolError("packet.number", f"0..{_U64_MAX}", packet.number)
    if packet.sync:
        return _RAM.pack(_MAGIC, _VERSION, _SYNC, 0, 0, 0, packet.number, 0, b"") + bytes(8 * pages_max)
    offsets = np.concatenate((packet.normal, packet.zero))
    together = int(np.bitwise_or.reduce(offsets))
    if together < 0 or together & (page_size - 1):
        raise LocalProtocolError("packet.offsets", f"multiples of {page_size} below 2**63", offsets)
    _check_payload_bytes(packet, page_size)
    name = _serialize_name(packet.block, "packet.block")
    flags, payload_bytes = packet.compression, packet.payload_bytes
    fields = _RAM.pack(_MAGIC, _VERSION, flags, pages_max, normal, payload_bytes, packet.number, zero, name)
    return (fields + offsets.astype(">u8").tobytes()).ljust(_RAM.size + 8 * pages_max, b"\0")


class RunWriter:
    """Writes the same headers as `serialize_ram_header` for neighbouring pages, uncompressed, each over the last one:
    what does not change from one to the next stays.
    """

    def __init__(self, page_size: int) -> None:
        """Raises `LocalProtocolError` for a page size that can't be."""
        self._raw = bytearray(header_bytes(page_size))
        self._page_size = page_size
        self._span = _Span(page_size)
        self._block = ""
        self._length = self._pages = self._offset_max = 0

    def serialize(self, block: str, offset: int, length: int, *, number: int) -> bytearray:
        """The header for `length` bytes of pages from `offset` of a block on; good until the next call. Raises
        `LocalProtocolError`.
        """
        if length != self._length or block != self._block:
            self._begin(block, length)
        if offset & (self._page_size - 1) or not 0 <= offset <= self._offset_max:
            raise LocalProtocolError("packet.offsets", f"multiples of {self._page_size} below 2**63", offset)
        if not 0 <= number <= _U64_MAX:
            raise LocalProtocolError("packet.number", f"0..{_U64_MAX}", number)
        raw, pages = self._raw, self._pages
        raw[_NUMBER_AT:_ZERO_AT] = number.to_bytes(8, "big")
        raw[_RAM.size : _RAM.size + 8 * pages] = self._span.listed(offset, pages)
        return raw

    def _begin(self, block: str, length: int) -> None:
        pages_max = _PAGES_MAX[self._page_size]
        count, odd = divmod(length, self._page_size)
        if odd or not 1 <= count <= pages_max:
            raise LocalProtocolError("packet.pages", f"1..{pages_max} pages of {self._page_size} bytes", length)
        name = _serialize_name(block, "packet.block")
        fields = _RAM.pack(_MAGIC, _VERSION, 0, pages_max, count, length, 0, 0, name)
        self._raw[:] = fields.ljust(len(self._raw), b"\0")
        self._pages = count
        self._offset_max = 2**63 - length
        self._block, self._length = block, length


def serialize_device_header(packet: DevicePacket) -> bytes:
    """The `DEVICE_HEADER_BYTES` before the payload of a piece of a device's state. Raises `LocalProtocolError`."""
    length = len(packet.payload)
    if not 1 <= length <= QEMU_DEVICE_PAYLOAD_BYTES_MAX:
        raise LocalProtocolError("packet.payload_bytes", f"1..{QEMU_DEVICE_PAYLOAD_BYTES_MAX}", length)
    if not 0 <= packet.instance <= _U32_MAX:
        raise LocalProtocolError("packet.instance", f"0..{_U32_MAX}", packet.instance)
    name = _serialize_name(packet.name, "packet.name")
    return _DEVICE.pack(_MAGIC, _VERSION, _DEVICE_STATE, name, packet.instance, length)


def _check_payload_bytes(packet: RamPacket, page_size: int) -> None:
    exactly = len(packet.normal) * page_size
    least, most = exactly, exactly
    if exactly and packet.compression is not Compression.NONE:
        least, most = 1, QEMU_PAYLOAD_BYTES_MAX
    if not least <= packet.payload_bytes <= most:
        raise LocalProtocolError("packet.payload_bytes", f"{least}..{most}", packet.payload_bytes)


def _serialize_name(name: str, where: str) -> bytes:
    raw = name.encode()
    if decode_name(raw) is None or len(raw) >= _NAME_BYTES:
        raise LocalProtocolError(where, f"a name of 1..{_NAME_BYTES - 1} bytes", name)
    return raw
