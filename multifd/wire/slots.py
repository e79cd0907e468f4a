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
from multifd.slot import Buffer, pour
from multifd.wire.extents import EXTENT_BYTES

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
FIRST_BYTES = HEADER_BYTES + EXTENT_BYTES
"""A header and the meta of one extent, which is what most slots have: it comes by one read."""
HEAD_BYTES_MAX = HEADER_BYTES + META_BYTES_MAX

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
    codec, live, kind, owner, sequence, meta_length, payload_length, length, checksum = header
    if meta_length != len(meta):
        raise LocalProtocolError("slot.meta_length", f"the meta's own, {len(meta)}", meta_length)
    flags = _FLAG_LIVE if live else 0
    fields = _FIELDS.pack(
        MAGIC, VERSION, codec, flags, kind, owner, sequence, meta_length, payload_length, length, 0, checksum, 0
    )
    return fields + _CHECKSUM.pack(_hash(fields + meta))


def parse_header(view: Buffer) -> SlotHeader:
    """Read a header of `HEADER_BYTES` bytes and apply rule 1. Raises `RemoteProtocolError`.

    Whether the codec was negotiated, and all other rules, are `read_slot`'s: the checksum needs the meta.
    """
    (
        magic, version, codec, flags, kind, owner, sequence, meta_length, payload_length, length,
        reserved, checksum, reserved_end,
    ) = _FIELDS.unpack_from(view)  # fmt: skip
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


class ReadSlot(NamedTuple):
    """What `read_slot` has read; `buffers` hold the payload as it was on the wire."""

    header: SlotHeader
    meta: bytes
    buffers: Sequence[memoryview]
    beyond: memoryview
    """What was read beyond the slot: the next one begins with it. Good until `head` is used again."""


Wanted = tuple[Sequence[memoryview], int]
"""Buffers, and how many bytes of them must be filled; more may be."""


def read_slot(
    head: memoryview,
    *,
    codecs: frozenset[int],
    expect_sequence: int,
    place: Callable[[SlotHeader, bytes], Sequence[memoryview]],
) -> Generator[Wanted, int, ReadSlot]:
    """Read one slot: yields what is to be filled, from the first byte on, is sent how many bytes were, and returns what
    it read.

    `head` has `HEAD_BYTES_MAX` bytes, and may serve again for the next slot. `codecs` are the numbers that were
    negotiated besides none.

    `place` is called once for every slot, after the checksum of header and meta and the sequence were found good. It
    knows the kinds: it raises `RemoteProtocolError` for an unknown kind or owner or a bad meta, and returns where the
    payload goes as it is on the wire, `payload_length` bytes in all.

    The payload's checksum is the caller's to check, of an empty payload too. Raises `RemoteProtocolError`.
    """
    got = yield (head[:FIRST_BYTES],), HEADER_BYTES
    header = parse_header(head)
    if header.codec != CODEC_NONE and header.codec not in codecs:
        raise RemoteProtocolError(
            "slot.codec", f"one that was negotiated: {sorted({CODEC_NONE, *codecs})}", header.codec
        )
    end = HEADER_BYTES + header.meta_length
    if got < end:
        got += yield (head[got:end],), end - got
    meta = bytes(head[HEADER_BYTES:end])
    _check_checksum(head, meta)
    _check_numbers(header, RemoteProtocolError)
    if header.sequence != expect_sequence:
        raise RemoteProtocolError("slot.sequence", str(expect_sequence), header.sequence)
    buffers = place(header, meta)
    beyond, length = head[end:got], header.payload_length
    if beyond and length:
        wanted = pour(beyond, buffers)
        beyond, length = beyond[length:], length - len(beyond)
    else:
        wanted = buffers
    if length > 0:
        yield wanted, length
    return ReadSlot(header, meta, buffers, beyond)


def _check_checksum(head: memoryview, meta: bytes) -> None:
    """Rule 2."""
    (said,) = _CHECKSUM.unpack_from(head, _FIELDS.size)
    found = _hash(bytes(head[: _FIELDS.size]) + meta)
    if said != found:
        raise RemoteProtocolError("slot.header_checksum", f"{found:#018x}", said)


def _check_bounds(header: SlotHeader, error: type[ProtocolError]) -> None:
    """Rule 1 but for what `SlotHeader` leaves out."""
    codec, _, _, _, _, meta_length, payload_length, length, _ = header
    if codec == CODEC_NONE and 0 <= payload_length == length <= SLOT_BYTES_MAX and 0 <= meta_length <= META_BYTES_MAX:
        return  # as nearly always; else say what is wrong
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
    _, _, kind, owner, sequence, _, _, _, checksum = header
    if 0 < kind <= _U32_MAX and 0 < owner <= _U32_MAX and 0 < sequence <= _U64_MAX and 0 <= checksum <= _U64_MAX:
        return  # as nearly always; else say what is wrong
    if not 1 <= header.kind <= _U32_MAX:
        raise error("slot.kind", f"1..{_U32_MAX}", header.kind)
    if not 1 <= header.owner <= _U32_MAX:
        raise error("slot.owner", f"1..{_U32_MAX}", header.owner)
    if not 1 <= header.sequence <= _U64_MAX:
        raise error("slot.sequence", f"1..{_U64_MAX}", header.sequence)
    if not 0 <= header.payload_checksum <= _U64_MAX:
        raise error("slot.payload_checksum", f"0..{_U64_MAX}", header.payload_checksum)
