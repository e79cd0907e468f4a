"""The feed of RAM: what it makes of blocks, put into other blocks; nothing is lost, doubled or copied."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from ram_slots import PAGE, deliver, extents_of, feed_of, mark, ram, slots, sweep

from multifd.errors import StorageError, TrackingError
from multifd.kinds.ram import RamWork, in_words
from multifd.limits import EXTENTS_MAX, ITEM_BYTES, KIB, MIB, SLOT_BYTES_MAX, SLOT_EXTENTS
from multifd.memory.block import Block, BufferBlock
from multifd.memory.extents import Extents, empty, whole
from multifd.memory.file import FileBlock
from multifd.memory.tracker import StaticTracker, Tracker


@pytest.mark.parametrize("length", [0, 1, PAGE, 3 * PAGE + 7, ITEM_BYTES + 5])
def test_the_first_sweep_is_everything(length: int) -> None:
    """Each byte of a block is in one slot of the first sweep, and nothing is in the next."""
    source, target = ram(length), BufferBlock("ram", bytearray(length))
    feed = feed_of(source)
    first = sweep(feed)
    assert sum(slot.length for slot in first) == length
    deliver(first, [target])
    assert bytes(target.read(0, length, memoryview(b""))) == bytes(source.read(0, length, memoryview(b"")))
    assert sweep(feed) == []


def test_payload_is_not_copied() -> None:
    """The buffers of a slot are the block's memory itself."""
    contents = bytearray(b"x" * PAGE)
    (slot,) = sweep(feed_of(BufferBlock("ram", contents, tracker="none")))
    contents[5] = ord("y")
    assert bytes(slot.buffers[0][:6]) == b"xxxxxy"


def test_later_sweeps_are_what_was_written() -> None:
    """A later sweep has the pages that the tracker saw, each once."""
    block = ram(100 * PAGE + 10)
    feed = feed_of(block)
    sweep(feed)
    for page in (7, 3, 4, 100):
        mark(block, page * PAGE, 1)
    assert extents_of(sweep(feed)) == [[3 * PAGE, 2 * PAGE], [7 * PAGE, PAGE], [100 * PAGE, 10]]


def test_blocks_are_numbered_in_order() -> None:
    """The owner of a slot is its block's place, from 1."""
    feed = feed_of(ram(PAGE), ram(0), ram(PAGE))
    assert [slot.owner for slot in sweep(feed)] == [1, 3]


@pytest.mark.parametrize("slot_bytes", [PAGE, 5 * PAGE + 1, 512 * KIB, SLOT_BYTES_MAX])
def test_slots_are_no_larger_than_asked(slot_bytes: int) -> None:
    """Slots keep to the size asked for, fill it, and cut no page."""
    found = sweep(feed_of(ram(2 * ITEM_BYTES + 10), slot_bytes=slot_bytes))
    size = slot_bytes // PAGE * PAGE
    assert max(slot.length for slot in found) == size
    assert all(start % PAGE == 0 for start, _ in extents_of(found))
    assert sum(slot.length < size for slot in found) <= 3


def test_items_are_cut_for_the_scheduler() -> None:
    """A sweep comes in items of `ITEM_BYTES`, each of one block."""
    items = list(feed_of(ram(2 * ITEM_BYTES + 5), ram(10)).collect(live=True))
    assert [item.length for item in items] == [ITEM_BYTES, ITEM_BYTES, 5, 10]
    assert all(isinstance(item, RamWork) for item in items)


