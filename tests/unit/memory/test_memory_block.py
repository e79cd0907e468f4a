"""BufferBlock: over any buffer, without a copy."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multifd.memory.block import BufferBlock
from multifd.memory.flat import flat
from multifd.memory.kernel import KernelTracker
from multifd.memory.software import SoftwareTracker
from multifd.memory.tracker import StaticTracker


def memory_file() -> mmap.mmap:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 10000)
    memory = mmap.mmap(fd, 10000)
    os.close(fd)
    return memory


BUFFERS: list[Callable[[], Any]] = [
    lambda: bytearray(10000),
    lambda: memoryview(bytearray(10001))[1:],
    lambda: mmap.mmap(-1, 10000),
    memory_file,
    lambda: np.zeros(10000, dtype=np.uint8),
    lambda: np.zeros((50, 25), dtype=np.float64),
    lambda: np.zeros(1250, dtype=">i8"),
    lambda: np.zeros(1250, dtype="datetime64[s]"),
    lambda: np.zeros(625, dtype=np.complex128),
    lambda: np.zeros(1000, dtype=[("a", "i8"), ("b", "u2")]),
]


@pytest.mark.parametrize("make", BUFFERS)
def test_any_buffer_is_a_block(make: Callable[[], Any]) -> None:
    """What is read is the buffer's own memory, and what is received is in it, without a copy."""
    buffer = make()
    block = BufferBlock("b", buffer, tracker="none")
    assert block.length == 10000
    view = block.target(100, 3)
    view[:] = b"abc"
    block.written(100, view)
    scratch = memoryview(bytearray(5))
    assert bytes(block.read(99, 5, scratch)) == b"\0abc\0"
    assert bytes(flat(buffer)[99:104]) == b"\0abc\0"
    assert bytes(scratch) == bytes(5)
    data, zero = block.initial()
    assert data.tolist() == [[0, 10000]]
    assert not len(zero)


def test_an_empty_buffer_is_a_block() -> None:
    """A block may have no bytes; it needs no tracking."""
    block = BufferBlock("b", bytearray())
    assert block.length == 0
    assert [len(part) for part in block.initial()] == [0, 0]
    assert isinstance(block.tracker, StaticTracker)
    block.zero(0, 0)


@pytest.mark.parametrize("page_size", [0, 256, 4097, 6144, 2 << 30])
def test_page_sizes_are_powers_of_two(page_size: int) -> None:
    """A page size that is none, or out of bounds, is refused."""
    with pytest.raises(ValueError, match="block b: a page size"):
        BufferBlock("b", bytearray(1), page_size=page_size)


@pytest.mark.parametrize("tracker", ["auto", "kernel", "software"])
def test_read_only_buffers_are_for_static_sources(tracker: Any) -> None:
    """A read-only buffer is refused unless the caller says that nobody writes."""
    with pytest.raises(ValueError, match="read-only"):
        BufferBlock("b", b"abc", tracker=tracker)
    assert bytes(BufferBlock("b", b"abc", tracker="none").read(1, 2, memoryview(b""))) == b"bc"
    assert BufferBlock("b", b"abc", tracker=StaticTracker()).length == 3


@pytest.mark.parametrize("buffer", [np.zeros((4, 4))[:, 1], np.zeros((4, 4)).T, memoryview(bytearray(8))[::2]])
def test_scattered_buffers_are_refused(buffer: Any) -> None:
    """A buffer whose bytes are not one range is refused, not copied."""
    with pytest.raises(ValueError, match="contiguous"):
        BufferBlock("b", buffer)


def test_python_objects_are_refused() -> None:
    """What is no buffer, or one of references, is refused."""
    with pytest.raises(TypeError):
        BufferBlock("b", [1, 2])
    with pytest.raises(TypeError, match="Python objects"):
        BufferBlock("b", np.array([None, 1]))


def test_the_tracker_is_chosen_when_it_is_looked_at() -> None:
    """A word is resolved once, on first use; an object is used as it is."""
    assert isinstance(BufferBlock("b", bytearray(5), tracker="none").tracker, StaticTracker)
    block = BufferBlock("b", bytearray(5), tracker="software", page_size=512)
    assert isinstance(block.tracker, SoftwareTracker)
    assert block.tracker is block.tracker
    tracker = SoftwareTracker(5)
    assert BufferBlock("b", bytearray(5), tracker=tracker).tracker is tracker


def test_a_destination_asks_nothing_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block whose tracker nobody looks at works where there is no kernel tracking."""
    monkeypatch.setattr("multifd.memory.choose.kernel_fault", lambda: pytest.fail("asked"))
    block = BufferBlock("b", bytearray(5))
    block.written(0, block.target(0, 5))
    block.zero(0, 5)
    block.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 700_001), (1, 700_000), (300_000, 5), (262_143, 2)])
def test_zero_clears_the_range_and_nothing_else(offset: int, length: int) -> None:
    """A range reads as zero afterwards, whatever it was; what is beside it stays."""
    buffer = bytearray(b"x" * 700_001)
    BufferBlock("b", buffer, tracker="none").zero(offset, length)
    assert buffer == b"x" * offset + bytes(length) + b"x" * (700_001 - offset - length)


def test_zero_populates_nothing() -> None:
    """Clearing memory that was never written takes no memory."""
    buffer = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    before = resident_bytes()
    BufferBlock("b", buffer, tracker="none").zero(0, 8 << 20)
    assert resident_bytes() - before < 4 << 20


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_closing_gives_the_buffer_back() -> None:
    """After `close`, which may be repeated, an mmap can be closed, and the tracker has stopped."""
    buffer = mmap.mmap(-1, 10000)
    block = BufferBlock("b", buffer, tracker="none")
    with pytest.raises(BufferError):
        buffer.close()
    block.close()
    block.close()
    buffer.close()


def test_closing_stops_the_tracker() -> None:
    """A tracker that the block has, also one that the user made, is stopped with it."""
    stopped = []

    class Watched(KernelTracker):
        def stop(self) -> None:
            stopped.append(self)

    buffer = bytearray(5)
    tracker = Watched(buffer)
    BufferBlock("b", buffer, tracker=tracker).close()
    assert stopped == [tracker]
