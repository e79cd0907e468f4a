"""Writes the vectors of messages to proto/vectors/v1.

Follows the tables of proto/ and imports nothing of multifd, so that it is a second reading of them. A released
version's files are never written again.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import xxhash

FOLDER = Path(__file__).parents[2] / "proto" / "vectors" / "v1"
SESSION = bytes(range(16))
SECRET = bytes(range(0xF0, 0x100))
NO_SECRET = bytes(16)

Vector = dict[str, Any]


def xxh3(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


# -- messages (control.md) --------------------------------------------------------------------------------------------


def frame(body: bytes, *, spoil: int = 0, length: int | None = None) -> str:
    head = struct.pack(">I", len(body) if length is None else length)
    return (head + struct.pack(">Q", xxh3(head + body) ^ spoil) + body).hex()


def packed(number: object, **keys: object) -> bytes:
    data: bytes = msgpack.packb({"type": number, **keys})
    return data


HELLO = {
    "versions": [1, 1],
    "session": SESSION,
    "secret": NO_SECRET,
    "features": ["explicit-switchover", "zstd"],
    "channels": 4,
    "software": "multifd 0.1.0",
}
BLOCK = {"name": "ram", "length": 1 << 33, "page_size": 4096}
DEVICE = {
    "id": "vendor.example/nic",
    "instance": 0,
    "schema_version": 3,
    "token": "vendor.example/nic;3",
    "explicit_switchover": True,
    "expected_bytes": 1 << 20,
}
INVENTORY = {
    "page": 1,
    "pages": 1,
    "blocks": [BLOCK],
    "devices": [DEVICE],
    "kinds": [{"name": "ram"}],
    "preflight": False,
}
REFUSAL = {"what": 2, "name": "vendor.example/nic/0", "code": 9, "cause": "schema version 3 at the source, 2 here"}
STATUS = {
    "device": 1,
    "epoch": 2,
    "ready": True,
    "loaded_bytes": 1048576,
    "load_s": 0.25,
    "setup_s": 1.5,
    "doing": "rebuilding tables",
}
NUMBERS = {
    "HELLO": 1,
    "INVENTORY": 2,
    "VERDICT": 3,
    "ATTACHED": 4,
    "SYNC": 5,
    "SYNC_DONE": 6,
    "SETTLED": 7,
    "RESEND": 8,
    "CREDIT": 9,
    "DEVICE_STATUS": 10,
    "SWITCHOVER_READY": 11,
    "STOP_COPY": 12,
    "END": 13,
    "LOADED": 14,
    "COMMIT": 15,
    "STARTED": 16,
    "ABORTED": 17,
    "CANCEL": 18,
    "OUTCOME": 19,
    "OUTCOME_IS": 20,
}
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("from the source", "HELLO", HELLO),
    ("from the destination", "HELLO", {**HELLO, "secret": SECRET, "versions": [1, 3], "features": [], "channels": 16}),
    ("one of each", "INVENTORY", INVENTORY),
    ("empty, preflight", "INVENTORY", {**INVENTORY, "blocks": [], "devices": [], "kinds": [], "preflight": True}),
    (
        "second page: a name that is not ASCII, sizes that are odd, unknown or zero",
        "INVENTORY",
        {
            **INVENTORY,
            "page": 2,
            "pages": 2,
            "blocks": [
                {"name": "größe", "length": 12345, "page_size": 512},
                {"name": "none", "length": 0, "page_size": 1 << 30},
            ],
            "devices": [{**DEVICE, "token": "", "explicit_switchover": False, "expected_bytes": None}],
        },
    ),
    (
        "accepted",
        "VERDICT",
        {"accepted": True, "channels": 4, "refusals": [], "devices": [{"takes_part": True, "credit": 1 << 24}]},
    ),
    (
        "refused, with every reason",
        "VERDICT",
        {
            "accepted": False,
            "channels": 0,
            "refusals": [REFUSAL, {"what": 4, "name": "", "code": 5, "cause": "another session is on"}],
            "devices": [{"takes_part": False, "credit": 0}],
        },
    ),
    ("", "ATTACHED", {"channels": 4}),
    ("", "SYNC", {"class": "ram", "round": 1, "counts": [10, 0, 12, 9]}),
    ("", "SYNC_DONE", {"class": "ram", "round": 1}),
    ("", "SETTLED", {"counts": [0, 127, 65536, (1 << 64) - 1]}),
    ("", "RESEND", {"channel": 2, "sequence": 77}),
    ("", "CREDIT", {"device": 1, "bytes": 1 << 40}),
    ("", "DEVICE_STATUS", STATUS),
    ("nothing loaded", "DEVICE_STATUS", {**STATUS, "ready": False, "loaded_bytes": 0, "load_s": 0.0, "doing": ""}),
    ("", "SWITCHOVER_READY", {"epochs": {1: 1, 2: 300}}),
    ("", "STOP_COPY", {"epochs": {1: 2}}),
    ("nobody takes part", "STOP_COPY", {"epochs": {}}),
    ("", "END", {"counts": [1000, 998], "chunks": {1: 12, 2: 0}, "resends": 1}),
    ("", "LOADED", {"parts": {"devices": 0.125, "memory": 0.0}}),
    ("", "COMMIT", {}),
    ("", "STARTED", {"parts": {"owner": 0.0078125}}),
    ("", "ABORTED", {"code": 9, "cause": "device vendor.example/nic/0: no memory"}),
    ("", "CANCEL", {"code": 7, "cause": "the operator"}),
    ("", "OUTCOME", {"session": SESSION, "secret": SECRET}),
    ("started", "OUTCOME_IS", {"outcome": 1, "cause": ""}),
    ("unknown", "OUTCOME_IS", {"outcome": 3, "cause": "no such session"}),
]
BAD: list[tuple[str, str, str, dict[str, Any]]] = [
    ("one version only", "HELLO", ".versions", {**HELLO, "versions": [1]}),
    ("versions upside down", "HELLO", ".versions", {**HELLO, "versions": [2, 1]}),
    ("version 0", "HELLO", ".versions[0]", {**HELLO, "versions": [0, 1]}),
    ("session of 15 bytes", "HELLO", ".session", {**HELLO, "session": SESSION[1:]}),
    ("session as text", "HELLO", ".session", {**HELLO, "session": "0123456789abcdef"}),
    ("empty feature", "HELLO", ".features[1]", {**HELLO, "features": ["zstd", ""]}),
    ("no channels", "HELLO", ".channels", {**HELLO, "channels": 0}),
    ("channels beyond u32", "HELLO", ".channels", {**HELLO, "channels": 1 << 32}),
    ("page 0", "INVENTORY", ".page", {**INVENTORY, "page": 0}),
    ("page after the last", "INVENTORY", ".page", {**INVENTORY, "page": 2}),
    ("too many pages", "INVENTORY", ".pages", {**INVENTORY, "pages": 65}),
    (
        "page size no power of two",
        "INVENTORY",
        ".blocks[0].page_size",
        {**INVENTORY, "blocks": [{**BLOCK, "page_size": 4097}]},
    ),
    ("page size of a byte", "INVENTORY", ".blocks[0].page_size", {**INVENTORY, "blocks": [{**BLOCK, "page_size": 1}]}),
    ("negative length", "INVENTORY", ".blocks[1].length", {**INVENTORY, "blocks": [BLOCK, {**BLOCK, "length": -1}]}),
    ("name of 1025 bytes", "INVENTORY", ".kinds[0].name", {**INVENTORY, "kinds": [{"name": "k" * 1025}]}),
    ("kind as text", "INVENTORY", ".kinds[0]", {**INVENTORY, "kinds": ["ram"]}),
    ("preflight as a number", "INVENTORY", ".preflight", {**INVENTORY, "preflight": 1}),
    (
        "device without expected bytes, not even nil",
        "INVENTORY",
        ".devices[0].expected_bytes",
        {**INVENTORY, "devices": [{key: value for key, value in DEVICE.items() if key != "expected_bytes"}]},
    ),
    (
        "accepted and refused",
        "VERDICT",
        ".accepted",
        {"accepted": True, "channels": 4, "refusals": [REFUSAL], "devices": []},
    ),
    ("refused for nothing", "VERDICT", ".accepted", {"accepted": False, "channels": 4, "refusals": [], "devices": []}),
    ("accepted, no channels", "VERDICT", ".channels", {"accepted": True, "channels": 0, "refusals": [], "devices": []}),
    (
        "refusal of nothing",
        "VERDICT",
        ".refusals[0].what",
        {"accepted": False, "channels": 0, "refusals": [{**REFUSAL, "what": 0}], "devices": []},
    ),
    (
        "reason 0",
        "VERDICT",
        ".refusals[0].code",
        {"accepted": False, "channels": 0, "refusals": [{**REFUSAL, "code": 0}], "devices": []},
    ),
    ("65 channels", "ATTACHED", ".channels", {"channels": 65}),
    ("round 0", "SYNC", ".round", {"class": "ram", "round": 0, "counts": [1]}),
    ("no counts", "SYNC", ".counts", {"class": "ram", "round": 1, "counts": []}),
    ("no class", "SYNC_DONE", ".class", {"round": 1}),
    ("negative count", "SETTLED", ".counts[1]", {"counts": [1, -1]}),
    ("a float for a count", "SETTLED", ".counts[0]", {"counts": [1.0]}),
    ("65 counts", "SETTLED", ".counts", {"counts": [1] * 65}),
    ("channel 0", "RESEND", ".channel", {"channel": 0, "sequence": 1}),
    ("sequence 0", "RESEND", ".sequence", {"channel": 1, "sequence": 0}),
    ("device 0", "CREDIT", ".device", {"device": 0, "bytes": 1}),
    ("a bool for bytes", "CREDIT", ".bytes", {"device": 1, "bytes": True}),
    ("epoch 0", "DEVICE_STATUS", ".epoch", {**STATUS, "epoch": 0}),
    ("not a number of seconds", "DEVICE_STATUS", ".load_s", {**STATUS, "load_s": float("nan")}),
    ("infinite seconds", "DEVICE_STATUS", ".setup_s", {**STATUS, "setup_s": float("inf")}),
    ("text of 4097 bytes", "DEVICE_STATUS", "", {**STATUS, "doing": "d" * 4097}),
    ("epoch 0", "SWITCHOVER_READY", ".epochs[1]", {"epochs": {1: 0}}),
    ("device 0", "SWITCHOVER_READY", ".epochs[0]", {"epochs": {0: 1}}),
    ("a name for a number", "STOP_COPY", ".epochs['1']", {"epochs": {"1": 1}}),
    ("an array for a map", "STOP_COPY", ".epochs", {"epochs": [1]}),
    ("no resends", "END", ".resends", {"counts": [1], "chunks": {}}),
    ("negative chunks", "END", ".chunks[7]", {"counts": [1], "chunks": {7: -1}, "resends": 0}),
    ("negative seconds", "LOADED", ".parts['x']", {"parts": {"x": -0.5}}),
    ("nil seconds", "STARTED", ".parts['x']", {"parts": {"x": None}}),
    ("reason 0", "ABORTED", ".code", {"code": 0, "cause": ""}),
    ("cause as bytes", "ABORTED", ".cause", {"code": 1, "cause": b"x"}),
    ("no cause", "CANCEL", ".cause", {"code": 7}),
    ("secret of 17 bytes", "OUTCOME", ".secret", {"session": SESSION, "secret": bytes(17)}),
    ("outcome 0", "OUTCOME_IS", ".outcome", {"outcome": 0, "cause": ""}),
    ("outcome 4", "OUTCOME_IS", ".outcome", {"outcome": 4, "cause": ""}),
]


def as_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def nested(levels: int) -> object:
    """Maps and arrays, `levels` deep."""
    return [nested(levels - 1)] if levels else 1


def message_vectors() -> list[Vector]:
    vectors: list[Vector] = []
    for what, name, keys in GOOD:
        title = f"{name}, {what}" if what else name
        message = {"type": name, **{key: as_json(value) for key, value in keys.items()}}
        vectors.append({"name": title, "bytes": frame(packed(NUMBERS[name], **keys)), "message": message})
    for what, name, path, keys in BAD:
        where = f"{name}{path}" if path else "frame.body"  # beyond what any text may have: known before the key is
        vectors.append({"name": f"{name}, {what}", "bytes": frame(packed(NUMBERS[name], **keys)), "error": where})
    # COMMIT has no keys that could be wrong: what is wrong is the frame
    vectors.append({"name": "COMMIT, wrong checksum", "bytes": frame(packed(15), spoil=1), "error": "frame.checksum"})
    return vectors + other_encodings() + bad_frames()


def other_encodings() -> list[Vector]:
    """What a reader must take, though our writer writes it otherwise (or not at all)."""
    settled = {"type": "SETTLED", "counts": [5]}
    aborted = {"type": "ABORTED", "code": 13, "cause": "?"}
    loaded = {"type": "LOADED", "parts": {"a": 2.0}}
    cases: list[tuple[str, bytes, dict[str, Any] | None]] = [
        (
            "unknown keys, in any place",
            msgpack.packb({"x": [None, {3: b""}], "counts": [5], "type": 7, "y": -1}),
            settled,
        ),
        (
            "an integer that is not the shortest",
            bytes.fromhex("82a474797065cf0000000000000007a6636f756e747391cd0005"),
            settled,
        ),
        ("nested as deep as may be", packed(7, counts=[5], x=nested(7)), settled),
        ("a known message marked optional", packed(7, counts=[5], optional=True), settled),
        ("a reason code that nobody knows yet", packed(17, code=99, cause="?"), aborted),
        ("an integer for seconds", packed(14, parts={"a": 2}), loaded),
        ("a float of 32 bits", bytes.fromhex("82a4747970650ea5706172747381a161ca40000000"), loaded),
        ("an unknown message that is optional", packed(1000, optional=True, x="y"), None),
    ]
    return [
        {"name": name, "bytes": frame(body), "message": message, "read_only": True} for name, body, message in cases
    ]


def bad_frames() -> list[Vector]:
    settled = packed(7, counts=[5])
    bodies: list[tuple[str, str, bytes]] = [
        ("an array for a body", "frame.body", msgpack.packb([1, 2])),
        ("nil for a body", "frame.body", b"\xc0"),
        ("a byte that msgpack does not use", "frame.body", b"\xc1"),
        ("a body cut short", "frame.body", settled[:-1]),
        ("something after the map", "frame.body", settled + b"\x00"),
        ("a key twice", "frame.body", b"\x82" + msgpack.packb("type") + b"\x0f" + msgpack.packb("type") + b"\x0f"),
        ("a key that is an integer", "frame.body", msgpack.packb({"type": 15, 1: 1})),
        ("a key that is a byte string", "frame.body", msgpack.packb({"type": 15, b"x": 1})),
        ("a key inside that is an array", "frame.body", bytes.fromhex("82a4747970650fa17881910101")),
        ("text that is not UTF-8", "frame.body", bytes.fromhex("83a47479706511a4636f646501a56361757365a1ff")),
        ("a timestamp", "frame.body", bytes.fromhex("82a4747970650fa178d6ff00000000")),
        ("an extension", "frame.body", bytes.fromhex("82a4747970650fa178d40100")),
        ("nested one level too deep", "frame.body", packed(7, counts=[5], x=nested(8))),
        ("an array of 4097 items", "frame.body", packed(7, counts=[5], x=[0] * 4097)),
        ("no type", "frame.type", msgpack.packb({"counts": [5]})),
        ("type 0, though optional", "frame.type", packed(0, optional=True)),
        ("a type that is text", "frame.type", packed("SETTLED", counts=[5])),
        ("an unknown type", "frame.type", packed(1000)),
        ("an unknown type, optional as a number", "frame.type", packed(1000, optional=1)),
    ]
    vectors: list[Vector] = [{"name": name, "bytes": frame(body), "error": where} for name, where, body in bodies]
    vectors.append({"name": "length 0", "bytes": frame(b""), "error": "frame.length"})
    too_long = frame(b"", length=(1 << 20) + 1)[:8]
    vectors.append({"name": "a length above 1 MiB, refused at once", "bytes": too_long, "error": "frame.length"})
    return vectors


def write(name: str, vectors: list[Vector]) -> None:
    assert len({vector["name"] for vector in vectors}) == len(vectors)
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write("messages", message_vectors())
