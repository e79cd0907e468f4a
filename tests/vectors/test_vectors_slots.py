"""The slots of proto/vectors are read and written as they stand there, however the bytes come."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from slot_reading import Read, read_from

from multifd.codec import CODECS
from multifd.errors import RemoteProtocolError
from multifd.wire.chunk import ChunkMeta
from multifd.wire.slots import CODEC_NONE, SlotHeader, payload_checksum, serialize_header

VECTORS = json.loads((Path(__file__).parents[2] / "proto/vectors/v1/slots.json").read_text(encoding="utf-8"))
VALID = [pytest.param(v, id=v["name"]) for v in VECTORS if "header" in v]
INVALID = [pytest.param(v, id=v["name"]) for v in VECTORS if "error" in v]
SPOILED = [pytest.param(v, id=v["name"]) for v in VECTORS if "payload_error" in v]
DEVICE_CHUNK = 3


def place(header: SlotHeader, meta: bytes) -> Sequence[memoryview]:
    """Memory of its own in two pieces, if the kind has nothing against the meta."""
    if header.kind == DEVICE_CHUNK:
        ChunkMeta.parse(meta)
    payload = memoryview(bytearray(header.payload_length))
    return [payload[:1], payload[1:]]


def receive(vector: dict[str, Any], data: bytes) -> tuple[Read | None, int]:
    """Run the reader over `data`, bytes as it needs them and as many as it can take: the same slot, or None if it needs
    more, and how many bytes it took.
    """
    codecs, sequence = vector.get("codecs", (2, 3)), vector.get("header", {}).get("sequence", 1)
    sparing, eager = (
        read_from(data, codecs=codecs, expect_sequence=sequence, place=place, eager=eager) for eager in (False, True)
    )
    assert sparing[0] == eager[0]
    if eager[0] is not None:
        assert sparing == eager
    return eager


def said_header(vector: dict[str, Any]) -> SlotHeader:
    header = dict(vector["header"])
    return SlotHeader(**{**header, "payload_checksum": int(header["payload_checksum"], 16)})


def decode(header: SlotHeader, payload: bytes) -> bytes:
    if header.codec == CODEC_NONE:
        return payload
    decoded = memoryview(bytearray(header.length))
    (codec,) = (codec() for codec in CODECS.values() if codec.number == header.codec)
    codec.decode(memoryview(payload), [decoded], header.length)
    return bytes(decoded)


@pytest.mark.parametrize("vector", VALID)
def test_reads(vector: dict[str, Any]) -> None:
    """A valid vector gives its header, meta and payload, and a chunk's meta what it says."""
    read, _ = receive(vector, bytes.fromhex(vector["bytes"]))
    assert read is not None
    header, meta, payload = read
    assert header == said_header(vector)
    assert meta == bytes.fromhex(vector["meta"])
    assert payload_checksum([payload]) == header.payload_checksum
    assert decode(header, payload) == bytes.fromhex(vector["payload"])
    if "chunk" in vector:
        assert ChunkMeta.parse(meta) == ChunkMeta(**vector["chunk"])
        assert ChunkMeta(**vector["chunk"]).pack() == meta


@pytest.mark.parametrize("vector", VALID)
def test_writes(vector: dict[str, Any]) -> None:
    """Header and meta of a vector serialize to its bytes."""
    meta = bytes.fromhex(vector["meta"])
    written = serialize_header(said_header(vector), meta) + meta
    assert bytes.fromhex(vector["bytes"])[: len(written)] == written


@pytest.mark.parametrize("vector", VALID)
def test_every_prefix(vector: dict[str, Any]) -> None:
    """Every proper prefix needs more; it is never a slot and never an error."""
    data = bytes.fromhex(vector["bytes"])
    for length in range(len(data)):
        assert receive(vector, data[:length])[0] is None


@pytest.mark.parametrize("vector", VALID)
def test_trailing_bytes(vector: dict[str, Any]) -> None:
    """What follows a slot is left for the next one."""
    data = bytes.fromhex(vector["bytes"])
    read, taken = receive(vector, data + b"MFSL")
    assert read == receive(vector, data)[0]
    assert taken == len(data)


@pytest.mark.parametrize("vector", INVALID)
def test_refuses(vector: dict[str, Any]) -> None:
    """An invalid vector is refused before its payload, and the error names the field."""
    with pytest.raises(RemoteProtocolError) as caught:
        receive(vector, bytes.fromhex(vector["bytes"]))
    assert caught.value.where == vector["error"]


@pytest.mark.parametrize("vector", SPOILED)
def test_notices_spoiled_payload(vector: dict[str, Any]) -> None:
    """A payload that is not what its header says is noticed: by its checksum, or else by its decoder."""
    read, _ = receive(vector, bytes.fromhex(vector["bytes"]))
    assert read is not None
    header, _, payload = read
    if vector["payload_error"] == "checksum":
        assert payload_checksum([payload]) != header.payload_checksum
    else:
        assert payload_checksum([payload]) == header.payload_checksum
        with pytest.raises(ValueError, match=r"zstd|lz4|decoding"):
            decode(header, payload)


def test_every_form_has_a_vector() -> None:
    """There are valid vectors of every built-in kind and a user's, of every codec, LIVE and not."""
    valid = [v for v in VECTORS if "header" in v]
    assert {v["kind"] for v in valid} == {"ram", "zero", "device-chunk", "vendor.example/log"}
    assert {v["header"]["codec"] for v in valid} == {1, 2, 3}
    assert {v["header"]["live"] for v in valid} == {True, False}
