"""What a kind and a feed of a user's have without writing it themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from multifd.slot import Feed, Slot, SlotKind, Work


class LogKind(SlotKind):
    name = "acme/log"

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        return (memoryview(bytearray(length)),)

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None: ...


class LogFeed(Feed):
    name = "acme/log"
    kinds = ("acme/log",)

    def pending(self) -> int:
        return 42

    def collect(self, *, live: bool) -> Iterable[Work]:
        yield SLOT


SLOT = Slot("acme/log", 1, b"", (b"line",), 4)


def test_a_slot_does_not_change() -> None:
    """It is handed from thread to thread."""
    with pytest.raises(AttributeError):
        SLOT.length = 5  # type: ignore[misc]


def test_a_slot_is_work() -> None:
    """A feed whose work is slots has nothing to expand; what is counted is its payload."""
    feed = LogFeed()
    (work,) = feed.collect(live=True)
    assert work.length == 4
    assert list(feed.expand(work)) == [SLOT]


def test_a_feed_tells_what_is_dirty() -> None:
    """In its own name, with its own figure; its share is one, and giving back costs nothing."""
    feed = LogFeed()
    assert feed.describe() == "acme/log: 42 bytes dirty"
    assert feed.weight == 1
    feed.mark_dirty(SLOT)
    feed.close()


def test_a_kind_need_not_care_for_mismatches() -> None:
    """What did not match comes again; the default gives nothing back since nothing was taken."""
    kind = LogKind()
    kind.discard(1, b"", kind.place(1, b"", 4))


@pytest.mark.parametrize("base", [Feed, SlotKind])
def test_what_is_needed_must_be_written(base: type) -> None:
    """A half-written one can't be made."""
    with pytest.raises(TypeError, match="abstract"):
        base()
