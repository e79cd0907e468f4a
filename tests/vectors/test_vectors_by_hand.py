"""One vector of each file, put together byte by byte from proto/, with XXH3 from its definition: no code of multifd."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "proto/vectors/v1"
MASK = 2**64 - 1
# the first 128 bytes of XXH3's default secret
XXH3_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
)


def vector(file: str, name: str) -> str:
    vectors = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))
    found: str = next(v["bytes"] for v in vectors if v["name"] == name)
    return found


def word(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def fold(left: int, right: int) -> int:
    product = left * right
    return (product & MASK) ^ (product >> 64)


def avalanche(value: int) -> int:
    value ^= value >> 37
    value = value * 0x165667919E3779F9 & MASK
    return value ^ value >> 32


def xxh3_short(data: bytes) -> int:
    """XXH3-64, seed 0, of 9 to 16 bytes."""
    assert 9 <= len(data) <= 16
    low = word(data, 0) ^ word(XXH3_SECRET, 24) ^ word(XXH3_SECRET, 32)
    high = word(data, len(data) - 8) ^ word(XXH3_SECRET, 40) ^ word(XXH3_SECRET, 48)
    swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
    return avalanche((len(data) + swapped + high + fold(low, high)) & MASK)


def xxh3_middle(data: bytes) -> int:
    """XXH3-64, seed 0, of 17 to 128 bytes."""
    assert 17 <= len(data) <= 128
    sum_ = len(data) * 0x9E3779B185EBCA87
    for step in range((len(data) + 31) // 32):
        for where, key in ((16 * step, 32 * step), (len(data) - 16 * (step + 1), 32 * step + 16)):
            low, high = word(data, where), word(data, where + 8)
            sum_ += fold(low ^ word(XXH3_SECRET, key), high ^ word(XXH3_SECRET, key + 8))
    return avalanche(sum_ & MASK)


def test_preamble() -> None:
    """A data preamble is eight fields of fixed size, big-endian."""
    session, secret = "000102030405060708090a0b0c0d0e0f", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    assert vector("preambles", "data") == "4d464450" + "0001" + "02" + "00" + session + secret + "00000003" + "00000000"


def test_frame() -> None:
    """COMMIT is a length, the checksum of length and body, and a map with one entry: type 15."""
    body = bytes([0x81, 0xA4, *b"type", 15])
    length = bytes([0, 0, 0, 7])
    checksum = xxh3_short(length + body).to_bytes(8, "big")
    assert vector("messages", "COMMIT") == (length + checksum + body).hex()


def test_slot() -> None:
    """A slot of 32 bytes at offset 4096 of block 1: every field at its offset, and both checksums."""
    payload = bytes(range(32))
    meta = bytes.fromhex("0000000000001000" + "0000000000000020")
    header = bytearray(64)
    header[0:4] = b"MFSL"
    header[4] = 1  # version
    header[5] = 1  # codec none
    header[7] = 1  # LIVE
    header[11] = 1  # kind
    header[15] = 1  # owner
    header[23] = 1  # sequence
    header[27] = 16  # meta length
    header[31] = 32  # payload length
    header[35] = 32  # length
    header[40:48] = xxh3_middle(payload).to_bytes(8, "big")
    header[56:64] = xxh3_middle(bytes(header[0:56]) + meta).to_bytes(8, "big")
    assert vector("slots", "ram, one extent, LIVE") == (header + meta + payload).hex()
