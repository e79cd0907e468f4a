"""Populating changes no contents, says what it got, and never fails."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multifd.memory.flat import flat
from multifd.memory.libc import madvise
from multifd.memory.populate import allocate, populate

HUGE = 2 << 20


def resident(memory: Any) -> int:
    """Pages of it that are in memory, by mincore."""
    view = flat(memory)
    states = np.zeros(-(-view.size // 4096), dtype=np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    assert (
        libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.size), ctypes.c_void_p(states.ctypes.data))
        == 0
    )
    return int((states & 1).sum())


@pytest.mark.parametrize("length", [1, 4097, HUGE - 1, HUGE, 2 * HUGE + 5])
def test_allocated_memory_is_as_long_as_asked(length: int) -> None:
    """Any length can be had, all zero, and the memory is the process's own."""
    memory = allocate(length)
    assert len(memory) == length
    memory[length - 1] = 1
    assert memory[: length - 1] == bytes(length - 1)


def test_nothing_is_allocated_for_no_length() -> None:
    """There is no mapping of no bytes."""
    with pytest.raises(ValueError, match="length"):
        allocate(0)


def test_anonymous_memory_is_populated() -> None:
    """After it every page is there, on huge pages where the system gives them."""
    memory = allocate(3 * HUGE)
    memory[5] = 7
    assert resident(memory) < 3 * HUGE // 4096
    got = populate(memory)
    enabled = "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    assert got.startswith("huge pages, 2 MiB") if enabled else got == "4 KiB pages"
    assert resident(memory) == 3 * HUGE // 4096
    assert memory[:10] == b"\0\0\0\0\0\x07\0\0\0\0"


def test_memory_files_are_populated() -> None:
    """A shared mapping of a memory file is populated with its contents as they are."""
    fd = os.memfd_create("memory")
    os.write(fd, b"hello")
    os.ftruncate(fd, 100_000)
    memory = mmap.mmap(fd, 100_000)
    os.close(fd)
    assert populate(memory) == "4 KiB pages"
    assert resident(memory) == 25
    assert memory[:6] == b"hello\0"


def test_unaligned_memory_is_populated() -> None:
    """A buffer that begins and ends in the middle of pages is populated to its ends."""
    memory = mmap.mmap(-1, 20 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert populate(memoryview(memory)[4096 + 5 : 3 * 4096 + 7]) == "4 KiB pages"
    assert resident(memory) == 3


def test_all_of_a_large_buffer_is_populated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that takes several steps is populated to its end."""
    monkeypatch.setattr("multifd.memory.populate._STEP", 8192)
    memory = mmap.mmap(-1, 5 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert populate(memory) == "4 KiB pages"
    assert resident(memory) == 5


def test_what_can_t_be_populated_is_said() -> None:
    """Memory that can't be written to, nothing at all, and what is no buffer give a reason and no error."""
    readable = mmap.mmap(-1, 4096, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert populate(readable).startswith("not populated: ")
    assert populate(bytearray()) == "not populated: it is empty"
    assert populate(np.zeros((4, 4)).T).startswith("not populated: the array is not C-contiguous")
    assert populate(5).startswith("not populated: ")


def test_failed_calls_raise_what_the_system_said() -> None:
    """The C library's error becomes an OSError with its number and words."""
    with pytest.raises(OSError, match="Invalid argument"):
        madvise(1, 4096, 4)
