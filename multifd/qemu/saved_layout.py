"""What stands where in the file of a saved machine, a mapped-ram migration file (proto/qemu.md section 13):

    configuration, early sections, START of RAM with the first block's entry and bitmap
    its pages, at a multiple of 1 MiB; then the next block's entry, bitmap and pages; and so on
    the rest of RAM, the other sections, the VM description

The places of pages are fixed before the first page comes; all else is written at the end. Does no I/O.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from multifd import elements as e
from multifd.errors import StorageError
from multifd.limits import QEMU_EARLY_BYTES
from multifd.wire.qemu_ram import bitmap_bytes
from multifd.wire.qemu_serialize import (
    StreamWriter,
    place_mapped_block,
    serialize,
    serialize_mapped_block,
    serialize_total,
)

MAPPED_RAM = "mapped-ram"
IGNORE_SHARED = "x-ignore-shared"
_BITMAP_PAGES = 1 << 22  # packed at a time: half a MiB of a bitmap


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """`blocks` have their places; `end` is where the rest of RAM goes on. `configuration` is the file's."""

    configuration: e.Configuration
    ram: e.SectionHeader
    blocks: tuple[e.RamBlock, ...]
    end: int


def plan(configuration: e.Configuration, ram: e.SectionHeader, blocks: Sequence[e.RamBlock]) -> Layout:
    """Where everything goes. Raises `StorageError` if the form has no room for such a machine."""
    if not blocks:
        raise StorageError("a machine that has no RAM can't be saved")
    for block in blocks:
        if block.page_size is not None:
            reason = f"block {block.name} has a page size of its own, which a mapped-ram file has no room for"
            raise StorageError(f"{reason}: turn postcopy-ram off at the source")
    # Without x-ignore-shared: QEMU 10.0 can't have it together with mapped-ram, and a block without any page is left as
    # it is by every version anyway, so that memory that was shared stays what it was.
    ours = dataclasses.replace(configuration, capabilities=(MAPPED_RAM,))
    at = len(serialize(ours, e.RamBegins(e.Phase.START, ram))) + len(serialize_total(blocks)) + QEMU_EARLY_BYTES
    placed = []
    for block in blocks:
        there = place_mapped_block(dataclasses.replace(block, address=None), at, configuration.page_size)
        placed.append(there)
        at = place(there).pages_offset + block.length
    return Layout(ours, ram, tuple(placed), at)


def place(block: e.RamBlock) -> e.MappedRam:
    """Where a block lies that has a place."""
    assert block.mapped is not None
    return block.mapped


def placed(layout: Layout, early: Sequence[e.Section]) -> Layout:
    """The layout once early sections are known: the first block's bitmap, which follows them, has its place.

    Raises `StorageError` if there is no room for them.
    """
    first, *others = layout.blocks
    there = place_mapped_block(first, len(_before(layout, early)), place(first).page_size)
    if place(there).pages_offset > place(first).pages_offset:
        raise StorageError(f"there is room for {QEMU_EARLY_BYTES} bytes of early sections, they have more")
    mapped = dataclasses.replace(place(there), pages_offset=place(first).pages_offset)
    return dataclasses.replace(layout, blocks=(dataclasses.replace(first, mapped=mapped), *others))


def head(layout: Layout, early: Sequence[e.Section]) -> Iterator[tuple[int, bytes]]:
    """What stands before the bitmap of each block of a layout in its final form: (offset, bytes)."""
    at, before = 0, _before(layout, early)
    for block in layout.blocks:
        yield at, before + serialize_mapped_block(block)
        at, before = place(block).pages_offset + block.length, b""


def _before(layout: Layout, early: Sequence[e.Section]) -> bytes:
    """What stands before the entry of the first block."""
    writer = StreamWriter()
    parts: list[e.StreamElement] = [layout.configuration, *early, e.RamBegins(e.Phase.START, layout.ram)]
    return b"".join(map(writer.write, parts)) + serialize_total(layout.blocks)


def frame(blocks: Sequence[e.RamBlock], length: int) -> Iterator[tuple[int, int]]:
    """The parts of a file of this length that are no pages, and no gaps before them: (offset, end) of each."""
    at = 0
    for block in blocks:
        mapped = place(block)
        if mapped.pages_offset:
            yield at, mapped.bitmap_offset + bitmap_bytes(block.length, mapped.page_size)
            at = mapped.pages_offset + block.length
    yield at, length


def bitmap(present: npt.NDArray[np.bool_]) -> Iterator[tuple[int, bytes]]:
    """A block's bitmap in pieces: (offset within it, bytes). Pieces without any page are left out."""
    for first in range(0, len(present), _BITMAP_PAGES):
        flags = present[first : first + _BITMAP_PAGES]
        if flags.any():
            yield first // 8, np.packbits(flags, bitorder="little").tobytes()


def tail(layout: Layout, state: e.MachineState) -> Iterator[bytes]:
    """What follows the pages of the last block, in pieces."""
    writer = StreamWriter()
    writer.write(e.RamBegins(e.Phase.START, layout.ram))
    parts: list[e.StreamElement] = [e.RamEnds(e.Phase.START)]
    parts += [e.RamBegins(e.Phase.PART, layout.ram), e.RamEnds(e.Phase.PART)]
    if state.switchover_start:
        parts.append(e.Command(e.CommandNumber.SWITCHOVER_START))
    parts += [e.RamBegins(e.Phase.END, layout.ram), e.RamEnds(e.Phase.END), *state.sections, e.EndOfState()]
    if state.description is not None:
        parts.append(e.Description(state.description))
    return map(writer.write, parts)
