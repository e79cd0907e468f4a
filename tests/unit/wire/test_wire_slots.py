"""Slot headers and the slot reader: the order of checks, and who is asked when. The vectors hold the layout."""

from collections.abc import Sequence
from typing import Any

import pytest
import xxhash
from slot_reading import fill

from multifd.codec import CODECS
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.limits import META_BYTES_MAX, SLOT_BYTES_MAX
from multifd.wire.slots import (
    CODEC_MAX,
    CODEC_NONE,
    FIRST_BYTES,
    HEAD_BYTES_MAX,
    HEADER_BYTES,
    SlotHeader,
    Wanted,
    parse_header,
    payload_checksum,
    read_slot,
    serialize_header,
)

META = b"meta"
HEADER = SlotHeader(
    codec=CODEC_NONE,
    live=True,
    kind=1,
    owner=2,
    sequence=3,
    meta_length=len(META),
    payload_length=8,
    length=8,
    payload_checksum=xxhash.xxh3_64_intdigest(bytes(8)),
)


class Place:
    """Remembers what it was asked, and gives memory of its own."""

    def __init__(self) -> None:
        self.asked: list[tuple[SlotHeader, bytes]] = []
        self.buffers = [memoryview(bytearray(3)), memoryview(bytearray(5))]

    def __call__(self, header: SlotHeader, meta: bytes) -> Sequence[memoryview]:
        self.asked.append((header, meta))
        return self.buffers


class Reading:
    """A slot reader with the memory that it is given."""

    def __init__(self, *, codecs: frozenset[int] = frozenset(), expect_sequence: int = 3) -> None:
        self.place = Place()
        self.head = memoryview(bytearray(HEAD_BYTES_MAX))
        self.steps = read_slot(self.head, codecs=codecs, expect_sequence=expect_sequence, place=self.place)
        self.buffers, self.least = next(self.steps)

    def give(self, data: bytes) -> Wanted:
        """Up to the next step."""
        fill(self.buffers, data)
        self.buffers, self.least = self.steps.send(len(data))
        return self.buffers, self.least

    def last(self, data: bytes) -> Any:
        """What is returned after the last bytes."""
        with pytest.raises(StopIteration) as caught:
            self.give(data)
        return caught.value.value


def sealed(header: bytes | bytearray, meta: bytes) -> bytes:
    """A header with the checksum that it should have, made without our code."""
    return bytes(header[:56]) + xxhash.xxh3_64_intdigest(bytes(header[:56]) + meta).to_bytes(8, "big")


def test_asks_for_header_then_meta_then_payload() -> None:
    """The reader wants a header at least, then what is left of the meta, then exactly what `place` returned."""
    reading = Reading()
    assert (sum(map(len, reading.buffers)), reading.least) == (FIRST_BYTES, HEADER_BYTES)
    (meta,), least = reading.give(serialize_header(HEADER, META))
    assert len(meta) == least == len(META)
    assert reading.place.asked == []
    assert reading.give(META) == (reading.place.buffers, 8)
    assert reading.last(bytes(8)) == (HEADER, META, reading.place.buffers, b"")
    assert reading.place.asked == [(HEADER, META)]


def test_asks_for_nothing_that_came_with_the_header() -> None:
    """A meta that is there already is not asked for, and what follows it is put where the payload belongs."""
    payload = bytes(range(8))
    header = HEADER._replace(payload_checksum=xxhash.xxh3_64_intdigest(payload))
    for more in range(len(payload)):
        reading = Reading()
        wanted, least = reading.give(serialize_header(header, META) + META + payload[:more])
        assert (sum(map(len, wanted)), least) == (8 - more, 8 - more)
        read = reading.last(payload[more:])
        assert b"".join(read.buffers) == payload
        assert read.beyond == b""


def test_what_came_beyond_the_slot_is_given_back() -> None:
    """The first bytes of the next slot may be read with a short one, and are returned."""
    reading = Reading()
    assert reading.last(serialize_header(HEADER, META) + META + bytes(8) + b"next").beyond == b"next"
    empty = HEADER._replace(payload_length=0, length=0)
    assert Reading().last(serialize_header(empty, META) + META + b"the next one").beyond == b"the next one"


def test_asks_for_nothing_where_there_is_nothing() -> None:
    """Without meta and payload the header is all, but the kind is still asked."""
    header = HEADER._replace(meta_length=0, payload_length=0, length=0, live=False)
    reading = Reading()
    assert reading.last(serialize_header(header, b"")) == (header, b"", reading.place.buffers, b"")
    assert reading.place.asked == [(header, b"")]


def test_meta_outlives_its_buffer() -> None:
    """The meta that is returned is a copy: the next slot may be read into the same memory."""
    reading = Reading()
    reading.give(serialize_header(HEADER, META) + META)
    reading.head[HEADER_BYTES : HEADER_BYTES + 4] = b"next"
    assert reading.last(bytes(8)).meta == META


def test_bounds_come_before_the_checksum() -> None:
    """Rule 1: a meta length beyond its bound is refused before any of the meta is read, its checksum not looked at."""
    data = bytearray(serialize_header(HEADER, META))
    data[24:28] = (META_BYTES_MAX + 1).to_bytes(4, "big")
    with pytest.raises(RemoteProtocolError) as caught:
        Reading().give(bytes(data))
    assert caught.value.where == "slot.meta_length"


