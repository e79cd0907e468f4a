"""The kinds `ram` and `zero` (proto/native.md sections 3.1 and 3.2), and the feed that makes their slots from blocks.

Blocks are known by number, their place in INVENTORY from 1. A sweep is cut into items in the pool thread, and items
into slots in the channels' threads, without any Python for a page but the slice that goes to the socket; lone pages
are copied together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from multifd.errors import RemoteProtocolError
from multifd.limits import (
    EXTENTS_MAX,
    ITEM_BYTES,
    KIB,
    SLOT_BYTES_MAX,
    SLOT_BYTES_MIN,
    SLOT_EXTENTS,
    ZERO_ITEM_COST_BYTES,
)
from multifd.memory.block import Block
from multifd.memory.extents import Extents, Numbers, cut, empty, merge, pages, runs, total
from multifd.memory.tracker import StaticTracker
from multifd.memory.zero import Flags, Words, page_words, zero_pages, zero_rows
from multifd.slot import Feed, Slot, SlotKind, Work
from multifd.wire.extents import EXTENT_BYTES, pack, pack_one, parse, parse_one, unpack

RAM = "ram"
ZERO = "zero"

_SUBPAGE = 4 * KIB  # what is looked at for zeros in pages that are larger than a slot
_SCATTERED_BYTES = 6 * KIB
"""Extents that are smaller than this on average, lone pages mostly, are copied together: that costs less than to hash,
send and receive each as a buffer of its own. With two pages an extent it costs more (docs/BENCHMARKS.md).
"""


def _block(blocks: Sequence[Block], owner: int) -> Block:
    if not 1 <= owner <= len(blocks):
        raise RemoteProtocolError("slot owner", f"a block's number, 1..{len(blocks)}", owner)
    return blocks[owner - 1]


def _is_scattered(extents: Extents) -> bool:
    """Whether these, more than one, are small and whole pages."""
    count = len(extents)
    return (
        count > 1 and total(extents) < count * _SCATTERED_BYTES and not np.bitwise_or.reduce(extents, None) % _SUBPAGE
    )


class RamKind(SlotKind):
    """Extents of a block, received straight into it; lone pages come together and are put there when they are whole."""

    name = RAM

    def __init__(self, blocks: Sequence[Block]) -> None:
        """`blocks` in INVENTORY's order."""
        self._blocks = tuple(blocks)
        self._scratch = threading.local()

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        """*worker*: the blocks' own memory where they have any, but for pages that lie scattered."""
        block = _block(self._blocks, owner)
        if len(meta) == EXTENT_BYTES and block.memory is not None:
            offset, size = parse_one(meta, block_length=block.length)
            if size != length:
                raise RemoteProtocolError("slot length", f"that of its extent, {size}", length)
            return (block.memory[offset : offset + size],)
        extents = parse(meta, block_length=block.length)
        if total(extents) != length:
            raise RemoteProtocolError("slot length", f"the sum of its extents, {total(extents)}", length)
        memory = block.memory
        if memory is None:
            return [block.target(offset, size) for offset, size in extents.tolist()]
        if _is_scattered(extents):
            return (self._thread_scratch()[:length],)
        return [memory[offset : offset + size] for offset, size in extents.tolist()]

    def _thread_scratch(self) -> memoryview:
        """Memory of the channel's own: what is in it is committed before the next slot is placed."""
        scratch: memoryview | None = getattr(self._scratch, "memory", None)
        if scratch is None:
            scratch = self._scratch.memory = np.empty(SLOT_BYTES_MAX, dtype=np.uint8).data
        return scratch

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        """*worker*: nothing is left to do for memory, unless scattered pages came together; files are written."""
        block = _block(self._blocks, owner)
        if block.memory is not None:
            if len(buffers) == 1 and len(meta) > EXTENT_BYTES:  # more than one extent: `place` gave the scratch memory
                rows = page_words(block.memory, _SUBPAGE)
                rows[pages(unpack(meta), _SUBPAGE)] = page_words(buffers[0], _SUBPAGE)
        else:
            for (offset, _), view in zip(parse(meta, block_length=block.length).tolist(), buffers, strict=True):
                block.written(offset, view)


class ZeroKind(SlotKind):
    """Extents of a block that are zero."""

    name = ZERO

    def __init__(self, blocks: Sequence[Block]) -> None:
        """`blocks` in INVENTORY's order."""
        self._blocks = tuple(blocks)

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        """*worker*: there is no payload."""
        parse(meta, block_length=_block(self._blocks, owner).length)
        if length:
            raise RemoteProtocolError("slot length", "0 for zero extents", length)
        return ()

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        """*worker*: make them read as zero."""
        del buffers
        block = _block(self._blocks, owner)
        for offset, size in parse(meta, block_length=block.length).tolist():
            block.zero(offset, size)


