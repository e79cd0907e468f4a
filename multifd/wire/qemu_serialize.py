"""Elements of QEMU's main stream, to bytes (proto/qemu.md sections 2 to 4 and 13)."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from multifd.elements import (
    BlockList,
    Command,
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
from multifd.wire.qemu_configuration import serialize_configuration
from multifd.wire.qemu_incoming import serialize_name
from multifd.wire.qemu_ram import (
    CONTINUE,
    EOS,
    FLUSH,
    MAPPED_VERSION,
    MEM_SIZE,
    PAGE,
    PAGES_ALIGN,
    WORD,
    ZERO,
    ZERO_RECORD,
    bitmap_bytes,
)
from multifd.wire.qemu_sections import COMMAND, DESCRIPTION, END_OF_STATE, FOOTER, NUMBER_MAX

_TYPE_U32 = struct.Struct(">BI")
_TWO_U32 = struct.Struct(">II")
_TYPE_TWO_U16 = struct.Struct(">BHH")
_MAPPED = struct.Struct(">IQQQ")


def serialize(*elements: StreamElement) -> bytes:
    """The bytes of these elements. `StreamWriter` writes a stream that is not at hand at once.

    Raises `LocalProtocolError`: see `StreamWriter.write`.
    """
    writer = StreamWriter()
    return b"".join(map(writer.write, elements))


class StreamWriter:
    """Writes one stream. Remembers the RAM section that is open, and the block that a record named last."""

    def __init__(self) -> None:
        self._open: SectionHeader | None = None
        self._named: str | None = None
        self._write: dict[type, Callable[[Any], bytes]] = {
            Configuration: serialize_configuration,
            Command: _command,
            Section: _section,
            EndOfState: lambda _: bytes((END_OF_STATE,)),
            Description: lambda element: _TYPE_U32.pack(DESCRIPTION, len(element.text)) + element.text,
            RamBegins: self._ram_begins,
            BlockList: self._block_list,
            ZeroRecords: self._zero_records,
            PageRecord: self._page_record,
            SyncMark: lambda _: WORD.pack(FLUSH),
            RamEnds: self._ram_ends,
        }

    def write(self, element: StreamElement) -> bytes:
        """The element's bytes.

        Raises `LocalProtocolError` for a record of RAM outside a section of RAM, anything else within one, and values
        that the format has no room for. Nothing else is checked: the source's machine knows the order of things.
        """
        of_ram = isinstance(element, BlockList | ZeroRecords | PageRecord | SyncMark | RamEnds)
        if of_ram != (self._open is not None):
            where = type(element).__name__
            raise LocalProtocolError(where, "a section of RAM around it" if of_ram else "the end of the section of RAM")
        try:
            return self._write[type(element)](element)
        except (struct.error, OverflowError) as error:
            raise LocalProtocolError(type(element).__name__, "numbers that fit their fields", str(error)) from None

    def _ram_begins(self, element: RamBegins) -> bytes:
        head = _head(element.phase, element.section)
        self._open = element.section
        return head

    def _ram_ends(self, _element: RamEnds) -> bytes:
        assert self._open is not None
        number, self._open = self._open.number, None
        return WORD.pack(EOS) + _TYPE_U32.pack(FOOTER, number)

    def _block_list(self, element: BlockList) -> bytes:
        return serialize_total(element.blocks) + b"".join(map(_block, element.blocks))

    def _zero_records(self, element: ZeroRecords) -> bytes:
        """All of them by numpy, but for the first one's name."""
        if not len(element.offsets):
            return b""
        records = np.zeros(len(element.offsets), ZERO_RECORD)
        records["word"] = element.offsets | (ZERO | CONTINUE)
        if element.block == self._named:
            return records.tobytes()
        first = WORD.pack(int(element.offsets[0]) | ZERO) + self._name(element.block) + b"\0"
        return first + records[1:].tobytes()

    def _page_record(self, element: PageRecord) -> bytes:
        if element.block == self._named:
            return WORD.pack(element.offset | PAGE | CONTINUE) + element.data
        return WORD.pack(element.offset | PAGE) + self._name(element.block) + element.data

    def _name(self, block: str) -> bytes:
        raw = serialize_name(block)
        self._named = block
        return raw


# -- the block list, also of a mapped-ram file ------------------------------------------------------------------------


def serialize_total(blocks: Sequence[RamBlock]) -> bytes:
    """What the block list begins with. In a mapped-ram file `serialize_mapped_block` of each block follows."""
    return WORD.pack(sum(block.length for block in blocks) | MEM_SIZE)


def serialize_mapped_block(block: RamBlock) -> bytes:
    """The entry of `block`, placed by `place_mapped_block`, in a mapped-ram file. Its bitmap follows at once.

    Raises `LocalProtocolError` if it is not placed or its name is none.
    """
    mapped = block.mapped
    if mapped is None:
        raise LocalProtocolError(f"block {block.name}", "a place in the file")
    head = _block(dataclasses.replace(block, mapped=None))
    return head + _MAPPED.pack(MAPPED_VERSION, mapped.page_size, mapped.bitmap_offset, mapped.pages_offset)


def place_mapped_block(block: RamBlock, at: int, page_size: int) -> RamBlock:
    """`block` with its place in a mapped-ram file in which its entry begins at offset `at`.

    The next entry, or what follows the list, begins at its `pages_offset + length`. Raises `LocalProtocolError`.
    """
    bitmap_offset = at + len(_block(dataclasses.replace(block, mapped=None))) + _MAPPED.size
    pages_offset = bitmap_offset + bitmap_bytes(block.length, page_size)
    pages_offset = -(-pages_offset // PAGES_ALIGN) * PAGES_ALIGN
    return dataclasses.replace(block, mapped=MappedRam(page_size, bitmap_offset, pages_offset))


def _block(block: RamBlock) -> bytes:
    if block.mapped is not None:
        raise LocalProtocolError(f"block {block.name}", "no place in a file: blocks of a file are written one by one")
    numbers = [number for number in (block.length, block.page_size, block.address) if number is not None]
    return serialize_name(block.name) + b"".join(map(WORD.pack, numbers))


# -- sections and commands ---------------------------------------------------------------------------------------------


def _head(phase: Phase, header: SectionHeader) -> bytes:
    if not (0 <= header.number <= NUMBER_MAX and 0 <= header.version <= NUMBER_MAX):
        raise LocalProtocolError(f"section {header.name}", f"a number and a version of 0..{NUMBER_MAX}", header)
    head = _TYPE_U32.pack(phase, header.number)
    if phase in (Phase.PART, Phase.END):
        return head
    return head + serialize_name(header.name) + _TWO_U32.pack(header.instance, header.version)


def _section(element: Section) -> bytes:
    footer = _TYPE_U32.pack(FOOTER, element.header.number)
    return b"".join((_head(element.phase, element.header), element.body, footer))


def _command(element: Command) -> bytes:
    return _TYPE_TWO_U16.pack(COMMAND, element.number, len(element.payload)) + element.payload
