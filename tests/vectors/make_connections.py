"""Writes the vectors of preambles and slots to proto/vectors/v1.

Follows the tables of proto/ and imports nothing of multifd, so that it is a second reading of them. A released
version's files are never written again.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import lz4.block
import xxhash
import zstandard

FOLDER = Path(__file__).parents[2] / "proto" / "vectors" / "v1"
SESSION = bytes(range(16))
SECRET = bytes(range(0xF0, 0x100))

Vector = dict[str, Any]


def xxh3(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


# -- preambles (native.md section 1) ----------------------------------------------------------------------------------


def preamble(
    *, magic: bytes = b"MFDP", version: int = 1, role: int = 2, reserved: int = 0, channel: int = 3, end: int = 0
) -> bytes:
    start = magic + struct.pack(">HBB", version, role, reserved)
    return start if role == 1 else start + SESSION + SECRET + struct.pack(">II", channel, end)


def preamble_vectors() -> list[Vector]:
    data = {"role": "data", "session": SESSION.hex(), "secret": SECRET.hex()}
    good: list[Vector] = [
        {"name": "main", "bytes": preamble(role=1).hex(), "preamble": {"role": "main"}},
        {"name": "data", "bytes": preamble().hex(), "preamble": {**data, "channel": 3}},
        {"name": "data, last channel", "bytes": preamble(channel=64).hex(), "preamble": {**data, "channel": 64}},
    ]
    bad: list[tuple[str, str, bytes]] = [
        ("main, wrong magic", "preamble.magic", preamble(role=1, magic=b"MFSL")),
        ("main, version 0", "preamble.version", preamble(role=1, version=0)),
        ("main, version 2", "preamble.version", preamble(role=1, version=2)),
        ("main, reserved byte set", "preamble.reserved", preamble(role=1, reserved=1)),
        ("role 0", "preamble.role", preamble(role=0)),
        ("role 3", "preamble.role", preamble(role=3)),
        ("data, wrong magic", "preamble.magic", preamble(magic=b"MFDp")),
        ("data, reserved byte set", "preamble.reserved", preamble(reserved=0x80)),
        ("data, reserved end set", "preamble.reserved", preamble(end=1)),
        ("data, channel 0", "preamble.channel", preamble(channel=0)),
        ("data, channel 65", "preamble.channel", preamble(channel=65)),
    ]
    return good + [{"name": name, "bytes": data.hex(), "error": where} for name, where, data in bad]


# -- slots (native.md sections 2 and 3) -------------------------------------------------------------------------------

NUMBER_OF_KIND = {"ram": 1, "zero": 2, "device-chunk": 3, "vendor.example/log": 4}


def slot(
    meta: bytes,
    payload: bytes,
    *,
    magic: bytes = b"MFSL",
    version: int = 1,
    codec: int = 1,
    flags: int = 0,
    kind: int = 1,
    owner: int = 1,
    sequence: int = 1,
    meta_length: int | None = None,
    payload_length: int | None = None,
    length: int | None = None,
    reserved: int = 0,
    reserved_end: int = 0,
    spoil: int = 0,
    spoil_payload: int = 0,
) -> bytes:
    head = magic + struct.pack(">BBH", version, codec, flags) + struct.pack(">IIQ", kind, owner, sequence)
    head += struct.pack(">I", len(meta) if meta_length is None else meta_length)
    head += struct.pack(">I", len(payload) if payload_length is None else payload_length)
    head += struct.pack(">I", len(payload) if length is None else length)
    head += struct.pack(">IQQ", reserved, xxh3(payload) ^ spoil_payload, reserved_end)
    assert len(head) == 56
    return head + struct.pack(">Q", xxh3(head + meta) ^ spoil) + meta + payload


def chunk_meta(
    epoch: int = 1, phase: int = 1, flags: int = 0, index: int = 0, reserved: int = 0, reserved_end: int = 0
) -> bytes:
    return struct.pack(">IBBHQQ", epoch, phase, flags, reserved, index, reserved_end)


def extents(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">QQ", offset, length) for offset, length in pairs)


PAYLOAD = bytes(range(32))
SQUEEZABLE = b"a" * 64 + bytes(range(32)) + b"a" * 32
# 32 times "a": single segment, content size in one byte, one last block of type RLE
ZSTD_BY_HAND = bytes.fromhex("28b52ffd" + "20" + "20" + "030100" + "61")
# 32 times "a": one literal and a match of 26 at distance 1; then five literals, which is how a block must end
LZ4_BY_HAND = bytes.fromhex("1f" + "61" + "0100" + "07" + "50" + "6161616161")


def good_slot(name: str, kind: str, meta: bytes, payload: bytes, wire: bytes | None = None, **fields: Any) -> Vector:
    wire = payload if wire is None else wire
    number = NUMBER_OF_KIND[kind]
    live = bool(fields.get("flags", 0))
    data = slot(meta, wire, kind=number, length=len(payload), **fields)
    header = {
        "codec": fields.get("codec", 1),
        "live": live,
        "kind": number,
        "owner": fields.get("owner", 1),
        "sequence": fields.get("sequence", 1),
        "meta_length": len(meta),
        "payload_length": len(wire),
        "length": len(payload),
        "payload_checksum": f"{xxh3(wire):016x}",
    }
    vector: Vector = {"name": name, "kind": kind, "bytes": data.hex(), "header": header, "meta": meta.hex()}
    if kind == "device-chunk":
        epoch, phase, flags, _, index, _ = struct.unpack(">IBBHQQ", meta)
        vector["chunk"] = {"epoch": epoch, "phase": phase, "last": bool(flags), "index": index}
    return {**vector, "payload": payload.hex()}


def slot_vectors() -> list[Vector]:
    one = extents((4096, 32))
    size = len(SQUEEZABLE)
    zstd = zstandard.ZstdCompressor(level=1).compress(SQUEEZABLE)
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False, write_checksum=True).compress(SQUEEZABLE)
    by_library = lz4.block.compress(SQUEEZABLE, store_size=False)
    good = [
        good_slot("ram, one extent, LIVE", "ram", one, PAYLOAD, flags=1),
        good_slot(
            "ram, two extents, after the stop", "ram", extents((0, 16), (8192, 16)), PAYLOAD, sequence=2, owner=7
        ),
        good_slot("zero", "zero", extents((1 << 40, 1 << 30)), b"", flags=1),
        good_slot("device-chunk, first", "device-chunk", chunk_meta(), PAYLOAD, owner=2),
        good_slot(
            "device-chunk, last of stop-copy, empty",
            "device-chunk",
            chunk_meta(300, 3, 1, 1 << 33),
            b"",
            sequence=1 << 40,
        ),
        good_slot("a user's kind, no meta", "vendor.example/log", b"", PAYLOAD, owner=0xFFFFFFFF),
        good_slot("a user's kind, a meta of one byte", "vendor.example/log", b"\x00", b"x", sequence=(1 << 64) - 1),
        good_slot("zstd, by hand", "ram", one, b"a" * 32, ZSTD_BY_HAND, codec=2),
        good_slot("zstd, level 1, LIVE", "ram", extents((0, size)), SQUEEZABLE, zstd, codec=2, flags=1),
        good_slot("zstd, no content size, a checksum", "ram", extents((0, size)), SQUEEZABLE, unsized, codec=2),
        good_slot("lz4, by hand", "ram", one, b"a" * 32, LZ4_BY_HAND, codec=3),
        good_slot("lz4, LIVE", "ram", extents((0, size)), SQUEEZABLE, by_library, codec=3, flags=1),
    ]
    return good + bad_slots() + spoiled_slots()


def bad_slots() -> list[Vector]:
    one = extents((4096, 32))
    too_long = (4 << 20) + 1
    chunk: dict[str, Any] = {"kind": 3, "owner": 2}
    cases: list[tuple[str, str, bytes]] = [
        ("wrong magic", "slot.magic", slot(one, PAYLOAD, magic=b"MFDP")),
        ("version 0", "slot.version", slot(one, PAYLOAD, version=0)),
        ("version 2", "slot.version", slot(one, PAYLOAD, version=2)),
        ("codec 0", "slot.codec", slot(one, PAYLOAD, codec=0)),
        ("codec 4", "slot.codec", slot(one, PAYLOAD, codec=4, length=64)),
        ("a reserved flag", "slot.flags", slot(one, PAYLOAD, flags=2)),
        ("the highest flag", "slot.flags", slot(one, PAYLOAD, flags=0x8000)),
        ("kind 0", "slot.kind", slot(one, PAYLOAD, kind=0)),
        ("owner 0", "slot.owner", slot(one, PAYLOAD, owner=0)),
        ("sequence 0", "slot.sequence", slot(one, PAYLOAD, sequence=0)),
        ("sequence 2 after nothing", "slot.sequence", slot(one, PAYLOAD, sequence=2)),
        ("meta above 64 KiB", "slot.meta_length", slot(b"", PAYLOAD, meta_length=65537)),
        ("payload above 4 MiB", "slot.payload_length", slot(one, b"", payload_length=too_long, length=too_long)),
        ("length above 4 MiB", "slot.length", slot(one, PAYLOAD, codec=2, length=too_long)),
        ("plain, lengths differ", "slot.payload_length", slot(one, PAYLOAD, length=33)),
        ("zstd that did not shrink", "slot.payload_length", slot(one, PAYLOAD, codec=2, length=32)),
        ("lz4 of nothing", "slot.payload_length", slot(one, b"", codec=3, length=0)),
        ("zstd, no payload", "slot.payload_length", slot(one, b"", codec=2, length=32)),
        ("reserved bytes 36 to 39 set", "slot.reserved", slot(one, PAYLOAD, reserved=1)),
        ("reserved bytes 48 to 55 set", "slot.reserved", slot(one, PAYLOAD, reserved_end=1 << 63)),
        ("wrong header checksum", "slot.header_checksum", slot(one, PAYLOAD, spoil=1)),
        ("a changed meta", "slot.header_checksum", slot(one, PAYLOAD).replace(one, extents((4096, 33)))),
        ("device-chunk, no meta", "device-chunk", slot(b"", PAYLOAD, **chunk)),
        ("device-chunk, meta of 25 bytes", "device-chunk", slot(chunk_meta() + b"\x00", PAYLOAD, **chunk)),
        ("device-chunk, epoch 0", "device-chunk.epoch", slot(chunk_meta(epoch=0), PAYLOAD, **chunk)),
        ("device-chunk, phase 0", "device-chunk.phase", slot(chunk_meta(phase=0), PAYLOAD, **chunk)),
        ("device-chunk, phase 4", "device-chunk.phase", slot(chunk_meta(phase=4), PAYLOAD, **chunk)),
        ("device-chunk, reserved flag", "device-chunk.flags", slot(chunk_meta(flags=2), PAYLOAD, **chunk)),
        ("device-chunk, reserved set", "device-chunk.reserved", slot(chunk_meta(reserved=1), PAYLOAD, **chunk)),
        ("device-chunk, reserved end set", "device-chunk.reserved", slot(chunk_meta(reserved_end=1), PAYLOAD, **chunk)),
    ]
    vectors: list[Vector] = [{"name": name, "bytes": data.hex(), "error": where} for name, where, data in cases]
    zstd = slot(one, ZSTD_BY_HAND, codec=2, length=32)
    vectors.append({"name": "zstd, not negotiated", "bytes": zstd.hex(), "codecs": [3], "error": "slot.codec"})
    return vectors


def spoiled_slots() -> list[Vector]:
    """Headers that are good and payloads that are not."""
    one = extents((4096, 32))
    cases = [
        ("payload changed under way", "checksum", slot(one, PAYLOAD, flags=1, spoil_payload=1)),
        ("no payload, yet a checksum of 0", "checksum", slot(one, b"", kind=2, spoil_payload=xxh3(b""))),
        ("no zstd", "codec", slot(one, bytes(8), codec=2, length=32)),
        ("zstd, cut short", "codec", slot(one, ZSTD_BY_HAND[:-1], codec=2, length=32)),
        ("zstd, something after the frame", "codec", slot(one, ZSTD_BY_HAND + b"\x00", codec=2, length=32)),
        ("zstd of more than the length", "codec", slot(one, ZSTD_BY_HAND, codec=2, length=31)),
        ("zstd of less than the length", "codec", slot(one, ZSTD_BY_HAND, codec=2, length=33)),
        ("no lz4", "codec", slot(one, b"\xff" * 8, codec=3, length=32)),
        ("lz4, cut short", "codec", slot(one, LZ4_BY_HAND[:-1], codec=3, length=32)),
        ("lz4 of more than the length", "codec", slot(one, LZ4_BY_HAND, codec=3, length=31)),
        ("lz4 of less than the length", "codec", slot(one, LZ4_BY_HAND, codec=3, length=33)),
    ]
    return [{"name": name, "bytes": data.hex(), "payload_error": what} for name, what, data in cases]


def write(name: str, vectors: list[Vector]) -> None:
    assert len({vector["name"] for vector in vectors}) == len(vectors)
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write("preambles", preamble_vectors())
    write("slots", slot_vectors())