def test_single_pages_share_slots() -> None:
    """Lone pages are gathered, no more of them in a slot than a limit says, which the wire allows, and copied together:
    what a live owner writes afterwards is not in them.
    """
    block = ram(1200 * PAGE)
    feed = feed_of(block, slot_bytes=4 * MIB)
    sweep(feed)
    for page in range(0, 1200, 2):
        mark(block, page * PAGE, 1)
    found = sweep(feed)
    assert [slot.length // PAGE for slot in found] == [SLOT_EXTENTS, SLOT_EXTENTS, 600 - 2 * SLOT_EXTENTS]
    assert SLOT_EXTENTS <= EXTENTS_MAX
    assert extents_of(found) == [[page * PAGE, PAGE] for page in range(0, 1200, 2)]
    assert block.memory is not None
    before = bytes(block.memory)
    block.memory[:] = bytes(len(before))
    (copy,) = found[1].buffers
    pages = [before[offset : offset + PAGE] for offset, _ in extents_of(found[1:2])]
    assert bytes(copy) == b"".join(pages)


def test_pages_larger_than_a_slot_are_cut() -> None:
    """A page that does not fit into a slot travels in several, and its zero parts are found."""
    contents = np.ones(16 * MIB + 5, dtype=np.uint8)
    contents[9 * MIB : 10 * MIB] = 0
    source = BufferBlock("ram", contents, page_size=8 * MIB, tracker="software")
    feed = feed_of(source)
    sweep(feed)
    mark(source, 9 * MIB, 1)
    found = sweep(feed)
    assert max(slot.length for slot in found) == 512 * KIB
    assert extents_of(found, "zero") == [[9 * MIB, MIB]]
    assert sum(slot.length for slot in found) == 7 * MIB


@pytest.mark.parametrize("slot_bytes", [0, PAGE - 1, SLOT_BYTES_MAX + 1])
def test_impossible_slot_sizes_are_refused(slot_bytes: int) -> None:
    """Slots that the wire does not allow, or smaller than a page, can't be asked for."""
    with pytest.raises(ValueError, match="slots of"):
        feed_of(slot_bytes=slot_bytes)


@pytest.mark.parametrize("fd_backed", [False, True])
def test_zero_pages_travel_as_extents(fd_backed: bool, tmp_path: Path) -> None:
    """Zero pages are in a slot without payload; a short last page is data; the rest is in full slots."""
    contents = np.ones(40 * PAGE + 9, dtype=np.uint8)
    contents[5 * PAGE : 8 * PAGE] = 0
    contents[20 * PAGE : 21 * PAGE] = 0
    contents[39 * PAGE :] = 0
    if fd_backed:
        (tmp_path / "f").write_bytes(contents.tobytes())
    source = FileBlock.open_source("f", tmp_path / "f") if fd_backed else BufferBlock("b", contents, tracker="none")
    found = sweep(feed_of(source))
    zero = [slot for slot in found if slot.kind == "zero"]
    assert extents_of(zero, "zero") == [[5 * PAGE, 3 * PAGE], [20 * PAGE, PAGE], [39 * PAGE, PAGE]]
    assert [(slot.length, slot.covers, list(slot.buffers)) for slot in zero] == [(0, 5 * PAGE, [])]
    assert extents_of(found) == [[0, 5 * PAGE], [8 * PAGE, 12 * PAGE], [21 * PAGE, 18 * PAGE], [40 * PAGE, 9]]
    target = BufferBlock("t", bytearray(b"z" * len(contents)))
    deliver(found, [target])
    assert bytes(target.read(0, len(contents), memoryview(b""))) == contents.tobytes()
    source.close()


@pytest.mark.parametrize("value", [0, 1])
def test_zero_pages_are_data_if_nobody_looks(value: int) -> None:
    """Without zero detection all is data."""
    source = BufferBlock("b", np.full(10 * PAGE, value, dtype=np.uint8), tracker="none")
    (slot,) = sweep(feed_of(source, zero_detection=False))
    assert (slot.kind, slot.length) == ("ram", 10 * PAGE)


def test_all_zero_memory_is_one_slot_an_item() -> None:
    """Memory without contents costs a slot without payload for each item."""
    found = sweep(feed_of(BufferBlock("b", np.zeros(2 * ITEM_BYTES, dtype=np.uint8), tracker="none")))
    assert [(slot.kind, slot.covers) for slot in found] == [("zero", ITEM_BYTES)] * 2


@pytest.mark.parametrize("fd_backed", [False, True])
def test_extents_are_never_more_than_the_wire_allows(fd_backed: bool, tmp_path: Path) -> None:
    """The smallest pages, every other one zero, still keep to `EXTENTS_MAX`."""
    contents = np.ones(MIB * 2, dtype=np.uint8).reshape(-1, 512)
    contents[::2] = 0
    if fd_backed:
        (tmp_path / "f").write_bytes(contents.tobytes())
        source: Block = FileBlock.open_source("f", tmp_path / "f", page_size=512)
    else:
        source = BufferBlock("b", contents, tracker="none", page_size=512)
    found = sweep(feed_of(source, slot_bytes=SLOT_BYTES_MAX))
    assert all(1 <= len(slot.meta) // 16 <= EXTENTS_MAX and len(slot.buffers) <= EXTENTS_MAX for slot in found)
    target = BufferBlock("t", bytearray(b"z" * (2 * MIB)))
    deliver(found, [target])
    assert bytes(target.read(0, 2 * MIB, memoryview(b""))) == contents.tobytes()
    source.close()


@pytest.mark.parametrize(
    ("live", "tracker", "expected"), [(True, "software", True), (False, "software", False), (True, "none", False)]
)
def test_slots_are_live_while_somebody_writes(live: bool, tracker: str, expected: bool) -> None:
    """A slot is live if the sweep is and the block is not static."""
    contents = np.ones(10 * PAGE, dtype=np.uint8)
    contents[PAGE:] = 0
    feed = feed_of(BufferBlock("b", contents, tracker=tracker))  # type: ignore[arg-type]
    assert [(slot.kind, slot.live) for slot in sweep(feed, live=live)] == [("ram", expected), ("zero", expected)]


def test_what_did_not_arrive_is_sent_again() -> None:
    """The extents of slots marked dirty are in the next sweep, once, beside what was written, with their contents of
    then.
    """
    contents = np.ones(30 * PAGE + 3, dtype=np.uint8)
    contents[10 * PAGE : 12 * PAGE] = 0
    block = BufferBlock("b", contents, tracker="software")
    feed = feed_of(block, slot_bytes=10 * PAGE)
    found = sweep(feed)
    for slot in found[-2:]:
        feed.mark_dirty(slot)
    lost = [slot.kind for slot in found[-2:]]
    assert lost == ["ram", "zero"]
    mark(block, 22 * PAGE, 1)
    contents[10 * PAGE] = 1
    assert feed.pending() == found[-2].length + 2 * PAGE + PAGE
    again = sweep(feed)
    assert extents_of(again) == [[10 * PAGE, PAGE], [22 * PAGE, 8 * PAGE + 3]]
    assert extents_of(again, "zero") == [[11 * PAGE, PAGE]]
    assert feed.pending() == 0
    assert sweep(feed) == []


def test_marking_while_collecting_loses_nothing() -> None:
    """Slots that the loop marks while the pool collects are in that sweep or in the next."""
    block = ram(256 * PAGE)
    feed = feed_of(block, slot_bytes=PAGE, zero_detection=False)
    found = sweep(feed)

    def mark_all() -> None:
        for slot in found:
            feed.mark_dirty(slot)

    marker = threading.Thread(target=mark_all)
    marker.start()
    seen: list[list[int]] = []
    while marker.is_alive():
        seen += extents_of(sweep(feed))
    marker.join()
    seen += extents_of(sweep(feed))
    assert sorted(seen) == [[page * PAGE, PAGE] for page in range(256)]


def test_pending_and_its_words() -> None:
    """Before the first sweep all is dirty; then what was written, told block by block."""
    first, second = ram(2 * MIB), BufferBlock("vga", bytearray(PAGE), tracker="none")
    feed = feed_of(first, second)
    assert feed.pending() == 2 * MIB + PAGE
    assert feed.describe() == "ram: 2.0 MiB dirty (ram 2.0 MiB, vga 4.0 KiB)"
    sweep(feed)
    assert feed.pending() == 0
    assert feed.describe() == "ram: 0 bytes dirty"
    mark(first, 0, 1)
    assert feed.describe() == "ram: 4.0 KiB dirty (ram 4.0 KiB)"


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (5 << 50, "5120.0 TiB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    """Sizes are told in the largest unit that fits."""
    assert in_words(size) == words


class Calls(StaticTracker):
    """Notes what is called, and may fail."""

    def __init__(self, log: list[str], name: str, *, fails: bool = False) -> None:
        self.log, self.name, self.fails = log, name, fails

    def start(self) -> None:
        self.log.append(f"start {self.name}")
        if self.fails:
            raise TrackingError("no")

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")


def test_trackers_start_with_the_first_sweep_and_stop_with_the_feed() -> None:
    """Each is started once, before anything is read, and stopped by `close`."""
    log: list[str] = []
    blocks = [BufferBlock(name, bytearray(5), tracker=Calls(log, name)) for name in "ab"]
    feed = feed_of(*blocks)
    assert feed.pending() == 10
    assert log == []
    sweep(feed)
    sweep(feed)
    assert log == ["start a", "start b"]
    feed.close()
    assert log[2:] == ["stop a", "stop b"]


def test_a_closed_feed_holds_no_memory() -> None:
    """When feed and block are closed and no slot is left, the memory can be given back."""
    memory = mmap.mmap(-1, 10 * PAGE)
    block = BufferBlock("b", memory, tracker="none")
    feed = feed_of(block)
    assert len(sweep(feed)) == 1
    feed.close()
    block.close()
    memory.close()


def test_a_tracker_that_can_t_start_stops_the_others() -> None:
    """When one block can't be tracked, nothing keeps being tracked."""
    log: list[str] = []
    blocks = [BufferBlock(name, bytearray(5), tracker=Calls(log, name, fails=name == "b")) for name in "abc"]
    with pytest.raises(TrackingError):
        feed_of(*blocks).collect(live=True)
    assert log == ["start a", "start b", "stop a", "stop b", "stop c"]


def test_a_tracker_that_is_not_to_be_had_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel can't track, making the feed fails, before anything is connected."""
    monkeypatch.setattr("multifd.memory.choose.kernel_fault", lambda: "too old")
    with pytest.raises(TrackingError, match="too old"):
        feed_of(BufferBlock("b", bytearray(5)))


# -- files


def test_holes_are_told_and_not_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte is a few slots, its holes in extents of any length, and stays sparse at the
    destination.
    """
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"hello")
    source = FileBlock.open_source("f", path)
    found = sweep(feed_of(source))
    assert extents_of(found) == [[1 << 39, PAGE]]
    assert extents_of(found, "zero") == [[0, 1 << 39], [(1 << 39) + PAGE, (1 << 39) - PAGE]]
    target = FileBlock.create("f", tmp_path / "copy", 1 << 40)
    deliver(found, [target])
    assert os.pread(os.open(tmp_path / "copy", os.O_RDONLY), 6, 1 << 39) == b"hello\0"
    assert (tmp_path / "copy").stat().st_blocks * 512 <= MIB
    source.close()
    target.close()


def test_a_slot_of_a_file_stays_as_it_is(tmp_path: Path) -> None:
    """Slots read from files have memory of their own each: what is read later does not change what is under way."""
    path = tmp_path / "f"
    path.write_bytes(b"a" * PAGE + b"b" * PAGE)
    source = FileBlock.open_source("f", path)
    first, second = sweep(feed_of(source, slot_bytes=PAGE))
    assert (bytes(first.buffers[0]), bytes(second.buffers[0])) == (b"a" * PAGE, b"b" * PAGE)
    source.close()


def test_a_file_that_shrinks_fails_in_the_worker(tmp_path: Path) -> None:
    """What goes wrong with reading a file is raised where the slot is made."""
    path = tmp_path / "f"
    path.write_bytes(b"a" * PAGE)
    source = FileBlock.open_source("f", path)
    feed = feed_of(source)
    work = feed.collect(live=False)
    os.truncate(path, 0)
    with pytest.raises(StorageError, match="file shrank"):
        slots(feed, work)
    source.close()


class Generated(Block):
    """A block that is neither memory nor a file."""

    def __init__(self) -> None:
        super().__init__("generated", 10 * PAGE, PAGE)
        self._tracker = StaticTracker()

    @property
    def tracker(self) -> Tracker:
        return self._tracker

    def initial(self) -> tuple[Extents, Extents]:
        return whole(self.length), empty()

    def read(self, offset: int, length: int, scratch: memoryview) -> memoryview:
        scratch[:] = bytes([offset // PAGE]) * length
        return scratch

    def target(self, offset: int, length: int) -> memoryview:
        raise NotImplementedError

    def written(self, offset: int, view: memoryview) -> None:
        raise NotImplementedError

    def zero(self, offset: int, length: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_blocks_of_users_are_read_into_scratch() -> None:
    """Any block without memory of its own is read as files are."""
    found = sweep(feed_of(Generated(), slot_bytes=2 * PAGE))
    assert [slot.buffers[0][0] for slot in found if slot.kind == "ram"] == [2, 4, 6, 8]
    assert extents_of(found, "zero") == [[0, 2 * PAGE]]
