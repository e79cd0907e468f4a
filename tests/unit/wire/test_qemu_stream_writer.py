"""The writer of QEMU's main stream: bytes by hand, what it remembers, what it refuses."""

import numpy as np
import pytest

from multifd.elements import (
    BlockList,
    Command,
    CommandNumber,
    Configuration,
    Description,
    EndOfState,
    MappedRam,
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
from multifd.errors import LocalProtocolError
from multifd.wire.qemu_serialize import place_mapped_block, serialize_mapped_block, serialize_total
from multifd.wire.qemu_stream import StreamWriter, serialize

RAM = SectionHeader(1, "ram", 0, 4)
BEGIN = RamBegins(Phase.PART, RAM)


def zeros(block: str, *offsets: int) -> ZeroRecords:
    return ZeroRecords(block, np.array(offsets, np.int64))


@pytest.mark.parametrize(
    ("element", "data"),
    [
        (Configuration("q"), b"QEVM\0\0\0\3\7\0\0\0\1q"),
        (
            Configuration("q", page_bits=14, capabilities=("a", "bc"), uuid=b"0123456789abcdef"),
            b"QEVM\0\0\0\3\7\0\0\0\1q"
            b"\5\x1econfiguration/target-page-bits\0\0\0\1\0\0\0\x0e"
            b"\5\x1aconfiguration/capabilities\0\0\0\1\0\0\0\2\1a\2bc"
            b"\5\x12configuration/uuid\0\0\0\x010123456789abcdef",
        ),
        (Command(CommandNumber.PING, b"\0\0\0\1"), b"\x08\0\2\0\4\0\0\0\1"),
        (
            Section(Phase.FULL, SectionHeader(7, "timer", 1, 2), b"body"),
            b"\4\0\0\0\7\5timer\0\0\0\1\0\0\0\2body\x7e\0\0\0\7",
        ),
        (Section(Phase.PART, SectionHeader(7, "vfio", 1, 2), b"body"), b"\2\0\0\0\7body\x7e\0\0\0\7"),
        (EndOfState(), b"\0"),
        (Description(b"{}"), b"\6\0\0\0\2{}"),
    ],
)
def test_elements_outside_ram(element: StreamElement, data: bytes) -> None:
    """Each kind of element has the bytes that the specification gives it."""
    assert serialize(element) == data


def test_records_of_ram() -> None:
    """Section headers, records with names and CONTINUE over sections, marks, and footers."""
    blocks = BlockList((RamBlock("m", 0x2000, address=5), RamBlock("n", 0x1000, page_size=0x200000, address=6)))
    page = bytes(range(256)) * 16
    assert serialize(
        RamBegins(Phase.START, RAM), blocks, SyncMark(), RamEnds(Phase.START),
        BEGIN, zeros("m", 0x1000, 0), zeros("m", 0x1000), zeros("n"), PageRecord("m", 0, page), RamEnds(Phase.PART),
        RamBegins(Phase.END, RAM), zeros("m", 0), PageRecord("n", 0, page), zeros("n", 0), RamEnds(Phase.END),
    ) == bytes.fromhex(
        "01 00000001 03 72616d 00000000 00000004"
        "0000000000003004 01 6d 0000000000002000 0000000000000005"
        "01 6e 0000000000001000 0000000000200000 0000000000000006"
        "0000000000000200 0000000000000010 7e 00000001"
        "02 00000001 0000000000001002 01 6d 00 0000000000000022 00 0000000000001022 00 0000000000000028"
    ) + page + bytes.fromhex(
        "0000000000000010 7e 00000001"
        "03 00000001 0000000000000022 00 0000000000000008 01 6e"
    ) + page + bytes.fromhex("0000000000000022 00 0000000000000010 7e 00000001")  # fmt: skip


@pytest.mark.parametrize(
    "elements",
    [
        (SyncMark(),),
        (zeros("m", 0),),
        (BlockList((RamBlock("m", 0x1000),)),),
        (RamEnds(Phase.PART),),
        (BEGIN, BEGIN),
        (BEGIN, EndOfState()),
        (BEGIN, Section(Phase.FULL, SectionHeader(7, "timer", 0, 1), b"")),
        (Section(Phase.FULL, SectionHeader(7, "", 0, 1), b""),),
        (Section(Phase.FULL, SectionHeader(7, "a\n", 0, 1), b""),),
        (Section(Phase.FULL, SectionHeader(7, 86 * "\u20ac", 0, 1), b""),),
        (Section(Phase.FULL, SectionHeader(7, "a\udc80", 0, 1), b""),),
        (Section(Phase.FULL, SectionHeader(1 << 24, "timer", 0, 1), b""),),
        (Section(Phase.FULL, SectionHeader(7, "timer", 1 << 32, 1), b""),),
        (Section(Phase.FULL, SectionHeader(7, "timer", 0, 1 << 24), b""),),
        (Section(Phase.FULL, SectionHeader(-1, "timer", 0, 1), b""),),
        (Section(Phase.PART, SectionHeader(1 << 24, "timer", 0, 1), b""),),
        (Command(CommandNumber.PING, bytes(65536)),),
        (Configuration("pc-\u00e9"),),
        (Configuration(""),),
        (Configuration(129 * "q"),),
        (Configuration("q", page_bits=9),),
        (Configuration("q", page_bits=1 << 32),),
        (Configuration("q", uuid=bytes(15)),),
        (BEGIN, BlockList((RamBlock("m", 0x1000, mapped=MappedRam(4096, 100, 200)),))),
        (BEGIN, PageRecord("m", -1, b"")),
    ],
)
def test_does_not_write_what_is_no_stream(elements: tuple[StreamElement, ...]) -> None:
    """RAM's records outside its sections, others within, and values that have no place are this side's error."""
    with pytest.raises(LocalProtocolError):
        serialize(*elements)


def test_a_refused_element_changes_nothing() -> None:
    """After an error the writer goes on where it was."""
    writer = StreamWriter()
    with pytest.raises(LocalProtocolError):
        writer.write(RamBegins(Phase.START, SectionHeader(1, "", 0, 4)))
    writer.write(BEGIN)
    with pytest.raises(LocalProtocolError):
        writer.write(zeros("", 0))
    assert writer.write(zeros("m", 0)) == b"\0\0\0\0\0\0\0\2\1m\0"


def test_places_in_a_mapped_ram_file() -> None:
    """A block's bitmap comes right behind its entry, its pages at the next multiple of 1 MiB."""
    blocks = [RamBlock("pc.ram", 16 << 20), RamBlock("/rom@etc/acpi/tables", 131072), RamBlock("odd", 4096)]
    begin = len(b"QEVM\0\0\0\3\7\0\0\0\x0bpc-q35-10.0\5\x1aconfiguration/capabilities\0\0\0\1\0\0\0\1\x0amapped-ram")
    at = begin + len(serialize(RamBegins(Phase.START, RAM))) + len(serialize_total(blocks))
    placed = []
    for block in blocks:
        placed.append(place_mapped_block(block, at, 4096))
        mapped = placed[-1].mapped
        assert mapped is not None
        assert at + len(serialize_mapped_block(placed[-1])) == mapped.bitmap_offset
        at = mapped.pages_offset + block.length
    assert [block.mapped for block in placed] == [
        MappedRam(4096, 139, 1 << 20),  # as QEMU 10.0 has them
        MappedRam(4096, 17825849, 18874368),
        MappedRam(4096, 18874368 + 131072 + 40, 19 << 20),
    ]
    assert serialize_mapped_block(placed[0]) == (
        b"\6pc.ram\0\0\0\0\1\0\0\0\0\0\0\1\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x8b\0\0\0\0\0\x10\0\0"
    )
    assert serialize_total(blocks) == (16777216 + 131072 + 4096 + 4).to_bytes(8, "big")


def test_a_block_without_place_is_not_written_into_a_file() -> None:
    """`serialize_mapped_block` needs a placed block."""
    with pytest.raises(LocalProtocolError):
        serialize_mapped_block(RamBlock("m", 4096))
