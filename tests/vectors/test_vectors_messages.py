"""The messages of proto/vectors are read and written as they stand there, however the bytes are cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multifd import messages as m
from multifd.errors import Code, RemoteProtocolError
from multifd.wire.control import ControlReader, serialize
from multifd.wire.schema import ROWS

FOLDER = Path(__file__).parents[2] / "proto/vectors/v1"
VECTORS = [
    vector
    for name in ("messages", "device-messages")
    for vector in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
]
VALID = [pytest.param(v, id=v["name"]) for v in VECTORS if "message" in v]
WRITTEN = [pytest.param(v, id=v["name"]) for v in VECTORS if "message" in v and "read_only" not in v]
INVALID = [pytest.param(v, id=v["name"]) for v in VECTORS if "error" in v]
COMMIT = bytes.fromhex(next(v["bytes"] for v in VECTORS if v["name"] == "COMMIT"))


def numbered(data: dict[str, int]) -> dict[int, int]:
    return {int(key): value for key, value in data.items()}


def refusal(data: dict[str, Any]) -> m.Refusal:
    return m.Refusal(m.What(data["what"]), data["name"], Code(data["code"]), data["cause"])


BUILDERS: dict[str, Callable[..., m.Message]] = {
    "HELLO": lambda versions, session, secret, features, channels, software: m.Hello(
        (versions[0], versions[1]), bytes.fromhex(session), bytes.fromhex(secret), tuple(features), channels, software
    ),
    "INVENTORY": lambda page, pages, blocks, devices, kinds, preflight: m.Inventory(
        page,
        pages,
        tuple(m.BlockInfo(**block) for block in blocks),
        tuple(m.DeviceInfo(**device) for device in devices),
        tuple(m.KindInfo(**kind) for kind in kinds),
        preflight,
    ),
    "VERDICT": lambda accepted, channels, refusals, devices: m.Verdict(
        accepted, channels, tuple(refusal(r) for r in refusals), tuple(m.DeviceVerdict(**device) for device in devices)
    ),
    "ATTACHED": m.Attached,
    "SYNC": lambda **keys: m.Sync(keys["class"], keys["round"], tuple(keys["counts"])),
    "SYNC_DONE": lambda **keys: m.SyncDone(keys["class"], keys["round"]),
    "SETTLED": lambda counts: m.Settled(tuple(counts)),
    "RESEND": m.Resend,
    "CREDIT": m.Credit,
    "DEVICE_STATUS": m.DeviceStatus,
    "SWITCHOVER_READY": lambda epochs: m.SwitchoverReady(numbered(epochs)),
    "STOP_COPY": lambda epochs: m.StopCopy(numbered(epochs)),
    "END": lambda counts, chunks, resends: m.End(tuple(counts), numbered(chunks), resends),
    "LOADED": m.Loaded,
    "COMMIT": m.Commit,
    "STARTED": m.Started,
    "ABORTED": lambda code, cause: m.Aborted(Code(code), cause),
    "CANCEL": lambda code, cause: m.Cancel(Code(code), cause),
    "OUTCOME": lambda session, secret: m.AskOutcome(bytes.fromhex(session), bytes.fromhex(secret)),
    "DEVICE_MESSAGE": lambda device, data: m.DeviceMessage(device, bytes.fromhex(data)),
    "DEVICE_HEARD": m.DeviceHeard,
    "OUTCOME_IS": lambda outcome, cause: m.OutcomeIs(m.Fate(outcome), cause),
}


def expected(vector: dict[str, Any]) -> list[m.Message]:
    """The messages that a reader must find: none if the vector's is ignored."""
    if vector["message"] is None:
        return []
    keys = dict(vector["message"])
    return [BUILDERS[keys.pop("type")](**keys)]


def feed_bytes(reader: ControlReader, data: bytes) -> None:
    """One by one; no message may come of them."""
    for byte in data:
        assert reader.feed(bytes([byte])) == []


@pytest.mark.parametrize("vector", VALID)
def test_reads(vector: dict[str, Any]) -> None:
    """A valid vector parses to its message."""
    assert ControlReader().feed(bytes.fromhex(vector["bytes"])) == expected(vector)


@pytest.mark.parametrize("vector", WRITTEN)
def test_writes(vector: dict[str, Any]) -> None:
    """The message of a vector serializes to its bytes."""
    (message,) = expected(vector)
    assert serialize(message) == bytes.fromhex(vector["bytes"])


@pytest.mark.parametrize("vector", VALID)
def test_byte_by_byte(vector: dict[str, Any]) -> None:
    """Every proper prefix needs more, and says so by giving nothing; the last byte gives the message."""
    reader = ControlReader()
    data = bytes.fromhex(vector["bytes"])
    for index in range(len(data) - 1):
        assert reader.feed(data[index : index + 1]) == []
    assert reader.feed(data[-1:]) == expected(vector)


@pytest.mark.parametrize("vector", VALID)
def test_every_cut(vector: dict[str, Any]) -> None:
    """Cut in two at any place, a vector gives nothing and then its message."""
    data = bytes.fromhex(vector["bytes"])
    for cut in range(len(data)):
        reader = ControlReader()
        assert reader.feed(data[:cut]) == []
        assert reader.feed(data[cut:]) == expected(vector)


@pytest.mark.parametrize("vector", VALID)
def test_trailing_bytes(vector: dict[str, Any]) -> None:
    """What follows a frame is the next one: begun it waits, whole it is read."""
    reader = ControlReader()
    data = bytes.fromhex(vector["bytes"])
    assert reader.feed(data + COMMIT[:-1]) == expected(vector)
    assert reader.feed(COMMIT[-1:] + data + data) == [m.Commit(), *expected(vector), *expected(vector)]


@pytest.mark.parametrize("vector", INVALID)
@pytest.mark.parametrize("after", [b"", COMMIT], ids=["first", "after another"])
def test_refuses(vector: dict[str, Any], after: bytes) -> None:
    """An invalid vector is refused, and the error names message and key."""
    with pytest.raises(RemoteProtocolError) as caught:
        ControlReader().feed(after + bytes.fromhex(vector["bytes"]))
    assert caught.value.where == vector["error"]


@pytest.mark.parametrize("vector", INVALID)
def test_refuses_byte_by_byte(vector: dict[str, Any]) -> None:
    """An invalid vector gives no message on the way to the same error, which every later call raises again."""
    reader = ControlReader()
    with pytest.raises(RemoteProtocolError) as caught:
        feed_bytes(reader, bytes.fromhex(vector["bytes"]))
    assert caught.value.where == vector["error"]
    with pytest.raises(RemoteProtocolError) as again:
        reader.feed(COMMIT)
    assert again.value is caught.value


def test_every_message_has_vectors() -> None:
    """Each message of the table has a valid vector that is written, and an invalid one."""
    names = {row.name for row in ROWS}
    assert {v["message"]["type"] for v in VECTORS if v.get("message") and "read_only" not in v} == names
    assert {v["name"].split(",")[0] for v in VECTORS if "error" in v} >= names
