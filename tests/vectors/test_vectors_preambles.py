"""The preambles of proto/vectors are read and written as they stand there."""

import json
from pathlib import Path
from typing import Any

import pytest

from multifd.errors import RemoteProtocolError
from multifd.wire.preamble import DATA_PREAMBLE_BYTES, MAIN_PREAMBLE, PREAMBLE_BYTES, DataPreamble, Role, parse_role

VECTORS = json.loads((Path(__file__).parents[2] / "proto/vectors/v1/preambles.json").read_text(encoding="utf-8"))
VALID = [pytest.param(v, id=v["name"]) for v in VECTORS if "preamble" in v]
INVALID = [pytest.param(v, id=v["name"]) for v in VECTORS if "error" in v]


def read(data: bytes) -> Role | DataPreamble:
    """As a listener reads: 8 bytes, and 40 more for a data channel."""
    role = parse_role(data[:PREAMBLE_BYTES])
    return role if role is Role.MAIN else DataPreamble.parse(data[:DATA_PREAMBLE_BYTES])


@pytest.mark.parametrize("vector", VALID)
def test_reads_and_writes(vector: dict[str, Any]) -> None:
    """A valid vector parses to what it says, and that serializes to its bytes."""
    data, said = bytes.fromhex(vector["bytes"]), vector["preamble"]
    if said["role"] == "main":
        assert read(data) is Role.MAIN
        assert data == MAIN_PREAMBLE
    else:
        preamble = DataPreamble(bytes.fromhex(said["session"]), bytes.fromhex(said["secret"]), said["channel"])
        assert read(data) == preamble
        assert preamble.serialize() == data


@pytest.mark.parametrize("vector", VALID)
def test_prefix_is_no_preamble(vector: dict[str, Any]) -> None:
    """No proper prefix of a valid vector is taken for a preamble of its kind; trailing bytes are not looked at."""
    data = bytes.fromhex(vector["bytes"])
    for length in range(PREAMBLE_BYTES):
        with pytest.raises(RemoteProtocolError):
            parse_role(data[:length])
    for length in range(PREAMBLE_BYTES, len(data)):
        assert parse_role(data[:PREAMBLE_BYTES]) is Role.DATA
        with pytest.raises(RemoteProtocolError):
            DataPreamble.parse(data[:length])
    assert read(data + b"MFSL") == read(data)


@pytest.mark.parametrize("vector", INVALID)
def test_refuses(vector: dict[str, Any]) -> None:
    """An invalid vector is refused, and the error names the field."""
    with pytest.raises(RemoteProtocolError) as caught:
        read(bytes.fromhex(vector["bytes"]))
    assert caught.value.where == vector["error"]
