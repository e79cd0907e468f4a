"""Whatever is written is read back, any bytes give messages or the peer's error, and one changed byte is noticed.

Strategies are written from proto/, not from the tables of `multifd.wire`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_reading import read_from

from multifd import messages as m
from multifd.errors import Code, RemoteProtocolError
from multifd.wire.chunk import ChunkMeta
from multifd.wire.control import ControlReader, serialize
from multifd.wire.preamble import DataPreamble, parse_role
from multifd.wire.slots import HEADER_BYTES, SlotHeader, payload_checksum, serialize_header

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NUMBER = st.integers(1, 2**32 - 1)
FROM_ONE = st.integers(1, 2**64 - 1)
CHANNEL = st.integers(1, 64)
TEXT = st.text(max_size=50)
NAME = st.text(min_size=1, max_size=50)
ID = st.binary(min_size=16, max_size=16)
SECONDS = st.floats(0, 1e9)
COUNTS = st.lists(U64, min_size=1, max_size=64).map(tuple)
EPOCHS = st.dictionaries(NUMBER, NUMBER, max_size=5)
PARTS = st.dictionaries(NAME, SECONDS, max_size=5)
CODE = st.sampled_from(Code)
VERSIONS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair)))


def several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=4).map(tuple)


BLOCK = st.builds(m.BlockInfo, NAME, U64, st.integers(9, 30).map(lambda power: 1 << power))
DEVICE = st.builds(m.DeviceInfo, NAME, U32, U32, TEXT, st.booleans(), st.none() | U64)
KIND = st.builds(m.KindInfo, NAME)
REFUSAL = st.builds(m.Refusal, st.sampled_from(m.What), TEXT, CODE, TEXT)
DEVICE_VERDICTS = several(st.builds(m.DeviceVerdict, st.booleans(), U64))
INVENTORY = st.integers(1, 64).flatmap(
    lambda pages: st.builds(
        m.Inventory,
        st.integers(1, pages),
        st.just(pages),
        several(BLOCK),
        several(DEVICE),
        several(KIND),
        st.booleans(),
    )
)
ACCEPTED = st.builds(m.Verdict, st.just(True), CHANNEL, st.just(()), DEVICE_VERDICTS)
REFUSED = st.builds(m.Verdict, st.just(False), st.integers(0, 64), several(REFUSAL).filter(bool), DEVICE_VERDICTS)
MESSAGES: list[st.SearchStrategy[m.Message]] = [
    st.builds(m.Hello, VERSIONS, ID, ID, several(NAME), NUMBER, TEXT),
    INVENTORY,
    ACCEPTED | REFUSED,
    st.builds(m.Attached, CHANNEL),
    st.builds(m.Sync, NAME, FROM_ONE, COUNTS),
    st.builds(m.SyncDone, NAME, FROM_ONE),
    st.builds(m.Settled, COUNTS),
    st.builds(m.Resend, CHANNEL, FROM_ONE),
    st.builds(m.Credit, NUMBER, U64),
    st.builds(m.DeviceStatus, NUMBER, NUMBER, st.booleans(), U64, SECONDS, SECONDS, TEXT),
    st.builds(m.SwitchoverReady, EPOCHS),
    st.builds(m.StopCopy, EPOCHS),
    st.builds(m.End, COUNTS, st.dictionaries(NUMBER, U64, max_size=5), U64),
    st.builds(m.Loaded, PARTS),
    st.builds(m.Commit),
    st.builds(m.Started, PARTS),
    st.builds(m.Aborted, CODE, TEXT),
    st.builds(m.Cancel, CODE, TEXT),
    st.builds(m.AskOutcome, ID, ID),
    st.builds(m.OutcomeIs, st.sampled_from(m.Fate), TEXT),
    st.builds(m.DeviceMessage, NUMBER, st.binary(min_size=1, max_size=80)),
    st.builds(m.DeviceHeard, NUMBER, FROM_ONE),
]
MESSAGE = st.one_of(MESSAGES)
CHUNK = st.builds(ChunkMeta, NUMBER, st.integers(1, 3), st.booleans(), U64)


@st.composite
def slots(draw: st.DrawFn) -> tuple[SlotHeader, bytes, bytes]:
    """(header, meta, payload on the wire) of any slot."""
    meta, payload = draw(st.binary(max_size=80)), draw(st.binary(max_size=80))
    codec = draw(st.integers(1, 3)) if payload else 1
    length = len(payload) if codec == 1 else draw(st.integers(len(payload) + 1, 4 << 20))
    header = SlotHeader(
        codec=codec,
        live=draw(st.booleans()),
        kind=draw(NUMBER),
        owner=draw(NUMBER),
        sequence=draw(FROM_ONE),
        meta_length=len(meta),
        payload_length=len(payload),
        length=length,
        payload_checksum=xxhash.xxh3_64_intdigest(payload),
    )
    return header, meta, payload


def frame(body: bytes) -> bytes:
    length = len(body).to_bytes(4, "big")
    return length + xxhash.xxh3_64_intdigest(length + body).to_bytes(8, "big") + body


def place(header: SlotHeader, meta: bytes) -> Sequence[memoryview]:
    return [memoryview(bytearray(header.payload_length))]


def receive(data: bytes, expect_sequence: int) -> tuple[SlotHeader, bytes, bytes] | None:
    """The slot in `data`, or None if it needs more."""
    return read_from(data, codecs=(2, 3), expect_sequence=expect_sequence, place=place, eager=True)[0]


def test_strategies_cover_every_message() -> None:
    """There is one strategy for each class of message."""
    assert len(MESSAGES) == len(m.Message.__args__)


@settings(deadline=None)
@given(st.lists(MESSAGE, max_size=4), st.lists(st.integers(0, 2000), max_size=5))
def test_messages_come_back(messages: list[m.Message], cuts: list[int]) -> None:
    """Any messages, written one after another and cut anywhere, come back in order."""
    data = b"".join(serialize(message) for message in messages)
    reader = ControlReader()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    read = [message for start, end in itertools.pairwise(places) for message in reader.feed(data[start:end])]
    assert read == messages


@settings(deadline=None)
@given(st.sampled_from(MESSAGES).flatmap(lambda strategy: strategy))
def test_every_message_comes_back(message: m.Message) -> None:
    """Each kind of message alone, as often as any other."""
    assert ControlReader().feed(serialize(message)) == [message]


def feed_any(data: bytes) -> None:
    """Feed `data`; anything but messages or the peer's error fails."""
    try:
        messages = ControlReader().feed(data)
    except RemoteProtocolError:
        return
    assert all(isinstance(message, m.Message) for message in messages)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Any bytes give messages, nothing yet, or RemoteProtocolError."""
    feed_any(data)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_any_body(body: bytes) -> None:
    """Any body in a good frame gives a message or RemoteProtocolError."""
    feed_any(frame(body))


WORDS = """
    type optional versions session secret features channels software page pages blocks devices kinds preflight accepted
    refusals class round counts channel sequence device bytes epoch ready loaded_bytes load_s setup_s doing epochs
    chunks resends parts code cause outcome name length page_size id instance token what credit takes_part data count
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.integers(0, 3), inner, max_size=6)
)


