"""Blocks to slots and back, as a source and a destination do it. For the tests beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from multifd.kinds.ram import RamFeed, RamKind, ZeroKind
from multifd.limits import KIB
from multifd.memory.block import Block, BufferBlock
from multifd.memory.software import SoftwareTracker
from multifd.slot import Slot, Work
from multifd.wire.extents import parse

PAGE = 4096


def ram(length: int, **options: Any) -> BufferBlock:
    """A block of bytes that are not zero, whose owner marks what it writes."""
    contents = np.arange(length, dtype=np.uint32).astype(np.uint8) | 1
    return BufferBlock("ram", contents, **{"tracker": "software"} | options)


def feed_of(*blocks: Block, slot_bytes: int = 512 * KIB, zero_detection: bool = True) -> RamFeed:
    return RamFeed(blocks, slot_bytes=slot_bytes, zero_detection=zero_detection)


def slots(feed: RamFeed, work: Iterable[Work]) -> list[Slot]:
    return [slot for item in work for slot in feed.expand(item)]


def sweep(feed: RamFeed, *, live: bool = True) -> list[Slot]:
    return slots(feed, feed.collect(live=live))


def extents_of(slots: Iterable[Slot], kind: str = "ram") -> list[list[int]]:
    """All extents, in order."""
    return [row for slot in slots if slot.kind == kind for row in parse(slot.meta, block_length=1 << 62).tolist()]


def deliver(slots: Iterable[Slot], blocks: list[Block]) -> None:
    """What a destination does with them."""
    kinds = {"ram": RamKind(blocks), "zero": ZeroKind(blocks)}
    for slot in slots:
        kind = kinds[slot.kind]
        payload = b"".join(slot.buffers)
        assert len(payload) == slot.length
        views = kind.place(slot.owner, slot.meta, slot.length)
        for view in views:
            view[:], payload = payload[: len(view)], payload[len(view) :]
        assert not payload
        kind.commit(slot.owner, slot.meta, views)


def mark(block: Block, offset: int, length: int) -> None:
    tracker = block.tracker
    assert isinstance(tracker, SoftwareTracker)
    tracker.mark(offset, length)