@dataclass(frozen=True, slots=True)
class RamWork:
    """Part of a sweep, of one block: `ITEM_BYTES` of data at most, or `EXTENTS_MAX` extents known to be `zero`."""

    owner: int
    extents: Extents
    length: int
    live: bool
    zero: bool = False


class _Part:
    """What the feed knows of one block."""

    def __init__(self, owner: int, block: Block, slot_bytes: int, *, zero_detection: bool) -> None:
        self.owner = owner
        self.block = block
        self.static = isinstance(block.tracker, StaticTracker)
        # Whole pages to a slot; where a page does not fit into one, whole parts of it.
        self.unit = block.page_size if block.page_size <= slot_bytes else _SUBPAGE
        self.slot_bytes = slot_bytes // self.unit * self.unit
        self.item_bytes = ITEM_BYTES // self.unit * self.unit
        self.zero_detection = zero_detection
        memory = block.memory
        self.words: Words | None = page_words(memory, self.unit) if zero_detection and memory is not None else None
        self.marked: list[Extents] = []  # under the feed's lock

    def dirty(self, *, started: bool) -> int:
        """Bytes that a sweep would send, about."""
        if not started:
            return self.block.length
        return min(self.block.tracker.count() + sum(map(total, self.marked)), self.block.length)


class RamFeed(Feed):
    """Memory and files as slots: the first sweep is everything, later ones what the blocks' trackers saw written."""

    name = RAM
    kinds = (RAM, ZERO)
    weight = 4  # memory is nearly always most of the state

    def __init__(self, blocks: Sequence[Block], *, slot_bytes: int, zero_detection: bool) -> None:
        """`blocks` in INVENTORY's order, `slot_bytes` from 4 KiB to `SLOT_BYTES_MAX`. Raise `TrackingError` if one has
        no tracker of the sort asked for.
        """
        if not SLOT_BYTES_MIN <= slot_bytes <= SLOT_BYTES_MAX:
            raise ValueError(f"slots of {slot_bytes} bytes; {SLOT_BYTES_MIN} to {SLOT_BYTES_MAX} are possible")
        self._parts = [
            _Part(number, block, slot_bytes, zero_detection=zero_detection) for number, block in enumerate(blocks, 1)
        ]
        self._started = False
        self._lock = threading.Lock()

    def pending(self) -> int:
        """*pool*: dirty bytes; before the first sweep, all."""
        return sum(part.dirty(started=self._started) for part in self._parts)

    def describe(self) -> str:
        """*pool*: what is dirty, block by block."""
        sizes = [(part.block.name, part.dirty(started=self._started)) for part in self._parts]
        shown = ", ".join(f"{name} {in_words(size)}" for name, size in sizes if size)
        return f"{self.name}: {in_words(sum(size for _, size in sizes))} dirty" + (f" ({shown})" if shown else "")

    def mark_dirty(self, slot: Slot) -> None:
        """*loop*: have the slot's extents in the next sweep."""
        part = self._parts[slot.owner - 1]
        extents = parse(slot.meta, block_length=part.block.length)
        with self._lock:
            part.marked.append(extents)

    def collect(self, *, live: bool) -> Iterable[Work]:
        """*pool*: one sweep. The first starts the trackers; raise `TrackingError` if one can't."""
        first, self._started = not self._started, True
        try:
            sweep = [self._collect(part, first=first, live=live) for part in self._parts]
        except BaseException:
            self.close()
            raise
        return (work for items in sweep for work in items)

    def close(self) -> None:
        """*pool*: stop all trackers, so that the owner pays nothing for them any more, and let go of memory.
        Idempotent.
        """
        for part in self._parts:
            part.words = None
            part.block.tracker.stop()

    def _collect(self, part: _Part, *, first: bool, live: bool) -> Iterator[RamWork]:
        block, zero = part.block, empty()
        if first:
            block.tracker.start()
            data, zero = block.initial()
        else:
            data = block.tracker.collect()
        with self._lock:
            marked, part.marked = part.marked, []
        data = merge([data, *marked], page_size=block.page_size, length=block.length)
        return _items(part, data, zero, live=live and not part.static)

    def expand(self, work: Work) -> Iterator[Slot]:
        """*worker*: zero pages go into `zero` slots of their own. Raise `StorageError` if a file can't be read."""
        assert isinstance(work, RamWork)
        part = self._parts[work.owner - 1]
        if work.zero:
            yield from _zero_slots(work, work.extents)
        elif part.block.memory is None:
            yield from _copied(part, work)
        else:
            yield from _in_place(part, work, part.block.memory)