def packable(value: object) -> bytes | None:
    try:
        packed: bytes = msgpack.packb(value)
    except (ValueError, OverflowError, UnicodeEncodeError):
        return None
    return packed


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, 27), st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_map(number: int, keys: dict[str, object]) -> None:
    """Any map of the keys that messages have, with values of any type, gives a message or RemoteProtocolError."""
    body = packable({**keys, "type": number})
    if body is not None:
        feed_any(frame(body))


@pytest.mark.slow
@settings(deadline=None)
@given(MESSAGE, st.data())
def test_any_value_for_a_key(message: m.Message, data: st.DataObject) -> None:
    """A good message with one key's value replaced or left out gives a message or RemoteProtocolError."""
    body = msgpack.unpackb(serialize(message)[12:], strict_map_key=False)
    key = data.draw(st.sampled_from(sorted(body)))
    body[key] = data.draw(VALUES)
    if data.draw(st.booleans()):
        del body[key]
    packed = packable(body)
    if packed is not None:
        feed_any(frame(packed))


@settings(deadline=None)
@given(MESSAGE, st.data())
def test_changed_byte_of_a_frame_is_noticed(message: m.Message, data: st.DataObject) -> None:
    """A frame with one byte changed never gives a message; once as many bytes came as it asks for it is refused."""
    spoiled = bytearray(serialize(message))
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= data.draw(st.integers(1, 255))
    reader = ControlReader()
    try:
        assert reader.feed(spoiled) == []
        reader.feed(bytes(1 << 20))
    except RemoteProtocolError as error:
        assert error.where.startswith("frame.")  # noqa: PT017  # both ways to get here are right
    else:
        raise AssertionError("not noticed")


