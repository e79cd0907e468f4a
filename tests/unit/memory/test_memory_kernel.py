"""What the kernel's tracking sees and does not see, and how it fails: the facts of docs/guides/memory.md."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from multifd.errors import TrackingError
from multifd.memory import userfault
from multifd.memory.choose import kernel_fault
from multifd.memory.extents import total
from multifd.memory.flat import flat
from multifd.memory.kernel import KernelTracker, register
from multifd.memory.tracker import Tracker

FAULT = kernel_fault()
pytestmark = pytest.mark.skipif(FAULT is not None, reason=f"THE KERNEL CAN'T TRACK WRITES: {FAULT}")

PAGE = 4096
BYTES = 64 * PAGE
MADV_DONTNEED = 4
MAP_FIXED = 0x10
DEVICE = "/dev/userfaultfd"


def private(length: int = BYTES) -> mmap.mmap:
    return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def pages(tracker: Tracker) -> list[int]:
    """Numbers of the pages that it collects."""
    return [
        page for start, length in tracker.collect().tolist() for page in range(start // PAGE, (start + length) // PAGE)
    ]


@pytest.fixture
def memory_fd() -> Iterator[int]:
    """A memory file of `BYTES`."""
    fd = os.memfd_create("memory")
    os.ftruncate(fd, BYTES)
    yield fd
    os.close(fd)


def test_the_mode_says_what_memory_it_is(memory_fd: int) -> None:
    """Before it is started a tracker says so; then its mode names the mechanism and the sort of memory."""
    tracker = KernelTracker(private())
    assert tracker.mode == "kernel (not started)"
    tracker.start()
    assert tracker.mode.startswith("kernel (userfaultfd write-protect, anonymous")
    tracker.stop()
    tracker = KernelTracker(mmap.mmap(memory_fd, BYTES))
    tracker.start()
    assert tracker.mode.startswith("kernel (userfaultfd write-protect, memfd")
    tracker.stop()


def test_heap_memory_is_tracked() -> None:
    """A bytearray, which begins and ends anywhere, is tracked, for its neighbours' writes as well."""
    memory = bytearray(20 * PAGE + 77)
    tracker = KernelTracker(memory)
    tracker.start()
    tracker.collect()
    memory[10 * PAGE] = 1
    extents = tracker.collect()
    assert any(start <= 10 * PAGE < start + length for start, length in extents.tolist())
    assert int(extents[-1].sum()) <= len(memory)
    tracker.stop()


def test_writes_by_the_kernel_are_seen() -> None:
    """What a system call reads into the memory is seen: receiving into it is as good as writing to it."""
    memory = private()
    tracker = KernelTracker(memory)
    tracker.start()
    reader, writer = os.pipe()
    os.write(writer, b"x" * 100)
    assert os.readv(reader, [memoryview(memory)[3 * PAGE : 4 * PAGE]]) == 100
    assert pages(tracker) == [3]
    tracker.stop()
    os.close(reader)
    os.close(writer)


def test_writes_by_other_processes_are_seen() -> None:
    """What a debugger writes, through /proc/PID/mem, is seen."""
    memory = private()
    tracker = KernelTracker(memory)
    tracker.start()
    fd = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(fd, b"x", flat(memory).ctypes.data + 9 * PAGE)
    os.close(fd)
    assert pages(tracker) == [9]
    tracker.stop()


def test_file_mappings_are_tracked(tmp_path: Path) -> None:
    """A mapping of an ordinary file is tracked like any other memory."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * BYTES)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), BYTES)
    tracker = KernelTracker(memory)
    tracker.start()
    memory[7 * PAGE] = 1
    assert pages(tracker) == [7]
    memory.flush()
    assert pages(tracker) == []
    memory[7 * PAGE] = 2
    assert pages(tracker) == [7]
    assert str(path) in tracker.mode
    tracker.stop()


def test_memory_given_back_is_seen() -> None:
    """Pages that MADV_DONTNEED dropped read as zero, and are reported as written."""
    memory = private()
    memory[:] = b"x" * BYTES
    tracker = KernelTracker(memory)
    tracker.start()
    memory.madvise(MADV_DONTNEED, 5 * PAGE, 2 * PAGE)
    assert pages(tracker) == [5, 6]
    tracker.stop()


def test_reading_is_not_writing() -> None:
    """Pages that were only read, populated or not, are clean."""
    memory = private()
    memory[:PAGE] = b"x" * PAGE
    tracker = KernelTracker(memory)
    tracker.start()
    assert memory[5] + memory[30 * PAGE] == ord("x")
    assert pages(tracker) == []
    tracker.stop()


def test_another_mapping_is_not_seen(memory_fd: int) -> None:
    """Writes through another mapping of the same memory file, and by pwrite to it, are NOT seen."""
    memory, other = mmap.mmap(memory_fd, BYTES), mmap.mmap(memory_fd, BYTES)
    memory[:] = b"x" * BYTES
    tracker = KernelTracker(memory)
    tracker.start()
    other[3 * PAGE] = 1
    os.pwrite(memory_fd, b"y", 5 * PAGE)
    assert pages(tracker) == []
    assert memory[3 * PAGE] == 1
    tracker.stop()


def test_more_regions_than_one_call_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that do not fit into one call are fetched in several; neighbours across their border are one extent."""
    monkeypatch.setattr("multifd.memory.pagemap._REGIONS", 3)
    memory = private()
    tracker = KernelTracker(memory)
    tracker.start()
    for page in (1, 3, 5, 7, 9, 11, 12, 20):
        memory[page * PAGE] = 1
    assert tracker.collect().tolist() == [
        [page * PAGE, (2 if page == 11 else 1) * PAGE] for page in (1, 3, 5, 7, 9, 11, 20)
    ]
    tracker.stop()


