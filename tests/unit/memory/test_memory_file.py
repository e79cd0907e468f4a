"""FileBlock: sparse sources and destinations, and what goes wrong with files."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from multifd.errors import StorageError
from multifd.memory import file as module
from multifd.memory.extents import total
from multifd.memory.file import FileBlock
from multifd.memory.libc import fallocate
from multifd.memory.software import SoftwareTracker
from multifd.memory.tracker import StaticTracker

PAGE = 4096
MIB = 1 << 20


def scratch(length: int) -> memoryview:
    return memoryview(bytearray(length))


def receive(block: FileBlock, offset: int, data: bytes) -> None:
    """As a destination does."""
    view = block.target(offset, len(data))
    view[:] = data
    block.written(offset, view)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file can be made."""
    return tmp_path / "file"


@pytest.fixture
def punched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Ranges that holes were punched into, in order."""
    ranges: list[tuple[int, int]] = []

    def punch(fd: int, mode: int, offset: int, length: int) -> None:
        ranges.append((offset, length))
        fallocate(fd, mode, offset, length)

    monkeypatch.setattr(module, "fallocate", punch)
    return ranges


# -- source


def test_a_source_is_read(path: Path) -> None:
    """Any range of a file can be read, into scratch; its length and its being static are told."""
    path.write_bytes(bytes(range(256)) * 40)
    block = FileBlock.open_source("f", path)
    view = block.read(100, 5000, scratch(5000))
    assert bytes(view) == path.read_bytes()[100:5100]
    assert block.length == 10240
    assert block.memory is None
    assert isinstance(block.tracker, StaticTracker)
    block.close()
    block.close()


def test_holes_of_a_source_are_not_data(path: Path) -> None:
    """Holes are told apart from data, rounded outward to pages, and both together are the whole file."""
    with path.open("wb") as file:
        file.truncate(8 * MIB + 100)
        file.seek(2 * MIB)
        file.write(b"x" * 10)
        file.seek(8 * MIB + 50)
        file.write(b"y")
    block = FileBlock.open_source("f", path, page_size=MIB)
    data, zero = block.initial()
    assert data.tolist() == [[2 * MIB, MIB], [8 * MIB, 100]]
    assert zero.tolist() == [[0, 2 * MIB], [3 * MIB, 5 * MIB]]
    block.close()


@pytest.mark.parametrize("length", [0, 1, PAGE, 3 * PAGE + 1])
def test_a_file_without_data_is_all_hole(path: Path, length: int) -> None:
    """A file that was only made long has no data, also where it ends in the middle of a page."""
    path.touch()
    os.truncate(path, length)
    block = FileBlock.open_source("f", path)
    data, zero = block.initial()
    assert not len(data)
    assert total(zero) == length
    block.close()


def test_a_file_system_that_knows_no_holes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be said about holes, all is data."""

    def refuse(_fd: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    path.write_bytes(b"abc")
    monkeypatch.setattr(os, "lseek", refuse)
    block = FileBlock.open_source("f", path)
    data, zero = block.initial()
    assert (data.tolist(), zero.tolist()) == ([[0, 3]], [])
    block.close()


def test_a_file_that_shrinks_is_an_error(path: Path) -> None:
    """A source that has become shorter than it was says so, with its name."""
    path.write_bytes(bytes(100))
    block = FileBlock.open_source("f", path)
    os.truncate(path, 50)
    assert len(block.read(0, 50, scratch(50))) == 50
    with pytest.raises(StorageError, match=f"file shrank while it was being sent: {path}"):
        block.read(40, 20, scratch(20))
    block.close()


def test_a_file_can_be_tracked_in_software(path: Path) -> None:
    """An owner that marks what it writes to a file can pass its tracker; closing stops it."""
    path.write_bytes(bytes(100))
    tracker = SoftwareTracker(100)
    block = FileBlock.open_source("f", path, tracker=tracker)
    assert block.tracker is tracker
    block.close()


def test_what_can_t_be_opened_is_an_error(path: Path) -> None:
    """A file that is not there, a directory, a FIFO and a device are refused with their names, without waiting for
    anybody.
    """
    with pytest.raises(StorageError, match=f"can't open {path}: No such file"):
        FileBlock.open_source("f", path)
    with pytest.raises(StorageError, match=f"{path.parent} is not a regular file"):
        FileBlock.open_source("f", path.parent)
    os.mkfifo(path)
    with pytest.raises(StorageError, match="is not a regular file"):
        FileBlock.open_source("f", path)
    with pytest.raises(StorageError, match="/dev/zero is not a regular file"):
        FileBlock.open_source("f", "/dev/zero")


# -- destination


def test_a_destination_is_written(path: Path) -> None:
    """What is received is in the file, and nothing else is."""
    block = FileBlock.create("f", path, 3 * PAGE + 5)
    receive(block, 3 * PAGE, b"hello")
    receive(block, 10, b"x" * 10)
    block.close()
    assert path.read_bytes() == bytes(10) + b"x" * 10 + bytes(3 * PAGE - 20) + b"hello"


def test_several_targets_are_live_at_once(path: Path) -> None:
    """Targets do not share memory; one that is not passed on leaves no trace."""
    block = FileBlock.create("f", path, 300)
    views = [block.target(at, 100) for at in (0, 100, 200)]
    for value, view in enumerate(views):
        view[:] = bytes([value + 1]) * 100
    block.written(200, views[2])
    block.written(0, views[0])
    block.close()
    assert path.read_bytes() == b"\1" * 100 + bytes(100) + b"\3" * 100


def test_a_new_file_needs_no_clearing(path: Path, punched: list[tuple[int, int]]) -> None:
    """Zeros where a new file was never written cost nothing, and it stays sparse."""
    block = FileBlock.create("f", path, 64 * MIB + 1)
    block.zero(0, 64 * MIB + 1)
    receive(block, 5 * MIB, b"x" * PAGE)
    block.zero(0, 5 * MIB)
    block.zero(6 * MIB, 58 * MIB + 1)
    assert punched == []
    assert path.stat().st_blocks * 512 < MIB
    block.zero(4 * MIB, 2 * MIB)
    assert punched == [(4 * MIB, 2 * MIB)]
    block.close()
    assert path.read_bytes() == bytes(64 * MIB + 1)


def test_zeros_replace_what_was_there(path: Path, punched: list[tuple[int, int]]) -> None:
    """A file that had contents is cleared where zeros are received, at any offset."""
    path.write_bytes(b"x" * (3 * PAGE))
    fd = os.open(path, os.O_RDWR)
    block = FileBlock.create("f", fd, 4 * PAGE)
    os.close(fd)
    block.zero(100, 2 * PAGE)
    assert punched == [(100, 2 * PAGE)]
    block.close()
    assert path.read_bytes() == b"x" * 100 + bytes(2 * PAGE) + b"x" * (PAGE - 100) + bytes(PAGE)


def test_zeros_are_written_where_holes_can_t_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without holes the zeros are written."""

    def refuse(_fd: int, _mode: int, _offset: int, _length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(module, "fallocate", refuse)
    path.write_bytes(b"x" * (3 * MIB))
    with path.open("r+b") as file:
        block = FileBlock("f", file.fileno())
    block.zero(5, 2 * MIB + 6)
    block.close()
    assert path.read_bytes() == b"x" * 5 + bytes(2 * MIB + 6) + b"x" * (MIB - 11)


def test_a_descriptor_is_shared_not_taken(path: Path) -> None:
    """The caller's descriptor stays open; a file already cut to size is a block of that size, and new."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 2 * MIB)
    block = FileBlock("f", fd)
    assert block.length == 2 * MIB
    receive(block, MIB, b"abc")
    block.close()
    assert os.pread(fd, 3, MIB) == b"abc"
    os.close(fd)


def test_existing_files_are_not_overwritten(path: Path) -> None:
    """Creating refuses a file, and a link, that is there already."""
    path.write_bytes(b"precious")
    with pytest.raises(StorageError, match=f"can't open {path}: File exists"):
        FileBlock.create("f", path, 5)
    link = path.with_name("link")
    link.symlink_to("nowhere")
    with pytest.raises(StorageError, match="File exists"):
        FileBlock.create("f", link, 5)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("length", [1 << 63, (1 << 63) - 1])
def test_impossible_lengths_are_refused(path: Path, length: int) -> None:
    """A length that no file can have is an error with the file's name."""
    with pytest.raises(StorageError, match=f"{path} can't have {length} bytes"):
        FileBlock.create("f", path, length)


def test_a_file_opened_for_reading_can_t_be_received_into(path: Path) -> None:
    """Writing to and clearing a descriptor that allows neither is an error with the file's name."""
    path.write_bytes(b"x" * PAGE)
    block = FileBlock.open_source("f", path)
    with pytest.raises(StorageError, match=f"can't write to {path}"):
        receive(block, 0, b"abc")
    with pytest.raises(StorageError, match=f"can't clear part of {path}"):
        block.zero(0, 10)
    block.close()


@pytest.fixture
def limited() -> Iterator[None]:
    """No file may grow beyond 1 MiB meanwhile. (Python ignores the signal that comes with it.)"""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_file_that_may_not_grow_is_an_error(path: Path, limited: None) -> None:
    """When a write is cut short by a limit, and the rest refused, the error names the file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    block = FileBlock("f", fd)
    with pytest.raises(StorageError, match=f"can't write to {path}: File too large"):
        receive(block, MIB - 10, b"x" * 20)
    assert path.stat().st_size == MIB
    block.close()
    os.close(fd)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("NO RIGHT TO MOUNT A SMALL FILE SYSTEM: a full disk is not tested")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_error(small_disk: Path) -> None:
    """When the disk is full the error says so and names the file; clearing what was written makes room again."""
    path = small_disk / "file"
    block = FileBlock.create("f", path, MIB)
    with pytest.raises(StorageError, match=f"can't write to {path}: No space left on device"):
        receive(block, 0, b"x" * 100_000)
    block.zero(0, MIB)
    receive(block, MIB - 50_000, b"y" * 50_000)
    block.close()
    assert path.read_bytes() == bytes(MIB - 50_000) + b"y" * 50_000