@settings(deadline=None)
@given(slots())
def test_slots_come_back(slot: tuple[SlotHeader, bytes, bytes]) -> None:
    """Any slot that can be written is read back as it was."""
    header, meta, payload = slot
    data = serialize_header(header, meta) + meta + payload
    assert receive(data, header.sequence) == slot
    assert payload_checksum([payload[:7], payload[7:]]) == header.payload_checksum


@settings(deadline=None)
@given(slots(), st.data())
def test_changed_byte_of_a_slot_is_noticed(slot: tuple[SlotHeader, bytes, bytes], data: st.DataObject) -> None:
    """One changed byte of header or meta is refused, given bytes enough; one of the payload shows in its checksum."""
    header, meta, payload = slot
    spoiled = bytearray(serialize_header(header, meta) + meta + payload)
    index = data.draw(st.integers(0, len(spoiled) - 1))
    spoiled[index] ^= data.draw(st.integers(1, 255))
    try:
        read = receive(bytes(spoiled) + bytes(65536), header.sequence)
    except RemoteProtocolError as error:
        assert error.where.startswith("slot.")  # noqa: PT017  # a spoiled payload is noticed otherwise
        assert index < HEADER_BYTES + len(meta)
    else:
        assert index >= HEADER_BYTES + len(meta)
        assert read is not None
        assert payload_checksum([read[2]]) != read[0].payload_checksum


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_slot(data: bytes) -> None:
    """Any bytes on a data channel are refused or need more: a slot by chance is out of the question."""
    try:
        assert receive(data, 1) is None
    except RemoteProtocolError as error:
        assert error.where.startswith("slot.")  # noqa: PT017  # needing more is right as well


@settings(deadline=None)
@given(CHUNK)
def test_chunk_metas_come_back(chunk: ChunkMeta) -> None:
    """Any chunk's meta is read back as it was."""
    assert ChunkMeta.parse(chunk.pack()) == chunk


@settings(deadline=None)
@given(st.binary(max_size=40) | st.binary(min_size=24, max_size=24))
def test_any_bytes_as_a_chunk_meta(meta: bytes) -> None:
    """Any meta gives exactly one chunk that packs to the same bytes, or RemoteProtocolError."""
    try:
        chunk = ChunkMeta.parse(meta)
    except RemoteProtocolError:
        return
    assert chunk.pack() == meta


@settings(deadline=None)
@given(ID, ID, CHANNEL)
def test_data_preambles_come_back(session: bytes, secret: bytes, channel: int) -> None:
    """Any data preamble is read back as it was."""
    preamble = DataPreamble(session, secret, channel)
    assert DataPreamble.parse(preamble.serialize()) == preamble


@settings(deadline=None)
@given(st.binary(max_size=60) | st.binary(min_size=40, max_size=40).map(lambda rest: b"MFDP\x00\x01\x02\x00" + rest))
def test_any_bytes_as_a_preamble(data: bytes) -> None:
    """Any bytes give a role and a preamble that writes the same bytes, or RemoteProtocolError."""
    try:
        parse_role(data[:8])
        preamble = DataPreamble.parse(data)
    except RemoteProtocolError:
        return
    assert preamble.serialize() == data