def test_large_pages_of_a_block() -> None:
    """What is collected is rounded outward to the block's page size, and clipped to the block."""
    memory = private(64 * PAGE + 100)
    tracker = KernelTracker(memory, page_size=16 * PAGE)
    tracker.start()
    memory[20 * PAGE] = memory[64 * PAGE + 99] = 1
    assert tracker.collect().tolist() == [[16 * PAGE, 16 * PAGE], [64 * PAGE, 100]]
    tracker.stop()


def test_several_blocks_at_once() -> None:
    """Each tracker sees its own memory only."""
    first, second = private(), private()
    trackers = KernelTracker(first), KernelTracker(second)
    for tracker in trackers:
        tracker.start()
    first[PAGE] = 1
    second[2 * PAGE] = 1
    assert [pages(tracker) for tracker in trackers] == [[1], [2]]
    for tracker in trackers:
        tracker.stop()


def test_one_page_in_two_trackers_is_an_error() -> None:
    """The second tracker of the same page says that somebody tracks it, and what to pass instead."""
    memory = memoryview(private())
    first, second = KernelTracker(memory[:100]), KernelTracker(memory[200:300])
    first.start()
    with pytest.raises(TrackingError, match=r'tracked by somebody else.*tracker="software"'):
        second.start()
    first.stop()
    second.start()
    second.stop()


def test_collecting_without_a_start_is_an_error() -> None:
    """A tracker that is not started, or was stopped, does not say "nothing"."""
    tracker = KernelTracker(private())
    with pytest.raises(TrackingError, match="not started"):
        tracker.collect()
    tracker.start()
    tracker.stop()
    with pytest.raises(TrackingError, match="not started"):
        tracker.count()


def test_the_memory_is_given_back_as_it_was() -> None:
    """After `stop` the mapping can be registered by somebody else, and closed when nobody has views of it."""
    memory = private()
    tracker = KernelTracker(memory)
    tracker.start()
    tracker.stop()
    register(memory).close()
    del tracker
    memory.close()


def test_memory_that_is_not_registered_is_an_error() -> None:
    """Tracking memory of a process that did not register it fails at the start, in words."""
    view = flat(private())
    tracker = KernelTracker.of_process(os.getpid(), view.ctypes.data, BYTES, BYTES)
    with pytest.raises(TrackingError, match="not registered"):
        tracker.start()


def test_a_registration_can_be_used_by_a_tracker_of_this_process() -> None:
    """A registration and a tracker by address work together, and end together."""
    memory = private()
    registration = register(memory)
    tracker = KernelTracker.of_process(os.getpid(), registration.address, registration.length, BYTES - 100)
    tracker.start()
    assert f"of process {os.getpid()}" in tracker.mode
    memory[BYTES - 200] = 1
    assert tracker.collect().tolist() == [[BYTES - PAGE, PAGE - 100]]
    registration.close()
    with pytest.raises(TrackingError, match="not registered"):
        tracker.collect()
    tracker.stop()


@pytest.mark.parametrize("length", [0, BYTES + 1])
def test_a_block_must_fit_into_the_registration(length: int) -> None:
    """A block that is longer than the other process's memory, or empty, is refused at once."""
    with pytest.raises(ValueError, match="a block of"):
        KernelTracker.of_process(os.getpid(), 0, BYTES, length)


