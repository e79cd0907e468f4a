"""QEMU's main stream: what is written is read back however it is cut, and any bytes give elements or the peer's error.

Strategies are written from proto/qemu.md, not from the code of `multifd.wire`.
"""

import itertools
import json
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd.elements import (
    BlockList,
    Command,
    CommandNumber,
    Configuration,
    DescribedSection,
    Description,
    EndOfState,
    PageRecord,
    Phase,
    RamBegins,
    RamBlock,
    RamEnds,
    Section,
    SectionHeader,
    StreamElement,
    SyncMark,
    ZeroRecords,
)
from multifd.errors import RemoteProtocolError
from multifd.wire.qemu_description import described_sections
from multifd.wire.qemu_stream import StreamReader, serialize

PAGE = 1024
RAM = SectionHeader(0x7E, "ram", 0, 4)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
CUTS = st.lists(st.integers(0, 5000), max_size=8)
BLOCKS = [RamBlock("m", 50 * PAGE), RamBlock("~", PAGE), RamBlock("\u00e9/rom", 3 * PAGE)]
COMMANDS = st.sampled_from(
    [
        Command(CommandNumber.OPEN_RETURN_PATH),
        Command(CommandNumber.PING, b"~~~~"),
        Command(CommandNumber.POSTCOPY_ADVISE, bytes(16)),
        Command(CommandNumber.SWITCHOVER_START),
    ]
)


def body(number: int) -> st.SearchStrategy[bytes]:
    """Bytes of a device, with as much as can be of its own footer in them but no element that follows it."""
    footer = b"\x7e" + number.to_bytes(4, "big")
    pieces = st.sampled_from([footer + b"\xff", footer + b"\4\1", footer + b"\0\6\0", footer[:4], footer[:1], b"\0"])
    plain = st.binary(max_size=10).map(lambda some: some.replace(b"\x7e", b""))
    return st.lists(pieces | plain, max_size=8).map(lambda parts: b"".join(parts).rstrip(footer + b"\0\6\4"))


