"""Files as memory to receive into: what goes where, and what a full disk does."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from multifd.errors import LocalProtocolError, StorageError
from multifd.limits import KIB, MIB
from multifd.memory import libc, reserved
from multifd.memory.reserved import ReservedFile, ReservedMap

PAGE = 4096
OFFSET, LENGTH = MIB, 4 * MIB
MADV_POPULATE_WRITE = 23

Make = Callable[[], tuple[ReservedFile, ReservedMap]]


@pytest.fixture(params=["disk", "memory"])
def fd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A file on a disk, or one in memory."""
    number = (
        os.memfd_create("multifd-test")
        if request.param == "memory"
        else os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    )
    yield number
    os.close(number)


@pytest.fixture
def make(fd: int) -> Make:
    """Makes the mapping, and a block in it."""

    def mapped() -> tuple[ReservedFile, ReservedMap]:
        file = ReservedFile(fd, OFFSET + LENGTH + 100)
        return file, ReservedMap(file, OFFSET, LENGTH, page_size=PAGE, name="m")

    return mapped


def offsets(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64) * PAGE


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def fill(views: Sequence[memoryview], data: bytes) -> None:
    """`data` over all views, in their order."""
    assert sum(map(len, views)) == len(data)
    for view in views:
        view[:], data = data[: len(view)], data[len(view) :]


