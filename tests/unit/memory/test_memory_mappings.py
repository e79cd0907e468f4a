"""What /proc says about memory, in words."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from multifd.memory.flat import flat
from multifd.memory.mappings import huge_bytes, mapping_at


def at(memory: mmap.mmap) -> str:
    return mapping_at(flat(memory).ctypes.data)


def test_sorts_of_memory_have_names(tmp_path: Path) -> None:
    """Private, shared, memory files and files are told apart, whatever is in their names."""
    assert at(mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) == "anonymous"
    assert at(mmap.mmap(-1, 4096)) == "shared anonymous"
    fd = os.memfd_create("a name with spaces")
    os.ftruncate(fd, 4096)
    assert at(mmap.mmap(fd, 4096)) == "memfd"
    os.close(fd)
    path = tmp_path / "a file"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        assert at(mmap.mmap(file.fileno(), 4096)) == f"mapping of {path}"


def test_what_is_not_there_has_a_name() -> None:
    """Addresses that are not mapped, and processes that are not there, give a word and no error."""
    assert mapping_at(0) == "not mapped"
    assert mapping_at(4096, "0") == "unknown"


def test_huge_pages_of_a_range_are_counted() -> None:
    """Only the mappings that overlap the range count."""
    memory = mmap.mmap(-1, 6 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(14)
    view = flat(memory)
    view[:] = 1
    start = view.ctypes.data
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("THIS SYSTEM GIVES NO HUGE PAGES")
    assert huge_bytes(start, start + len(memory)) >= 4 << 20
    assert huge_bytes(0, 4096) == 0
