"""The reader of QEMU's main stream in sections of RAM: records, the block list, mapped-ram files."""

import pytest
from qemu_stream_by_hand import (
    CONFIGURATION,
    EOS,
    FLUSH,
    LIST,
    PAGE,
    PART,
    RAM,
    RAM_END,
    START,
    TAIL,
    be,
    block,
    foot,
    plain,
    records,
    refusal,
    str8,
    subsection,
)

from multifd.elements import (
    BlockList,
    Description,
    MappedRam,
    PageRecord,
    Phase,
    RamBlock,
    RamEnds,
    StreamElement,
    SyncMark,
)
from multifd.errors import RemoteProtocolError
from multifd.limits import QEMU_RAM_BLOCKS_MAX, QEMU_RAM_BYTES_MAX
from multifd.wire.qemu_stream import StreamReader

ZERO_ROM = be(8, 2) + str8(b"rom") + b"\0"
ZERO_M = be(8, PAGE | 2) + str8(b"m") + b"\0"


def test_continue_reaches_over_the_borders_of_sections() -> None:
    """A record with CONTINUE is of the block that was named last, in whichever section."""
    elements = records(ZERO_M + EOS + foot(2) + PART + EOS + foot(2) + PART + be(8, 0x22) + b"\0" + EOS)
    assert elements[0] == ("m", [PAGE])
    assert elements[-2] == ("m", [0])


def test_runs_of_zero_records_are_one_element() -> None:
    """Many records of a block come together, in their order, up to the first that is another."""
    begin = CONFIGURATION + RAM + be(8, 1000 * PAGE | 4) + block(b"m", 1000 * PAGE) + EOS + foot(2)
    run = b"".join(be(8, page * PAGE | 0x22) + b"\0" for page in range(999, 0, -1))
    elements = records(be(8, 2) + str8(b"m") + b"\0" + run + FLUSH + EOS, begin)
    zeros = [element for element in elements if isinstance(element, tuple)]
    assert len(zeros) < 10
    assert [offset for _, offsets in zeros for offset in offsets] == [0, *range(999 * PAGE, 0, -PAGE)]
    assert elements[-2:] == [SyncMark(), RamEnds(Phase.PART)]


def test_pages_on_main_are_elements() -> None:
    """A page and its block are read, by name and with CONTINUE."""
    first, second = bytes(range(256)) * 16, b"\x22" * PAGE
    elements = records(be(8, PAGE | 8) + str8(b"m") + first + be(8, 0x28) + second + be(8, 0x22) + b"\0" + EOS)
    assert elements[:2] == [PageRecord("m", PAGE, first), PageRecord("m", 0, second)]
    assert elements[2] == ("m", [0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (be(8, 2) + str8(b"n") + b"\0", "a block of the block list"),
        (be(8, 2) + str8(b"") + b"\0", "a block of the block list"),
        (ZERO_ROM + be(8, 2) + str8(b"n") + b"\0", "a block of the block list"),
        (be(8, 0x22) + b"\0", "a block's name"),
        (be(8, 0x28), "a block's name"),
        (be(8, PAGE | 2) + str8(b"rom") + b"\0", "an offset within block rom of 4096 bytes"),
        (be(8, 2**64 - PAGE | 2) + str8(b"rom") + b"\0", "an offset within block rom"),
        (be(8, PAGE | 8) + str8(b"rom"), "an offset within block rom"),
        (be(8, 2) + str8(b"rom") + b"\1", "fill value 0"),
        (ZERO_ROM + be(8, PAGE | 0x22) + b"\0", "an offset within block rom"),
        (ZERO_ROM + be(8, 2**63 | 0x22) + b"\0", "an offset within block rom"),
        (ZERO_ROM + be(8, 0x22) + b"\7", "fill value 0"),
        (be(8, 0x42), "no record of xbzrle"),
        (be(8, 0x80), "no record of rdma"),
        (be(8, 0x120), "no record of compress"),
        (be(8, 0), "one of ZERO"),
        (be(8, 0x400), "one of ZERO"),
        (be(8, 0x0A), "one of ZERO"),
        (be(8, 0x24), "one of ZERO"),
        (be(8, 0x30), "one of ZERO"),
        (be(8, PAGE | 0x10), "one of ZERO"),
        (be(8, PAGE | 0x200), "one of ZERO"),
        (be(8, 0x210), "one of ZERO"),
        (LIST, "one, in START"),
    ],
)
def test_records_that_are_refused(data: bytes, expected: str) -> None:
    """Each wrong flag, block, offset and fill value is refused, at the record's own offset."""
    begin = CONFIGURATION + START + PART
    error = refusal(begin + data)
    assert expected in error.expected
    whole = ZERO_ROM if data.startswith(ZERO_ROM) else b""
    assert error.where.startswith(f"main at {len(begin + whole)}: ")


