"""Bytes of QEMU's main stream, put together by hand from proto/qemu.md, and what its reader makes of them."""

from collections.abc import Iterable

import pytest

from multifd.elements import RamBlock, SectionHeader, StreamElement, ZeroRecords
from multifd.errors import RemoteProtocolError
from multifd.wire.qemu_stream import StreamReader

PAGE = 4096


def be(count: int, value: int) -> bytes:
    return value.to_bytes(count, "big")


def str8(name: bytes) -> bytes:
    return be(1, len(name)) + name


def header(number: int, name: bytes, instance: int = 0, version: int = 1) -> bytes:
    return be(4, number) + str8(name) + be(4, instance) + be(4, version)


def block(name: bytes, length: int) -> bytes:
    return str8(name) + be(8, length)


def foot(number: int) -> bytes:
    return b"\x7e" + be(4, number)


def subsection(name: bytes, fields: bytes, version: int = 1) -> bytes:
    return b"\x05" + str8(b"configuration/" + name) + be(4, version) + fields


FILE = b"QEVM" + be(4, 3)
CONFIGURATION = FILE + b"\x07" + be(4, 8) + b"pc-q35-9"
EOS, FLUSH = be(8, 0x10), be(8, 0x200)
RAM = b"\x01" + header(2, b"ram", 0, 4)
LIST = be(8, 3 * PAGE | 4) + block(b"m", 2 * PAGE) + block(b"rom", PAGE)
START = RAM + LIST + EOS + foot(2)
PART, END = b"\x02" + be(4, 2), b"\x03" + be(4, 2)
RAM_END = END + EOS + foot(2)
DESCRIPTION = b"\x06" + be(4, 2) + b"{}"
TAIL = b"\0" + DESCRIPTION

RAM_HEADER = SectionHeader(2, "ram", 0, 4)
BLOCKS = (RamBlock("m", 2 * PAGE), RamBlock("rom", PAGE))


def plain(elements: Iterable[StreamElement]) -> list[object]:
    """Elements that can be compared: arrays as lists."""
    return [
        (element.block, element.offsets.tolist()) if isinstance(element, ZeroRecords) else element
        for element in elements
    ]


def read(data: bytes, *, description: bool = True) -> list[object]:
    """The elements of a stream that ends well."""
    reader = StreamReader(description=description)
    elements = plain(reader.feed(data))
    reader.end()
    assert reader.finished
    assert reader.offset == len(data)
    return elements


def refusal(data: bytes, *, description: bool = True) -> RemoteProtocolError:
    """The error in a stream that has one; reading it byte by byte finds the same."""
    errors = []
    for size in (len(data), 1):
        reader = StreamReader(description=description)
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        with pytest.raises(RemoteProtocolError) as caught:
            sum(len(list(reader.feed(piece))) for piece in pieces)
        errors.append(caught.value)
    assert errors[0].where == errors[1].where
    return errors[0]


def records(data: bytes, begin: bytes = CONFIGURATION + START) -> list[object]:
    """The elements of a PART with these records, the second one as well if it is there."""
    reader = StreamReader()
    list(reader.feed(begin))
    return plain(reader.feed(PART + data))[1:]