def test_a_process_that_does_not_exist_is_an_error() -> None:
    """Tracking a process that has ended before the start fails in words."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    with pytest.raises(TrackingError, match=f"process {ended.pid} does not exist"):
        KernelTracker.of_process(ended.pid, PAGE, BYTES, BYTES).start()


ENDS = """
import mmap, sys
from multifd.memory.kernel import register
memory = mmap.mmap(-1, 65536, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
registration = register(memory)
print(registration.address, flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_the_end_of_the_owner_is_an_error() -> None:
    """When the process whose memory is tracked ends, collecting says so."""
    owner = subprocess.Popen([sys.executable, "-c", ENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    tracker = KernelTracker.of_process(owner.pid, int(owner.stdout.readline()), 65536, 65536)
    tracker.start()
    assert tracker.count() == 0
    owner.communicate("\n")
    with pytest.raises(TrackingError, match="has ended"):
        tracker.collect()
    tracker.stop()


def test_memory_that_was_unmapped_is_an_error() -> None:
    """When the owner unmaps the memory or maps it anew, collecting says so instead of "nothing"."""
    memory = private()
    registration = register(memory)
    tracker = KernelTracker.of_process(os.getpid(), registration.address, registration.length, BYTES)
    tracker.start()
    registration.close()
    del registration
    memory.close()
    with pytest.raises(TrackingError, match=r"gone|not registered"):
        tracker.collect()
    tracker.stop()


def test_memory_that_was_mapped_anew_is_an_error() -> None:
    """When the owner puts other memory into the middle, which is not registered, collecting says so."""
    memory = private()
    tracker = KernelTracker(memory)
    tracker.start()
    address = flat(memory).ctypes.data + 10 * PAGE
    new = ctypes.CDLL(None).mmap
    new.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    placed = new(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), mmap.PROT_READ, flags, -1, ctypes.c_long(0))
    assert placed == address
    with pytest.raises(TrackingError, match="mapped anew"):
        tracker.collect()
    tracker.stop()


def test_a_kernel_without_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without userfaultfd, or with one that lacks a feature, the error says what is missing."""

    def refuse(_flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(userfault, "_DEVICE", "/dev/there is none")
    monkeypatch.setattr(userfault, "userfaultfd", refuse)
    with pytest.raises(TrackingError, match=r'Operation not permitted; pass tracker="software"'):
        KernelTracker(private()).start()
    monkeypatch.undo()
    monkeypatch.setattr(userfault, "_FEATURES", 1 << 63)
    with pytest.raises(TrackingError, match=r"needs Linux 6\.7"):
        KernelTracker(private()).start()


UNPRIVILEGED = """
import ctypes, mmap, os
from multifd.memory.kernel import KernelTracker
if os.geteuid() == 0:  # only now: another user may not be able to read this installation
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: a process that changed its user may not look into itself otherwise
memory = mmap.mmap(-1, 65536, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
tracker = KernelTracker(memory)
tracker.start()
memory[4096] = 1
reader, writer = os.pipe()
os.write(writer, b"x")
os.readv(reader, [memoryview(memory)[8192:12288]])
print(tracker.mode, tracker.collect().tolist(), tracker.count(), sep="|")
"""


@pytest.mark.slow
def test_it_works_without_privileges() -> None:
    """A user without rights gets the kernel's user mode, which tracks the same writes, the kernel's own among them."""
    command = subprocess.run([sys.executable, "-c", UNPRIVILEGED], check=True, capture_output=True, text=True)
    mode, extents, count = command.stdout.strip().split("|")
    granted = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text() == "1\n" or Path(DEVICE).stat().st_mode & 6
    assert ("user mode only" in mode) != bool(granted)
    assert (extents, count) == ("[[4096, 8192]]", "0")


def test_a_forked_child_is_not_seen() -> None:
    """What a forked child writes to shared memory is NOT seen; the parent's own writes still are."""
    memory = mmap.mmap(-1, BYTES)
    memory[:] = b"x" * BYTES
    tracker = KernelTracker(memory)
    tracker.start()
    libc = ctypes.PyDLL(None)
    child = libc.fork()  # os.fork warns where threads run
    if child == 0:
        memory[3 * PAGE] = 1
        libc._exit(0)
    os.waitpid(child, 0)
    memory[5 * PAGE] = 1
    assert memory[3 * PAGE] == 1
    assert pages(tracker) == [5]
    tracker.stop()


def test_huge_pages_are_split_on_the_first_write() -> None:
    """Memory on huge pages is tracked by 4 KiB pages all the same."""
    memory = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(14)
    np.frombuffer(memory, dtype=np.uint8)[:] = 1
    tracker = KernelTracker(memory)
    tracker.start()
    memory[3 * PAGE] = 2
    extents = tracker.collect()
    assert total(extents) == PAGE
    tracker.stop()
