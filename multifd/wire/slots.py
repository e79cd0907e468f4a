"""Slots on a data channel (proto/native.md section 2): the header both ways, and a reader that does no I/O.

Knows no kind: what a meta says is the kind's business. Called by the channels' threads, for every slot.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import xxhash

from multifd.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from multifd.limits import META_BYTES_MAX, SLOT_BYTES_MAX
from multifd.slot import Buffer

MAGIC = b"MFSL"
VERSION = 1
CODEC_NONE = 1
CODEC_MAX = 3  # 2 zstd, 3 lz4; `multifd.codec` has the same numbers

_FLAG_LIVE = 1
_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1
# magic, version, codec, flags, kind, owner, sequence, three lengths, reserved, payload checksum, reserved
_FIELDS = struct.Struct(">4sBBHIIQIIIIQQ")
_CHECKSUM = struct.Struct(">Q")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size
"""64, always."""

_hash = xxhash.xxh3_64_intdigest


class SlotHeader(NamedTuple):  # made twice for every slot: a frozen dataclass takes four times as long
    """A slot's header but for what is the same in all. Lengths in bytes; `length` is the payload's after decoding."""

    codec: int
    live: bool
    kind: int
    owner: int
    sequence: int
    meta_length: int
    payload_length: int
    length: int
    payload_checksum: int


def payload_checksum(buffers: Sequence[Buffer]) -> int:
    """XXH3-64 of the bytes of `buffers` in their order. The GIL is released while a large buffer is hashed."""
    if len(buffers) == 1:
        return _hash(buffers[0])
    digest = xxhash.xxh3_64()
    for buffer in buffers:
        digest.update(buffer)
    return digest.intdigest()


def serialize_header(header: SlotHeader, meta: Buffer) -> bytes:
    """The `HEADER_BYTES` bytes that go before `meta`, header checksum included. Raises `LocalProtocolError`."""
    _check_bounds(header, LocalProtocolError)
    _check_numbers(header, LocalProtocolError)
    if header.meta_length != len(meta):
        raise LocalProtocolError("slot.meta_length", f"the meta's own, {len(meta)}", header.meta_length)
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        header.codec,
        _FLAG_LIVE if header.live else 0,
        header.kind,
        header.owner,
        header.sequence,
        header.meta_length,
        header.payload_length,
        header.length,
        0,
        header.payload_checksum,
        0,
    )
    return fields + _CHECKSUM.pack(_hash(fields + meta))


def parse_header(view: Buffer) -> SlotHeader:
    """Read a header of `HEADER_BYTES` bytes and apply rule 1. Raises `RemoteProtocolError`.

    Whether the codec was negotiated, and all other rules, are `read_slot`'s: the checksum needs the meta.
    """
    fields = _FIELDS.unpack_from(view)
    magic, version, codec, flags, kind, owner, sequence, meta_length, payload_length, length = fields[:10]
    reserved, checksum, reserved_end = fields[10:]
    if magic != MAGIC:
        raise RemoteProtocolError("slot.magic", repr(MAGIC), magic)
    if version != VERSION:
        raise RemoteProtocolError("slot.version", str(VERSION), version)
    if flags & ~_FLAG_LIVE:
        raise RemoteProtocolError("slot.flags", "no flag but LIVE", flags)
    if reserved or reserved_end:
        raise RemoteProtocolError("slot.reserved", "zero", reserved or reserved_end)
    live = flags == _FLAG_LIVE
    header = SlotHeader(codec, live, kind, owner, sequence, meta_length, payload_length, length, checksum)
    _check_bounds(header, RemoteProtocolError)
    return header


def read_slot(
    header_buffer: memoryview,
    meta_buffer: memoryview,
    *,
    codecs: frozenset[int],
    expect_sequence: int,
    place: Callable[[SlotHeader, bytes], Sequence[memoryview]],
) -> Generator[Sequence[memoryview], None, tuple[SlotHeader, bytes, Sequence[memoryview]]]:
    """Read one slot: yields lists of buffers, all to be filled to their end before the next step; returns what it read.

    `header_buffer` has `HEADER_BYTES` bytes, `meta_buffer` at least `META_BYTES_MAX`; both may serve again for the next
    slot. `codecs` are the numbers that were negotiated besides none.

    `place` is called once for every slot, after the checksum of header and meta and the sequence were found good. It
    knows the kinds: it raises `RemoteProtocolError` for an unknown kind or owner or a bad meta, and returns where the
    payload goes as it is on the wire, `payload_length` bytes in all.

    The payload's checksum is the caller's to check, of an empty payload too. Raises `RemoteProtocolError`.
    """
    assert len(header_buffer) == HEADER_BYTES
    assert len(meta_buffer) >= META_BYTES_MAX
    yield (header_buffer,)
    header = parse_header(header_buffer)
    if header.codec != CODEC_NONE and header.codec not in codecs:
        raise RemoteProtocolError(
            "slot.codec", f"one that was negotiated: {sorted({CODEC_NONE, *codecs})}", header.codec
        )
    meta = b""
    if header.meta_length:
        view = meta_buffer[: header.meta_length]
        yield (view,)
        meta = bytes(view)
    _check_checksum(header_buffer, meta)
    _check_numbers(header, RemoteProtocolError)
    if header.sequence != expect_sequence:
        raise RemoteProtocolError("slot.sequence", str(expect_sequence), header.sequence)
    buffers = place(header, meta)
    if header.payload_length:
        yield buffers
    return header, meta, buffers


def _check_checksum(header: memoryview, meta: bytes) -> None:
    """Rule 2."""
    (said,) = _CHECKSUM.unpack_from(header, _FIELDS.size)
    found = _hash(bytes(header[: _FIELDS.size]) + meta)
    if said != found:
        raise RemoteProtocolError("slot.header_checksum", f"{found:#018x}", said)


def _check_bounds(header: SlotHeader, error: type[ProtocolError]) -> None:
    """Rule 1 but for what `SlotHeader` leaves out."""
    if not 0 <= header.meta_length <= META_BYTES_MAX:
        raise error("slot.meta_length", f"0..{META_BYTES_MAX}", header.meta_length)
    if not 0 <= header.payload_length <= SLOT_BYTES_MAX:
        raise error("slot.payload_length", f"0..{SLOT_BYTES_MAX}", header.payload_length)
    if not 0 <= header.length <= SLOT_BYTES_MAX:
        raise error("slot.length", f"0..{SLOT_BYTES_MAX}", header.length)
    if header.codec == CODEC_NONE:
        if header.payload_length != header.length:
            raise error("slot.payload_length", f"the length, {header.length}, with codec none", header.payload_length)
    elif not CODEC_NONE < header.codec <= CODEC_MAX:
        raise error("slot.codec", f"1..{CODEC_MAX}", header.codec)
    elif not 0 < header.payload_length < header.length:
        raise error("slot.payload_length", f"1..length - 1, the length being {header.length}", header.payload_length)


def _check_numbers(header: SlotHeader, error: type[ProtocolError]) -> None:
    """Rule 3 as far as it needs nobody's knowledge: zero is no number."""
    if not 1 <= header.kind <= _U32_MAX:
        raise error("slot.kind", f"1..{_U32_MAX}", header.kind)
    if not 1 <= header.owner <= _U32_MAX:
        raise error("slot.owner", f"1..{_U32_MAX}", header.owner)
    if not 1 <= header.sequence <= _U64_MAX:
        raise error("slot.sequence", f"1..{_U64_MAX}", header.sequence)
    if not 0 <= header.payload_checksum <= _U64_MAX:
        raise error("slot.payload_checksum", f"0..{_U64_MAX}", header.payload_checksum)