def test_what_comes_before_an_error_is_given() -> None:
    """Records before a wrong one in the same run, and elements before it, come before the error."""
    reader = StreamReader()
    elements = reader.feed(CONFIGURATION + START + PART + ZERO_M + 3 * (be(8, 0x22) + b"\0") + be(8, 0x22) + b"\1")
    given: list[StreamElement] = []
    with pytest.raises(RemoteProtocolError) as caught:
        given.extend(elements)
    assert plain(given)[-2:] == [("m", [PAGE]), ("m", [0, 0, 0])]
    for again in (lambda: reader.feed(b""), reader.end):
        with pytest.raises(RemoteProtocolError) as twice:
            again()
        assert twice.value is caught.value


def test_pages_may_have_another_size() -> None:
    """Offsets and pages are those of the configuration's page size, and so are the bits of flags."""
    begin = CONFIGURATION + subsection(b"target-page-bits", be(4, 14))
    start = RAM + be(8, 1 << 15 | 4) + block(b"m", 1 << 15) + EOS + foot(2)
    page = bytes(1 << 14)
    assert records(be(8, 1 << 14 | 8) + str8(b"m") + page, begin + start) == [PageRecord("m", 1 << 14, page)]
    assert "one of ZERO" in refusal(begin + start + PART + be(8, PAGE | 2)).expected
    small = RAM + be(8, 1 << 15 | 4) + block(b"m", PAGE)
    assert "whole pages of 16384" in refusal(begin + small).expected


# -- the block list ----------------------------------------------------------------------------------------------------


def test_addresses_are_there_with_ignore_shared() -> None:
    """Blocks have an address if the configuration lists x-ignore-shared."""
    begin = CONFIGURATION + subsection(b"capabilities", be(4, 1) + str8(b"x-ignore-shared"))
    entries = block(b"m", 2 * PAGE) + be(8, 2**64 - 1) + block(b"rom", PAGE) + be(8, 0)
    elements = list(StreamReader().feed(begin + RAM + be(8, 3 * PAGE | 4) + entries + EOS))
    assert elements[2] == BlockList((RamBlock("m", 2 * PAGE, address=2**64 - 1), RamBlock("rom", PAGE, address=0)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (be(8, 4), "a total of 1.."),
        (be(8, QEMU_RAM_BYTES_MAX + PAGE | 4), "a total of 1.."),
        (be(8, 2 * PAGE | 4) + block(b"m", 3 * PAGE), "within the 8192 that are left"),
        (be(8, 2 * PAGE | 4) + block(b"m", 0), "whole pages"),
        (be(8, 2 * PAGE | 4) + block(b"m", PAGE + 1), "whole pages"),
        (be(8, 2 * PAGE | 4) + 2 * block(b"m", PAGE), "every name once"),
        (be(8, 2 * PAGE | 4) + block(b"", PAGE), "UTF-8"),
        (LIST + LIST, "one, in START"),
    ],
)
def test_block_lists_that_are_refused(data: bytes, expected: str) -> None:
    """Sum, lengths and names follow their rules, and there is one list."""
    assert expected in refusal(CONFIGURATION + RAM + data).expected