def test_checksum_comes_before_numbers_and_place() -> None:
    """Rule 2 before 3 and 4: with a wrong header checksum a sequence that is wrong too is not what is reported."""
    reading = Reading(expect_sequence=99)
    with pytest.raises(RemoteProtocolError) as caught:
        reading.give(serialize_header(HEADER, META) + b"MeTa")
    assert caught.value.where == "slot.header_checksum"
    assert reading.place.asked == []


@pytest.mark.parametrize(
    ("offset", "value", "where"),
    [
        (8, bytes(4), "slot.kind"),
        (12, bytes(4), "slot.owner"),
        (16, bytes(8), "slot.sequence"),
        (23, b"\x04", "slot.sequence"),
    ],
)
def test_numbers_come_before_place(offset: int, value: bytes, where: str) -> None:
    """Rule 3: zero and a gap in the sequence are refused, and the kind does not see the meta."""
    data = bytearray(serialize_header(HEADER, META))
    data[offset : offset + len(value)] = value
    reading = Reading()
    with pytest.raises(RemoteProtocolError) as caught:
        reading.give(sealed(data, META) + META)
    assert caught.value.where == where
    assert reading.place.asked == []


def test_codec_must_be_negotiated() -> None:
    """Codec none goes without saying; any other must be among those in use."""
    header = HEADER._replace(codec=2, length=9)
    data = serialize_header(header, META)
    assert Reading(codecs=frozenset({2})).give(data)
    with pytest.raises(RemoteProtocolError) as caught:
        Reading(codecs=frozenset({3})).give(data)
    assert caught.value.where == "slot.codec"


def test_payload_checksum_is_not_the_readers() -> None:
    """A payload that does not match comes through: whether that matters depends on LIVE, which is not decided here."""
    header = HEADER._replace(payload_checksum=HEADER.payload_checksum ^ 1)
    reading = Reading()
    reading.give(serialize_header(header, META) + META)
    read = reading.last(bytes(8))
    assert payload_checksum(read.buffers) != read.header.payload_checksum


def test_parses_views_of_larger_memory() -> None:
    """A header may lie anywhere in a larger buffer."""
    memory = memoryview(bytearray(200))
    memory[10:74] = serialize_header(HEADER, META)
    assert parse_header(memory[10:74]) == HEADER


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"codec": 0}, "slot.codec"),
        ({"codec": CODEC_MAX + 1}, "slot.codec"),
        ({"codec": 2}, "slot.payload_length"),
        ({"kind": 0}, "slot.kind"),
        ({"kind": 2**32}, "slot.kind"),
        ({"owner": 0}, "slot.owner"),
        ({"owner": 2**32}, "slot.owner"),
        ({"sequence": 0}, "slot.sequence"),
        ({"sequence": 2**64}, "slot.sequence"),
        ({"meta_length": 3}, "slot.meta_length"),
        ({"meta_length": META_BYTES_MAX + 1}, "slot.meta_length"),
        ({"payload_length": -1}, "slot.payload_length"),
        ({"payload_length": 7}, "slot.payload_length"),
        ({"payload_length": SLOT_BYTES_MAX + 1, "length": SLOT_BYTES_MAX + 1}, "slot.payload_length"),
        ({"length": SLOT_BYTES_MAX + 1}, "slot.length"),
        ({"payload_checksum": -1}, "slot.payload_checksum"),
        ({"payload_checksum": 2**64}, "slot.payload_checksum"),
    ],
)
def test_does_not_write_what_it_would_refuse(changes: dict[str, int], where: str) -> None:
    """A field out of its bounds is this side's error, by its name."""
    with pytest.raises(LocalProtocolError) as caught:
        serialize_header(HEADER._replace(**changes), META)  # type: ignore[arg-type]
    assert caught.value.where == where


def test_the_largest_slot_can_be_written_and_read() -> None:
    """Bounds are inclusive."""
    meta = bytes(META_BYTES_MAX)
    header = SlotHeader(1, False, 2**32 - 1, 2**32 - 1, 2**64 - 1, len(meta), SLOT_BYTES_MAX, SLOT_BYTES_MAX, 2**64 - 1)
    assert parse_header(serialize_header(header, meta)) == header


def test_checksum_does_not_depend_on_how_the_payload_is_cut() -> None:
    """XXH3-64 of the bytes in order, in one buffer or many; of none it is XXH3-64 of nothing."""
    data = bytes(range(256)) * 64
    views = [memoryview(data)[start : start + 1000] for start in range(0, len(data), 1000)]
    assert payload_checksum([data]) == payload_checksum(views) == xxhash.xxh3_64_intdigest(data)
    assert payload_checksum([]) == payload_checksum([b""]) == 0x2D06800538D394C2


def test_codec_numbers_are_the_codecs_own() -> None:
    """The numbers that headers admit are 1 and those that `multifd.codec` has."""
    assert {CODEC_NONE, *(codec.number for codec in CODECS.values())} == set(range(1, CODEC_MAX + 1))
