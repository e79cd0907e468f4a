"""Every back-end of dirty tracking keeps the contract in tracker_contract.py."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracker_contract import BLOCK_BYTES, CHECKS, PAGE, Rig, check_no_write_is_lost

from multifd.memory.choose import kernel_fault
from multifd.memory.extents import Extents
from multifd.memory.flat import flat
from multifd.memory.kernel import KernelTracker
from multifd.memory.software import SoftwareTracker

FAULT = kernel_fault()
REGION_BYTES = 1 << 20
REGIONS = 32


class Writer:
    """A process that maps regions of a memory file, registers them, and writes to them as it is told."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("regions")
        os.ftruncate(self.fd, REGIONS * REGION_BYTES)
        script = Path(__file__).with_name("region_writer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self.fd],
        )
        self.regions = 0

    def ask(self, *words: object) -> list[int]:
        """Send one request and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        return [int(word) for word in self.process.stdout.readline().split()]

    def rig(self) -> Rig:
        """A rig over the next region."""
        region = self.regions
        self.regions += 1
        address, length = self.ask("map", region * REGION_BYTES, BLOCK_BYTES)
        ours = mmap.mmap(self.fd, BLOCK_BYTES, offset=region * REGION_BYTES)
        tracker = KernelTracker.of_process(self.process.pid, address, length, BLOCK_BYTES)

        def write(at: int, length: int, value: int) -> None:
            self.ask("write", region, at, length, value)

        return Rig(tracker, flat(ours), write)

    def close(self) -> None:
        """End it."""
        self.process.communicate()
        os.close(self.fd)


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    """One process for all rigs of this file: it takes a while to start."""
    if FAULT is not None:
        pytest.skip(f"THE KERNEL CAN'T TRACK WRITES: {FAULT}")
    writer = Writer()
    yield writer
    writer.close()


def kernel_rig(memory: mmap.mmap, offset: int = 0) -> Rig:
    """A rig for memory of this process."""
    if FAULT is not None:
        pytest.skip(f"THE KERNEL CAN'T TRACK WRITES: {FAULT}")
    view = flat(memory)[offset : offset + BLOCK_BYTES]

    def write(at: int, length: int, value: int) -> None:
        view[at : at + length] = value

    return Rig(KernelTracker(view), view, write, slack_pages=2 if offset % PAGE else 0)


def anonymous(_: pytest.FixtureRequest) -> Rig:
    """Private memory without a file."""
    return kernel_rig(mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def unaligned(_: pytest.FixtureRequest) -> Rig:
    """A block that begins in the middle of a page, as heap memory does."""
    return kernel_rig(mmap.mmap(-1, 2 * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), 3 * PAGE + 100)


def memory_file(_: pytest.FixtureRequest) -> Rig:
    """A shared mapping of a memory file."""
    fd = os.memfd_create("memory")
    os.ftruncate(fd, BLOCK_BYTES)
    memory = mmap.mmap(fd, BLOCK_BYTES)
    os.close(fd)
    return kernel_rig(memory)


def other_process(request: pytest.FixtureRequest) -> Rig:
    """Memory of another process, which has registered it."""
    writer: Writer = request.getfixturevalue("writer")
    return writer.rig()


def software(_: pytest.FixtureRequest) -> Rig:
    """An owner that marks what it writes."""
    return marking_rig(SoftwareTracker(BLOCK_BYTES))


def marking_rig(tracker: SoftwareTracker) -> Rig:
    """A rig whose writes are marked."""
    memory = flat(bytearray(BLOCK_BYTES))

    def write(at: int, length: int, value: int) -> None:
        memory[at : at + length] = value
        tracker.mark(at, length)

    return Rig(tracker, memory, write)


@pytest.fixture(params=[anonymous, unaligned, memory_file, other_process, software], ids=lambda make: make.__name__)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """One rig of each back-end."""
    rig = request.param(request)
    yield rig
    rig.tracker.stop()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(rig: Rig, check: Callable[[Rig], None]) -> None:
    """Every back-end keeps every clause of the contract."""
    check(rig)


class Lossy(SoftwareTracker):
    """Drops the first of what it saw."""

    def collect(self) -> Extents:
        return super().collect()[1:]


def test_the_contract_finds_a_tracker_that_loses_writes() -> None:
    """A tracker that drops some of what it saw does not pass."""
    with pytest.raises(AssertionError):
        check_no_write_is_lost(marking_rig(Lossy(BLOCK_BYTES)))
