"""Tests of `multifd.engine.source`, and of what it and `Destination` refuse to be made of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import pytest

import multifd
from multifd.slot import Work


class Records(multifd.SlotKind, multifd.Feed):
    """A feed and kind of a user's: it breaks after so many slots."""

    def __init__(self, name: str, kind: str, *, good: int = 1) -> None:
        self.name = name
        self.kinds = (kind,)
        self._kind = kind
        self._good = good

    def pending(self) -> int:
        return 1

    def collect(self, *, live: bool) -> Iterable[Work]:
        del live
        return self._slots()

    def _slots(self) -> Iterator[multifd.Slot]:
        for _ in range(self._good):
            yield multifd.Slot(self._kind, 1, b"", (b"x",), 1)
        raise RuntimeError("a record can't be read")

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        return (memoryview(bytearray(length)),)

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        """Nothing to keep."""


class Kind(Records):
    """The same under the kind's name, for a destination."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind, kind)


@pytest.mark.parametrize(
    ("feeds", "what"),
    [
        ([Records("a/b", "a/1"), Records("a/b", "a/2")], "feed named 'a/b'"),
        ([Records("a/b", "a/1"), Records("a/c", "a/1")], "kind named 'a/1'"),
        ([Records("a/b", "ram")], "kind named 'ram'"),
        ([Records("ram", "a/1")], "feed named 'ram'"),
    ],
)
def test_a_name_that_stands_twice_is_refused_at_a_source(feeds: list[Records], what: str) -> None:
    """One of the two would be lost without a word."""
    block = multifd.BufferBlock("memory", bytearray(1), tracker="none")
    with pytest.raises(ValueError, match=what):
        multifd.Source("tcp://127.0.0.1:1", blocks=[block], feeds=feeds)


def test_a_block_that_stands_twice_is_refused_at_a_source() -> None:
    """And a device likewise."""
    block = multifd.BufferBlock("memory", bytearray(1), tracker="none")
    with pytest.raises(ValueError, match="block named 'memory'"):
        multifd.Source("tcp://127.0.0.1:1", blocks=[block, block])
    device = multifd.EmulatedDevice("nic")
    with pytest.raises(ValueError, match="device named 'nic/0'"):
        multifd.Source("tcp://127.0.0.1:1", devices=[device, device])


async def test_a_name_that_stands_twice_is_refused_at_a_destination() -> None:
    """A user's kind can't take the place of a built-in one."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    with pytest.raises(ValueError, match="kind named 'zero'"):
        multifd.Destination(listener, kinds=[Kind("zero")])
    await listener.close()


@pytest.mark.parametrize("limit", [None, 40])
async def test_a_feed_that_breaks_fails_the_migration(limit: int | None) -> None:
    """Whoever draws from its iterator when it raises: a sweep that broke off must never pass for a whole one."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    destination = multifd.Destination(listener, kinds=[Kind("a/1")])
    options = multifd.SourceOptions(channels=1, bandwidth_limit=limit)
    source = multifd.Source(listener.address, feeds=[Records("a/b", "a/1", good=6)], options=options)
    received = asyncio.create_task(destination.run())
    with pytest.raises(multifd.MigrationFailedError, match="a record can't be read"):
        await source.run()
    with pytest.raises(multifd.MigrationFailedError):
        await received
    await listener.close()
