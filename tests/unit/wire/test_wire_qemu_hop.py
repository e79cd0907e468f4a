"""What two relays say to each other is written and read as the specification has it, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd.elements import Compression
from multifd.errors import RemoteProtocolError
from multifd.limits import DEVICE_MESSAGE_BYTES_MAX
from multifd.wire.qemu_hop import (
    Facts,
    FarWord,
    Gone,
    Released,
    Returned,
    Whole,
    parse_order,
    parse_word,
    serialize_order,
    serialize_word,
)

WORDS: list[tuple[FarWord, str]] = [
    (Facts(False, None), "0101ff"),
    (Facts(True, Compression.NONE), "010200"),
    (Facts(True, Compression.ZLIB), "010202"),
    (Facts(False, Compression.ZSTD), "010104"),
    (Returned(bytes.fromhex("0002000400000001")), "020002000400000001"),
    (Released(), "03"),
    (Whole(), "04"),
    (Gone("it died"), "05" + b"it died".hex()),
    (Gone(""), "05"),
]
"""By hand, from proto/qemu.md section 16."""


@pytest.mark.parametrize(("word", "data"), WORDS, ids=lambda value: str(value)[:30])
def test_words_are_those_of_the_specification(word: FarWord, data: str) -> None:
    """Both ways."""
    assert serialize_word(word).hex() == data
    assert parse_word(bytes.fromhex(data)) == word


@pytest.mark.parametrize("data", [
    "", "00", "06", "ff", "01", "0101", "0101ff00", "0100ff", "0103ff", "010101", "010106", "02", "0300", "0401",
])  # fmt: skip
def test_what_is_no_word_is_refused(data: str) -> None:
    """Unknown kinds, lengths and values."""
    with pytest.raises(RemoteProtocolError, match="the far relay"):
        parse_word(bytes.fromhex(data))


def test_a_cause_is_cut_to_what_a_message_takes() -> None:
    """Between two characters, whatever is in it."""
    long = serialize_word(Gone("ä" * 5000 + "\udc80"))
    assert DEVICE_MESSAGE_BYTES_MAX - 1 <= len(long) <= DEVICE_MESSAGE_BYTES_MAX
    word = parse_word(long)
    assert isinstance(word, Gone)
    assert set(word.cause) == {"ä"}


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    """Any bytes are a word, which is written as it was read, or the peer's error."""
    try:
        word = parse_word(data)
    except RemoteProtocolError:
        return
    assert serialize_word(word) == data or isinstance(word, Gone)


def test_the_last_word() -> None:
    """One byte, of two values."""
    assert serialize_order(run=False).hex() == "01"
    assert serialize_order(run=True).hex() == "02"
    assert parse_order(b"\x02")
    assert not parse_order(b"\x01")
    for bad in (b"", b"\0", b"\x03", b"\x02\x02"):
        with pytest.raises(RemoteProtocolError, match="the near relay's last word"):
            parse_order(bad)