class Calls:
    """Stands for fallocate and madvise: fails as it is told, else calls the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocate: list[int] = []
        self.populate: list[int] = []
        """Error numbers to come, 0 for success; the last one stays."""
        self.allocated = 0
        monkeypatch.setattr(reserved, "fallocate", self.fallocate)
        monkeypatch.setattr(reserved, "madvise", self.madvise)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._fail(self.allocate)
        self.allocated += 1
        libc.fallocate(fd, mode, offset, length)

    def madvise(self, address: int, length: int, advice: int) -> None:
        if advice == MADV_POPULATE_WRITE:
            self._fail(self.populate)
        libc.madvise(address, length, advice)

    @staticmethod
    def _fail(errors: list[int]) -> None:
        number = (errors.pop(0) if len(errors) > 1 else errors[0]) if errors else 0
        if number:
            raise OSError(number, os.strerror(number))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.mark.parametrize(
    ("numbers", "lengths"),
    [
        ([], []),
        ([5], [1]),
        ([0, 1, 2, 3], [4]),
        ([1023], [1]),
        (range(300, 900), [600]),
        ([0, 1, 3, 4, 5, 9], [2, 3, 1]),
        ([7, 6, 5], [1, 1, 1]),
        ([8, 9, 2, 3], [2, 2]),
        ([4, 4, 5], [1, 2]),
        ([0, 200, 400, 1023], [1, 1, 1, 1]),
        ([1, 0, 3, 2], [1, 1, 1, 1]),
    ],
)
def test_pages_are_placed_in_their_order_and_neighbours_joined(
    make: Make, fd: int, numbers: Sequence[int], lengths: list[int]
) -> None:
    """One view for each run of neighbours, in the order of the offsets; what is written there is in the file."""
    _, block = make()
    views = block.place(offsets(*numbers))
    assert [len(view) // PAGE for view in views] == lengths
    data = np.random.default_rng(1).bytes(len(numbers) * PAGE)
    fill(views, data)
    for index, number in reversed(list(enumerate(numbers))):  # of a page that came twice, the last counts
        if number not in numbers[index + 1 :]:
            assert os.pread(fd, PAGE, OFFSET + number * PAGE) == data[index * PAGE : (index + 1) * PAGE]
    assert np.flatnonzero(block.present).tolist() == sorted(set(numbers))
    assert block.touched == bool(numbers)


def test_zero_pages_are_told_and_not_written(make: Make, fd: int) -> None:
    """A page that becomes zero is not present any more; the file keeps what it had, and has nothing for one that never
    came.
    """
    _, block = make()
    fill(block.place(offsets(1, 2, 3)), b"x" * 3 * PAGE)
    block.zero(offsets(2, 700))
    assert np.flatnonzero(block.present).tolist() == [1, 3]
    assert os.pread(fd, 1, OFFSET + 2 * PAGE) == b"x"
    block.place(offsets(2))
    assert block.present[2]


def test_zero_alone_touches_a_block(make: Make) -> None:
    """A block of which only zero pages came has been heard of; one of which nothing came has not."""
    _, block = make()
    block.zero(offsets())
    assert not block.touched
    block.zero(offsets(1))
    assert block.touched


@pytest.mark.parametrize("numbers", [[1024], [-1], [1023, 1024], [0, 1024], [5, -1], [1 << 50]])
def test_no_call_reaches_beyond_the_block(make: Make, numbers: list[int]) -> None:
    """Offsets outside the block are our own mistake, and change nothing."""
    file, block = make()
    for call in (block.place, block.zero):
        with pytest.raises(LocalProtocolError, match="block m"):
            call(offsets(*numbers))
    with pytest.raises(LocalProtocolError, match="block m"):
        block.place_run(max(numbers) * PAGE, 1025 * PAGE)
    assert not block.present.any()
    assert not file.is_reserved(OFFSET, OFFSET + PAGE)


def test_storage_is_taken_in_steps(make: Make, fd: int) -> None:
    """A page takes at most the step around it; the rest of the file stays a hole."""
    file, block = make()
    block.place(offsets(200))
    assert file.is_reserved(OFFSET + 200 * PAGE, OFFSET + 201 * PAGE)
    assert not file.is_reserved(OFFSET + 200 * PAGE, OFFSET + 500 * PAGE)
    assert 0 < os.fstat(fd).st_blocks * 512 <= 2 * MIB + 64 * KIB


def test_storage_for_later(make: Make, fd: int, calls: Calls) -> None:
    """A range that is reserved ahead has its storage, and is not short of it afterwards; pages are placed as ever."""
    file, block = make()
    file.reserve_ahead(2 * MIB, file.length)
    assert os.fstat(fd).st_blocks * 512 >= file.length - 2 * MIB
    calls.allocate = [errno.ENOSPC]
    fill(block.place(offsets(300, 301)), b"z" * 2 * PAGE)
    assert os.pread(fd, 1, OFFSET + 300 * PAGE) == b"z"
    calls.populate = [errno.EFAULT]
    with pytest.raises(StorageError, match="No space left on device"):
        file.reserve_ahead(0, 2 * MIB)


def test_the_end_of_the_file_is_reserved_too(make: Make, fd: int) -> None:
    """The last step is short, and is no shorter than the file; its length does not change."""
    file, _ = make()
    file.reserve(OFFSET + LENGTH, OFFSET + LENGTH + 100)
    file.view[-1] = 7
    assert os.fstat(fd).st_size == OFFSET + LENGTH + 100
    assert os.pread(fd, 1, OFFSET + LENGTH + 99) == b"\x07"


def test_storage_that_holds_nothing_is_given_back(make: Make, fd: int) -> None:
    """Holes where no page is present, but for short runs; what is present stays."""
    _, block = make()
    fill(block.place(offsets(*range(1024))), b"y" * LENGTH)
    before = os.fstat(fd).st_blocks
    block.zero(offsets(*range(100, 1000), 5))
    block.punch_holes()
    assert before - os.fstat(fd).st_blocks >= 890 * PAGE // 512
    assert os.pread(fd, PAGE, OFFSET + 99 * PAGE) == b"y" * PAGE == os.pread(fd, PAGE, OFFSET + 1000 * PAGE)
    assert os.pread(fd, PAGE, OFFSET + 500 * PAGE) == bytes(PAGE)
    assert os.pread(fd, PAGE, OFFSET + 5 * PAGE) == b"y" * PAGE


def test_threads_place_at_the_same_time(make: Make, fd: int) -> None:
    """Four threads fill distinct pages, in an order of their own each: nothing is lost, and all are present."""
    _, block = make()
    numbers = np.random.default_rng(2).permutation(1024)
    failed: list[BaseException] = []

    def work(mine: Sequence[int]) -> None:
        try:
            for first in range(0, len(mine), 16):
                pages = mine[first : first + 16]
                fill(block.place(offsets(*pages)), b"".join(page.to_bytes(4, "big") * (PAGE // 4) for page in pages))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(numbers[part::4].tolist(),)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert block.present.all()
    found = np.frombuffer(os.pread(fd, LENGTH, OFFSET), dtype=">u4").reshape(1024, -1)
    assert (found == np.arange(1024)[:, np.newaxis]).all()


def test_a_full_disk_is_an_error_where_pages_are_placed(make: Make, calls: Calls) -> None:
    """No SIGBUS: neither where storage is allocated first, nor where populating finds that there is none."""
    calls.allocate, calls.populate = [errno.ENOSPC], [errno.EFAULT]
    _, block = make()
    for numbers in ([0], [0, 1, 2], [5, 3]):
        with pytest.raises(StorageError, match="No space left on device"):
            block.place(offsets(*numbers))
    assert not block.present.any()


def test_a_disk_that_has_room_again_takes_pages_again(make: Make, calls: Calls) -> None:
    """What failed is tried again by the next who needs it."""
    _, block = make()
    calls.allocate, calls.populate = [errno.ENOSPC, 0], [errno.EFAULT, 0]
    with pytest.raises(StorageError):
        block.place(offsets(0))
    fill(block.place(offsets(0)), b"z" * PAGE)
    assert block.present[0]


def test_room_found_in_between_is_used(make: Make, calls: Calls) -> None:
    """Populating fails for want of storage, and allocating then finds some: no error."""
    _, block = make()
    calls.populate = [errno.EFAULT, 0]
    fill(block.place(offsets(0)), b"z" * PAGE)
    assert calls.allocated


def test_a_kernel_that_cannot_populate(make: Make, calls: Calls) -> None:
    """Storage is allocated then, on tmpfs too, for every step."""
    _, block = make()
    calls.populate = [errno.EINVAL]
    fill(block.place(offsets(0)), b"z" * PAGE)
    fill(block.place(offsets(1000)), b"z" * PAGE)
    assert calls.allocated == 2
    calls.allocate = [errno.ENOSPC]
    with pytest.raises(StorageError):
        block.place(offsets(500))


def test_a_file_system_that_cannot_allocate(make: Make, calls: Calls) -> None:
    """Populating has to do; nobody asks to allocate twice."""
    file, block = make()
    calls.allocate = [errno.EOPNOTSUPP]
    file.reserve_ahead(0, file.length)
    for number in (0, 300, 1000):
        fill(block.place(offsets(number)), b"z" * PAGE)
    assert calls.allocated == 0


def test_populating_fails_for_another_reason(make: Make, calls: Calls) -> None:
    """A limit on memory is told as what it is."""
    _, block = make()
    calls.populate = [errno.ENOMEM]
    with pytest.raises(StorageError, match="Cannot allocate memory"):
        block.place(offsets(0))


@pytest.mark.parametrize("length", [1 << 62, 1 << 70])
def test_a_file_that_cannot_be_so_long(fd: int, length: int) -> None:
    """An error in words, and no descriptor is left open."""
    before = open_descriptors()
    with pytest.raises(StorageError, match=f"a file of {length} bytes"):
        ReservedFile(fd, length)
    assert open_descriptors() == before


def test_memory_stays_as_long_as_anybody_has_a_view(make: Make, fd: int) -> None:
    """A thread that is late places its page after the file was given up; then all is given back by itself."""
    before = open_descriptors()
    file, block = make()
    gone = weakref.ref(file)
    os.ftruncate(fd, OFFSET + LENGTH)
    del file
    [view] = block.place(offsets(3))
    view[:] = b"l" * PAGE
    assert os.pread(fd, 1, OFFSET + 3 * PAGE) == b"l"
    del block
    assert gone() is None
    assert view[0] == ord("l")
    del view
    assert open_descriptors() == before


def test_writeback_can_be_begun_at_any_time(make: Make) -> None:
    """Whether there is a disk behind the file or not, and whether anything is dirty or not."""
    file, block = make()
    file.begin_writeback()
    fill(block.place(offsets(0)), b"z" * PAGE)
    file.begin_writeback()