def _items(part: _Part, data: Extents, zero: Extents, *, live: bool) -> Iterator[RamWork]:
    pieces, bounds = cut(data, size=part.item_bytes, count_max=max(len(data), 1))
    lengths = np.add.reduceat(pieces[:, 1], bounds[:-1]).tolist() if len(pieces) else []

    def items() -> Iterator[RamWork]:
        for (begin, end), length in zip(pairwise(bounds), lengths, strict=True):
            yield RamWork(part.owner, pieces[begin:end], length, live)
        for begin in range(0, len(zero), EXTENTS_MAX):
            yield RamWork(part.owner, zero[begin : begin + EXTENTS_MAX], ZERO_ITEM_COST_BYTES, live, zero=True)

    return items()


def _in_place(part: _Part, work: RamWork, memory: memoryview) -> Iterator[Slot]:
    """Slots of the block's own memory: the item's zero pages are taken out first, so that the rest fills slots."""
    data, zero = work.extents, empty()
    if part.words is not None:
        numbers = pages(data, part.unit)
        whole = int(np.searchsorted(numbers, len(part.words)))  # a block's short last page is never looked at
        flags = _padded(zero_rows(part.words, numbers[:whole]), len(numbers))
        if flags.any():
            data, zero, _ = _split(part, numbers, flags)
    if len(data) == 1:
        yield from _dense(part, work, memory, *data[0].tolist())
    else:
        pieces, bounds = cut(data, size=part.slot_bytes, count_max=SLOT_EXTENTS)
        for begin, end in pairwise(bounds):
            piece = pieces[begin:end]
            yield Slot(RAM, work.owner, pack(piece), _contents(memory, piece), total(piece), work.live)
    yield from _zero_slots(work, zero)


def _contents(memory: memoryview, extents: Extents) -> Sequence[memoryview]:
    """The memory itself, or a copy of pages that lie scattered."""
    if _is_scattered(extents):
        return (page_words(memory, _SUBPAGE)[pages(extents, _SUBPAGE)].reshape(-1).view(np.uint8).data,)
    return [memory[offset : offset + size] for offset, size in extents.tolist()]


def _dense(part: _Part, work: RamWork, memory: memoryview, offset: int, size: int) -> Iterator[Slot]:
    """Slots of one extent: plain arithmetic, since this is what full-speed transfers consist of."""
    end = offset + size
    for at in range(offset, end, part.slot_bytes):
        length = min(part.slot_bytes, end - at)
        yield Slot(RAM, work.owner, pack_one(at, length), (memory[at : at + length],), length, work.live)


def _copied(part: _Part, work: RamWork) -> Iterator[Slot]:
    """Slots read from a block that has no memory: each has memory of its own, freed when the slot is settled."""
    zeros = [empty()]
    pieces, bounds = cut(work.extents, size=part.slot_bytes, count_max=SLOT_EXTENTS)
    for begin, end in pairwise(bounds):
        piece = pieces[begin:end]
        scratch = _read(part.block, piece)
        data, starts = piece, np.cumsum(piece[:, 1]) - piece[:, 1]
        if part.zero_detection:
            numbers = pages(piece, part.unit)
            flags = _padded(zero_pages(scratch, part.unit), len(numbers))
            if flags.any():
                data, zero, index = _split(part, numbers, flags)
                zeros.append(zero)
                starts = index * part.unit
        for at in range(0, len(data), EXTENTS_MAX):
            rows = data[at : at + EXTENTS_MAX]
            ends = starts[at : at + EXTENTS_MAX] + rows[:, 1]
            buffers = [scratch[a:b] for a, b in zip(starts[at : at + EXTENTS_MAX].tolist(), ends.tolist(), strict=True)]
            yield Slot(RAM, work.owner, pack(rows), buffers, total(rows), work.live)
    yield from _zero_slots(work, np.concatenate(zeros))


def _read(block: Block, extents: Extents) -> memoryview:
    scratch = np.empty(total(extents), dtype=np.uint8).data
    at = 0
    for offset, size in extents.tolist():
        block.read(offset, size, scratch[at : at + size])
        at += size
    return scratch


def _split(part: _Part, numbers: Numbers, flags: Flags) -> tuple[Extents, Extents, Numbers]:
    """(data, zero, place in `numbers` of each data extent's first page)."""
    kept = np.flatnonzero(~flags)
    data, first = runs(numbers[kept], page_size=part.unit, length=part.block.length)
    zero, _ = runs(numbers[flags], page_size=part.unit, length=part.block.length)
    return data, zero, kept[first]


def _padded(flags: Flags, length: int) -> Flags:
    """With False for a last page that was not looked at."""
    return flags if len(flags) == length else np.append(flags, False)


def _zero_slots(work: RamWork, extents: Extents) -> Iterator[Slot]:
    for at in range(0, len(extents), EXTENTS_MAX):
        piece = extents[at : at + EXTENTS_MAX]
        yield Slot(ZERO, work.owner, pack(piece), (), 0, work.live, covers=total(piece))


def in_words(size: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