@st.composite
def records(draw: st.DrawFn) -> list[StreamElement]:
    """What a section of RAM may hold behind the block list."""
    block = draw(st.sampled_from(BLOCKS))
    offset = st.integers(0, block.length // PAGE - 1).map(lambda page: page * PAGE)
    zeros = st.lists(offset, min_size=1, max_size=80).map(
        lambda some: ZeroRecords(block.name, np.array(some, np.int64))
    )
    pages = st.builds(PageRecord, st.just(block.name), offset, st.just(bytes(range(256)) * (PAGE // 256)))
    return draw(st.lists(zeros | pages | st.just(SyncMark()), max_size=3))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[StreamElement], bool]:
    """A stream, and whether it has a description. Pages are small, and RAM is section 7e."""
    shared = draw(st.booleans())
    capabilities = draw(st.none() | st.lists(NAMES, max_size=2).map(tuple))
    if shared:
        capabilities = (*(capabilities or ()), "x-ignore-shared")
    numbers = draw(
        st.lists(st.integers(0, (1 << 24) - 1).filter(lambda number: number != 0x7E), unique=True, max_size=5)
    )
    headers = [
        SectionHeader(number, draw(NAMES) + "x", index, draw(st.integers(0, 99)))
        for index, number in enumerate(numbers)
    ]
    full = [Section(Phase.FULL, header, draw(body(header.number))) for header in headers]
    early = draw(st.integers(0, len(full)))
    blocks = tuple(RamBlock(block.name, block.length, address=draw(U64) if shared else None) for block in BLOCKS)
    elements: list[StreamElement] = [
        Configuration("pc-q35-9.2", 10, capabilities, draw(st.none() | st.just(b"0123456789abcdef"))),
        *draw(st.lists(COMMANDS, max_size=2)),
        *full[:early],
        RamBegins(Phase.START, RAM), BlockList(blocks), *draw(records()), RamEnds(Phase.START),
    ]  # fmt: skip
    for _ in range(draw(st.integers(0, 3))):
        elements += [RamBegins(Phase.PART, RAM), *draw(records()), *draw(records()), RamEnds(Phase.PART)]
    elements += [*draw(st.lists(COMMANDS, max_size=1)), RamBegins(Phase.END, RAM), *draw(records()), RamEnds(Phase.END)]
    elements += [*full[early:], EndOfState()]
    description = draw(st.booleans())
    if description:
        elements.append(Description(b"{" + draw(st.binary(max_size=20))))
    return elements, description


def plain(elements: Iterable[StreamElement]) -> list[object]:
    """Elements that can be compared: ZERO records of a block as one, however they were cut."""
    together: list[object] = []
    for zero, group in itertools.groupby(elements, lambda each: isinstance(each, ZeroRecords) and each.block):
        if zero is False:
            together += group
        else:
            together.append((zero, [int(at) for each in group if isinstance(each, ZeroRecords) for at in each.offsets]))
    return together


def feed(reader: StreamReader, data: bytes, cuts: list[int]) -> list[StreamElement]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [element for begin, end in itertools.pairwise(places) for element in reader.feed(data[begin:end])]


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(streams(), CUTS)
def test_streams_come_back(stream: tuple[list[StreamElement], bool], cuts: list[int]) -> None:
    """Any stream, cut anywhere, is read as what was written, and written again it is the same bytes."""
    elements, description = stream
    data = serialize(*elements)
    reader = StreamReader(description=description)
    read = feed(reader, data, cuts)
    reader.end()
    assert plain(read) == plain(elements)
    assert reader.offset == len(data)
    assert serialize(*read) == data


def read_any(data: bytes, cuts: list[int], description: bool) -> None:
    """Feed `data`; anything but elements or the peer's error fails, and an error is the same however `data` is cut."""
    wheres = []
    for places in (cuts, []):
        reader = StreamReader(description=description)
        try:
            assert all(isinstance(element, StreamElement) for element in feed(reader, data, places))
            reader.end()
        except RemoteProtocolError as error:
            wheres.append(error.where)
            assert error.where.startswith("main at ")  # noqa: PT017  # a whole stream is right as well
        else:
            assert reader.finished
    assert len(set(wheres)) <= 1


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(streams(), st.data(), CUTS)
def test_any_change_of_a_stream(stream: tuple[list[StreamElement], bool], data: st.DataObject, cuts: list[int]) -> None:
    """A stream with bytes replaced, inserted or left out gives elements or RemoteProtocolError."""
    elements, description = stream
    written = serialize(*elements)
    begin = data.draw(st.integers(0, len(written)))
    end = data.draw(st.integers(begin, min(begin + 9, len(written))))
    read_any(written[:begin] + data.draw(st.binary(max_size=9)) + written[end:], cuts, description)


BEGIN = serialize(Configuration("q", 10), RamBegins(Phase.START, RAM), BlockList(tuple(BLOCKS)), RamEnds(Phase.START))


@settings(deadline=None)
@given(st.sampled_from([b"", BEGIN[:8], BEGIN, BEGIN + b"\2\0\0\0\x7e"]), st.binary(max_size=100), CUTS, st.booleans())
def test_any_bytes(begin: bytes, data: bytes, cuts: list[int], description: bool) -> None:
    """Any bytes, also behind a good beginning, give elements or RemoteProtocolError."""
    read_any(begin + data, cuts, description)


WORDS = """
    devices name instance_id vmsd_name version fields subsections size array_len struct
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=3), st.binary(max_size=5))
def test_any_description(devices: list[object], rest: bytes) -> None:
    """Any JSON, and any bytes, give sections or RemoteProtocolError."""
    for text in (json.dumps({"devices": devices}).encode(), json.dumps(devices).encode(), rest):
        try:
            assert all(isinstance(section, DescribedSection) for section in described_sections(text))
        except RemoteProtocolError as error:
            assert error.where.startswith("main: VM description")  # noqa: PT017  # sections are right as well
