"""Pages of a file, read into a buffer that serves again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd.errors import StorageError
from multifd.memory.file_pages import FilePages, OpenFile

PAGE = 4096
COUNT = 16
BEFORE = 1000
"""Bytes of the file that are none of the block's."""


def made(folder: Path) -> Path:
    """A file in which page n is full of n + 1."""
    path = folder / "file"
    path.write_bytes(b"\xff" * BEFORE + b"".join(bytes([number + 1]) * PAGE for number in range(COUNT)))
    return path


def opened(path: Path) -> FilePages:
    with path.open("rb") as file:
        return FilePages(OpenFile(file.fileno(), "vm1/vm"), BEFORE, COUNT * PAGE, page_size=PAGE)


@given(numbers=st.lists(st.integers(0, COUNT - 1), unique=True).map(sorted))
def test_pages_come_in_their_order(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    """Neighbours and lone ones, one after the other in the buffer; not a byte beyond them is touched."""
    pages = opened(made(tmp_path_factory.mktemp("pages")))
    buffer = memoryview(bytearray(COUNT * PAGE))
    read = pages.read(np.array(numbers, dtype=np.int64) * PAGE, buffer)
    assert bytes(read) == b"".join(bytes([number + 1]) * PAGE for number in numbers)
    assert not any(buffer[len(read) :])


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    """Not the end of the process, as it is where a file is mapped."""
    path = made(tmp_path)
    pages = opened(path)
    os.truncate(path, BEFORE + PAGE)
    buffer = memoryview(bytearray(2 * PAGE))
    assert pages.read(np.array([0]), buffer)[0] == 1
    with pytest.raises(StorageError, match=r"shrank.*vm1/vm"):
        pages.read(np.array([0, PAGE]), buffer)


def test_the_descriptor_lives_as_long_as_somebody_holds_it(tmp_path: Path) -> None:
    """Whoever opened the file may close it, and a worker that is late never reads another one."""
    pages = opened(made(tmp_path))
    file = pages._file
    del pages
    os.fstat(file.fd)
    number = file.fd
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
