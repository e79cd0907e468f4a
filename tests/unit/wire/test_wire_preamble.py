"""Preambles: sizes are the specification's, and what can't be written is not. The vectors hold the rest."""

import pytest

from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.wire.preamble import DATA_PREAMBLE_BYTES, MAIN_PREAMBLE, PREAMBLE_BYTES, DataPreamble


def test_sizes() -> None:
    """8 bytes for main, 48 for a data channel."""
    assert PREAMBLE_BYTES == len(MAIN_PREAMBLE) == 8
    assert DATA_PREAMBLE_BYTES == len(DataPreamble(bytes(16), bytes(16), 1).serialize()) == 48


@pytest.mark.parametrize(
    ("preamble", "where"),
    [
        (DataPreamble(bytes(15), bytes(16), 1), "preamble.session"),
        (DataPreamble(bytes(16), bytes(17), 1), "preamble.secret"),
        (DataPreamble(bytes(16), bytes(16), 0), "preamble.channel"),
        (DataPreamble(bytes(16), bytes(16), 65), "preamble.channel"),
    ],
)
def test_does_not_write_what_it_would_refuse(preamble: DataPreamble, where: str) -> None:
    """A wrong length or channel is this side's error, by its field."""
    with pytest.raises(LocalProtocolError) as caught:
        preamble.serialize()
    assert caught.value.where == where


@pytest.mark.parametrize("channel", [1, 64])
def test_bounds_are_inclusive(channel: int) -> None:
    """The first and the last channel can be written and read."""
    preamble = DataPreamble(bytes(16), bytes(range(16)), channel)
    assert DataPreamble.parse(preamble.serialize()) == preamble


def test_main_is_no_data_preamble() -> None:
    """48 bytes that begin as main's preamble are refused."""
    with pytest.raises(RemoteProtocolError) as caught:
        DataPreamble.parse(MAIN_PREAMBLE + bytes(40))
    assert caught.value.where == "preamble.role"