def test_blocks_are_bounded_in_number() -> None:
    """As many blocks as the bound says are read, and no more."""
    for count in (QEMU_RAM_BLOCKS_MAX, QEMU_RAM_BLOCKS_MAX + 1):
        entries = b"".join(block(b"%d" % number, PAGE) for number in range(count))
        reader = StreamReader()
        elements = reader.feed(CONFIGURATION + RAM + be(8, count * PAGE | 4) + entries + EOS)
        if count <= QEMU_RAM_BLOCKS_MAX:
            assert len(list(elements)) == 4
        else:
            with pytest.raises(RemoteProtocolError, match="at most 4096 blocks"):
                list(elements)


# -- mapped-ram files --------------------------------------------------------------------------------------------------

MIB = 1 << 20
MAPPED = CONFIGURATION + subsection(b"capabilities", be(4, 1) + str8(b"mapped-ram"))


def mapped(name: bytes, length: int, bitmap: int, pages: int, *, page_size: int = PAGE, version: int = 1) -> bytes:
    return block(name, length) + be(4, version) + be(8, page_size) + be(8, bitmap) + be(8, pages)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_holes_of_a_mapped_ram_file_are_skipped(size: int) -> None:
    """The reader says where to go on after each block, and what it is fed there it reads."""
    at = len(MAPPED + RAM) + 8 + len(mapped(b"m", 0, 0, 0))
    file = bytearray(5 * MIB)
    second = MIB + 2 * PAGE
    third = 2 * MIB + PAGE
    begin = MAPPED + RAM + be(8, 3 * PAGE | 4) + mapped(b"m", 2 * PAGE, at, MIB)
    file[: len(begin)] = begin
    entry = mapped(b"rom", PAGE, second + len(mapped(b"rom", 0, 0, 0)), 2 * MIB)
    file[second : second + len(entry)] = entry
    rest = EOS + foot(2) + RAM_END + TAIL
    file[third : third + len(rest)] = rest
    reader = StreamReader()
    elements: list[StreamElement] = []
    position = fed = 0
    while not reader.finished:
        piece = bytes(file[position : min(position + size, third + len(rest))])
        elements += reader.feed(piece)
        fed += len(piece)
        position = position + len(piece) if reader.continue_at is None else reader.continue_at
    reader.end()
    assert reader.offset == third + len(rest)
    assert elements[2] == BlockList(
        (
            RamBlock("m", 2 * PAGE, mapped=MappedRam(PAGE, at, MIB)),
            RamBlock("rom", PAGE, mapped=MappedRam(PAGE, second + len(entry), 2 * MIB)),
        )
    )
    assert elements[-1] == Description(b"{}")
    assert fed < 3 * size + 1000


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (mapped(b"m", PAGE, MIB, 2 * MIB, version=2), "version 1"),
        (mapped(b"m", PAGE, MIB, 2 * MIB, page_size=2 * PAGE), "pages of 4096"),
        (mapped(b"m", PAGE, 10, 2 * MIB), "or behind it"),
        (mapped(b"m", PAGE, MIB, MIB), "behind the bitmap's end at 1048584"),
        (mapped(b"m", PAGE, MIB, 2 * MIB + 1), "whole pages"),
        (mapped(b"m", PAGE, MIB, 2**63 - PAGE), "whole pages"),
    ],
)
def test_mapped_ram_headers_that_are_refused(entry: bytes, expected: str) -> None:
    """A block's bitmap and pages follow its header, so that a reader only ever goes forward."""
    assert expected in refusal(MAPPED + RAM + be(8, PAGE | 4) + entry).expected


def test_a_shared_block_has_no_place_in_a_mapped_ram_file() -> None:
    """With x-ignore-shared both offsets of a block that is not in the file are zero, and the next entry follows."""
    both = CONFIGURATION + subsection(b"capabilities", be(4, 2) + str8(b"mapped-ram") + str8(b"x-ignore-shared"))
    header = be(8, PAGE) + be(4, 1) + be(8, PAGE) + be(8, 0) + be(8, 0)  # the address comes first
    entry = block(b"m", PAGE) + header
    reader = StreamReader()
    elements = list(reader.feed(both + RAM + be(8, PAGE | 4) + entry + EOS))
    assert elements[2] == BlockList((RamBlock("m", PAGE, address=PAGE, mapped=MappedRam(PAGE, 0, 0)),))
    assert reader.continue_at is None
