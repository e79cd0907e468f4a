"""Records of RAM sections on QEMU's main stream (proto/qemu.md section 4): flags, and the reader of one section's body.

Sources that are held back send sections by the ten thousand that hold nothing, and zero pages by the million: an empty
section costs a few microseconds, and runs of zero pages are parsed by numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Generator

import numpy as np

from multifd.elements import (
    BlockList,
    Configuration,
    MappedRam,
    Offsets,
    PageRecord,
    Phase,
    RamBlock,
    RamEnds,
    StreamElement,
    SyncMark,
    ZeroRecords,
)
from multifd.limits import QEMU_RAM_BLOCKS_MAX, QEMU_RAM_BYTES_MAX, QEMU_ZERO_RECORDS_MAX
from multifd.wire.qemu_incoming import Incoming

ZERO = 0x002
MEM_SIZE = 0x004
PAGE = 0x008
EOS = 0x010
CONTINUE = 0x020
FLUSH = 0x200
_REFUSED = {0x040: "xbzrle", 0x080: "rdma", 0x100: "compress"}
"""Flags of records that no stream with multifd has, with what to turn off at the source."""

WORD = struct.Struct(">Q")
ZERO_RECORD = np.dtype([("word", ">u8"), ("fill", "u1")])
"""A ZERO record with CONTINUE, nine bytes."""
MAPPED_VERSION = 1
PAGES_ALIGN = 1 << 20
"""Pages of a block in a mapped-ram file begin at a multiple of it."""

_ZERO_RECORDS_MIN = 32  # looked at in one go at first: what a run that ends at once may cost
_RAM_ENDS = {phase: RamEnds(phase) for phase in Phase}
_SYNC_MARK = SyncMark()


def bitmap_bytes(length: int, page_size: int) -> int:
    """Size of the bitmap of a block of `length` bytes in a mapped-ram file: a bit a page, in whole words of 64 bits."""
    return -(-length // (page_size * 64)) * 8


class RamReader:
    """Reads the bodies of RAM sections, from `incoming`. Knows the blocks once START has named them."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._blocks: dict[bytes, RamBlock] = {}
        self._current: RamBlock | None = None  # of the last ZERO or PAGE record, in whatever section
        self.set_configuration(Configuration(""))
        self.huge_pages = False
        """Set when the source may list blocks with a page size, which cannot be told from what follows."""

    def set_configuration(self, configuration: Configuration) -> None:
        """What decides the layout: the page size and two capabilities."""
        capabilities = configuration.capabilities or ()
        self._addresses = "x-ignore-shared" in capabilities
        self._mapped = "mapped-ram" in capabilities
        self._page_size = configuration.page_size
        self._flags = self._page_size - 1

    def records(self, phase: Phase) -> Generator[StreamElement | None, None, None]:
        """The elements of one body, to its `RamEnds`. Raises `RemoteProtocolError`."""
        incoming = self._incoming
        while True:
            if len(incoming.data) - incoming.at < WORD.size:
                yield from incoming.wait(WORD.size, "a RAM record, or EOS at the section's end")
            incoming.element = incoming.offset
            (word,) = WORD.unpack_from(incoming.data, incoming.at)
            if word == EOS:
                if not self._blocks:
                    raise incoming.refuse("ram record", "the block list before the end of START", "EOS")
                incoming.at += WORD.size
                yield _RAM_ENDS[phase]
                return
            if word == FLUSH:
                incoming.at += WORD.size
                yield _SYNC_MARK
                continue
            flags = word & self._flags
            if flags & ~CONTINUE in (ZERO, PAGE):
                yield (yield from self._page(flags, word - flags))
                if flags & ZERO:
                    yield from self._zero_run()
            elif flags == MEM_SIZE:
                incoming.at += WORD.size
                yield (yield from self._block_list(phase, word - flags))
            else:
                raise self._unknown(word, flags)

    def _unknown(self, word: int, flags: int) -> Exception:
        for flag, capability in _REFUSED.items():
            if flags & flag:
                expected = f"no record of {capability}, which does not go with multifd: turn it off at the source"
                return self._incoming.refuse("ram record", expected, hex(word))
        expected = "one of ZERO, MEM_SIZE, PAGE, EOS, MULTIFD_FLUSH, and CONTINUE with ZERO and PAGE alone"
        return self._incoming.refuse("ram record", expected, hex(word))

    # -- pages ---------------------------------------------------------------------------------------------------------

    def _zero_run(self) -> Generator[StreamElement, None, None]:
        """The ZERO records of the same block that follow one and have come. One that is wrong is left."""
        incoming, block = self._incoming, self._current
        assert block is not None
        window = _ZERO_RECORDS_MIN
        while count := min((len(incoming.data) - incoming.at) // ZERO_RECORD.itemsize, window):
            offsets = self._good_zeros(block, count)
            if not len(offsets):
                return
            incoming.at += len(offsets) * ZERO_RECORD.itemsize
            yield ZeroRecords(block.name, offsets)
            if len(offsets) < count:
                return
            window = min(2 * window, QEMU_ZERO_RECORDS_MAX)

    def _good_zeros(self, block: RamBlock, count: int) -> Offsets:
        """Offsets of the first of `count` records, up to one that is another record, or wrong."""
        records = np.frombuffer(self._incoming.data, ZERO_RECORD, count, self._incoming.at)
        words = records["word"].astype(np.int64)
        offsets: Offsets = words & ~self._flags
        good = (words & self._flags == ZERO | CONTINUE) & (records["fill"] == 0)
        good &= (offsets >= 0) & (offsets <= block.length - self._page_size)
        return offsets if good.all() else offsets[: int(good.argmin())].copy()

    def _page(self, flags: int, offset: int) -> Generator[None, None, StreamElement]:
        """A single ZERO or PAGE record, of which the word has been looked at."""
        incoming = self._incoming
        taken = WORD.size
        if not flags & CONTINUE:
            yield from incoming.wait(taken + 1, "the block of a RAM record")
            length = incoming.data[incoming.at + taken]
            yield from incoming.wait(taken + 1 + length, "the block of a RAM record")
            name = bytes(incoming.data[incoming.at + taken + 1 : incoming.at + taken + 1 + length])
            self._current = self._blocks.get(name)
            if self._current is None:
                raise incoming.refuse("ram record", "a block of the block list", name)
            taken += 1 + length
        block = self._current
        if block is None:
            raise incoming.refuse("ram record", "a block's name, as no record before it has one", "CONTINUE")
        if offset > block.length - self._page_size:
            expected = f"an offset within block {block.name} of {block.length} bytes"
            raise incoming.refuse("ram record", expected, hex(offset))
        size = self._page_size if flags & PAGE else 1
        yield from incoming.wait(taken + size, "the rest of a RAM record")
        incoming.at += taken
        content = yield from incoming.take(size, "the rest of a RAM record")
        if flags & PAGE:
            return PageRecord(block.name, offset, content)
        if content != b"\0":
            raise incoming.refuse("ram record", "fill value 0 in a ZERO record", content[0])
        return ZeroRecords(block.name, np.array([offset], np.int64))

    # -- the block list ------------------------------------------------------------------------------------------------

    def _block_list(self, phase: Phase, total: int) -> Generator[None, None, BlockList]:
        incoming = self._incoming
        if phase is not Phase.START or self._blocks:
            raise incoming.refuse("block list", "one, in START")
        if self.huge_pages:
            expected = "no block with huge pages while postcopy-ram is on: turn postcopy-ram off at the source"
            raise incoming.refuse("block list", expected)
        if not 0 < total <= QEMU_RAM_BYTES_MAX:
            raise incoming.refuse("block list", f"a total of 1..{QEMU_RAM_BYTES_MAX} bytes", total)
        left = total
        while left:
            incoming.element = incoming.offset
            if len(self._blocks) == QEMU_RAM_BLOCKS_MAX:
                raise incoming.refuse(
                    "block list", f"at most {QEMU_RAM_BLOCKS_MAX} blocks, with the total as their sum"
                )
            block = yield from self._block(left)
            raw = block.name.encode()
            if raw in self._blocks:
                raise incoming.refuse("block list", "every name once", block.name)
            self._blocks[raw] = block
            left -= block.length
        return BlockList(tuple(self._blocks.values()))

    def _block(self, left: int) -> Generator[None, None, RamBlock]:
        """One entry of the list; `left` is what is left of its total."""
        incoming = self._incoming
        name = yield from incoming.name("block list")
        length = yield from incoming.number(8, f"the length of block {name}")
        if not 0 < length <= left or length % self._page_size:
            expected = f"whole pages of {self._page_size} bytes, within the {left} that are left of the total"
            raise incoming.refuse(f"block list, length of {name}", expected, length)
        address = (yield from incoming.number(8, f"the address of block {name}")) if self._addresses else None
        mapped = (yield from self._mapped_header(name, length)) if self._mapped else None
        return RamBlock(name, length, address=address, mapped=mapped)

    def _mapped_header(self, name: str, length: int) -> Generator[None, None, MappedRam]:
        """Where a block lies in its file. Nothing of it is read: the reader goes on behind the block's pages."""
        incoming = self._incoming
        version = yield from incoming.number(4, f"the mapped-ram header of block {name}")
        page_size = yield from incoming.number(8, f"the mapped-ram header of block {name}")
        bitmap_offset = yield from incoming.number(8, f"the mapped-ram header of block {name}")
        pages_offset = yield from incoming.number(8, f"the mapped-ram header of block {name}")
        where = f"mapped-ram header of block {name}"
        if version != MAPPED_VERSION:
            raise incoming.refuse(where, f"version {MAPPED_VERSION}", version)
        if page_size != self._page_size:
            raise incoming.refuse(where, f"pages of {self._page_size} bytes", page_size)
        if self._addresses and bitmap_offset == pages_offset == 0:  # 11.1 with x-ignore-shared: it is not in the file
            return MappedRam(page_size, 0, 0)
        if bitmap_offset < incoming.offset:
            raise incoming.refuse(where, f"a bitmap at {incoming.offset} or behind it", bitmap_offset)
        bitmap_ends = bitmap_offset + bitmap_bytes(length, page_size)
        if pages_offset < bitmap_ends or pages_offset % page_size or pages_offset + length >= 1 << 63:
            raise incoming.refuse(where, f"whole pages behind the bitmap's end at {bitmap_ends}", pages_offset)
        incoming.jump(pages_offset + length)
        return MappedRam(page_size, bitmap_offset, pages_offset)
