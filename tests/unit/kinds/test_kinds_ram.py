"""The kinds `ram` and `zero`: where what arrives goes, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ram_slots import PAGE

from multifd.errors import RemoteProtocolError
from multifd.kinds.ram import RamFeed, RamKind, ZeroKind
from multifd.limits import EXTENTS_MAX, SLOT_EXTENTS
from multifd.memory.block import Block, BufferBlock
from multifd.memory.file import FileBlock
from multifd.wire.extents import pack


def blocks() -> Iterator[Block]:
    yield BufferBlock("a", bytearray(b"x" * 100))
    yield BufferBlock("b", bytearray(b"y" * (3 * PAGE)))


def meta(*pairs: tuple[int, int]) -> bytes:
    return pack(np.array(pairs, dtype=np.int64))


def test_payload_goes_straight_into_memory() -> None:
    """What `place` returns is the block's memory, piece by piece, in the meta's order."""
    buffer = bytearray(100)
    kind = RamKind([BufferBlock("a", buffer)])
    views = kind.place(1, meta((50, 2), (10, 3)), 5)
    views[0][:] = b"ab"
    views[1][:] = b"cde"
    kind.commit(1, meta((50, 2), (10, 3)), views)
    assert bytes(buffer[10:13] + buffer[50:52]) == b"cdeab"


def test_lone_pages_are_kept_when_whole() -> None:
    """Pages that lie scattered come together, and are in memory only once they are committed; what is discarded is not.
    The memory that they came into serves the next slot.
    """
    buffer = bytearray(8 * PAGE)
    kind = RamKind([BufferBlock("a", buffer)])
    pairs = (5 * PAGE, PAGE), (PAGE, PAGE), (7 * PAGE, PAGE)
    for commit, fill in ((False, b"x"), (True, b"y")):
        (view,) = kind.place(1, meta(*pairs), 3 * PAGE)
        view[:] = b"".join(bytes([fill[0] + n]) * PAGE for n in range(3))
        assert bytes(buffer) == bytes(8 * PAGE)
        (kind.commit if commit else kind.discard)(1, meta(*pairs), (view,))
    expected = bytearray(8 * PAGE)
    for n, (offset, _) in enumerate(pairs):
        expected[offset : offset + PAGE] = bytes([ord("y") + n]) * PAGE
    assert buffer == expected


@pytest.mark.parametrize(
    "pairs", [((0, 10), (20, 10)), ((PAGE, 8 * PAGE), (16 * PAGE, 8 * PAGE)), ((0, PAGE), (PAGE, 1))]
)
def test_other_extents_come_straight_into_memory(pairs: tuple[tuple[int, int], ...]) -> None:
    """What is no whole page, and what is larger than a page on average, has a view of its own each."""
    buffer = bytearray(24 * PAGE)
    kind = RamKind([BufferBlock("a", buffer)])
    views = kind.place(1, meta(*pairs), sum(size for _, size in pairs))
    assert [len(view) for view in views] == [size for _, size in pairs]
    views[1][:] = b"z" * len(views[1])
    assert buffer[pairs[1][0]] == ord("z")


def test_files_are_written_when_whole(tmp_path: Path) -> None:
    """A file has what was committed, and nothing of what was discarded."""
    block = FileBlock.create("f", tmp_path / "f", 100)
    kind = RamKind([block])
    for offset, commit in ((10, True), (50, False)):
        views = kind.place(1, meta((offset, 5), (offset + 10, 5)), 10)
        for view in views:
            view[:] = b"hello"
        (kind.commit if commit else kind.discard)(1, meta((offset, 5), (offset + 10, 5)), views)
    block.close()
    assert (tmp_path / "f").read_bytes() == bytes(10) + b"hello" + bytes(5) + b"hello" + bytes(75)


@pytest.mark.parametrize(
    ("owner", "pairs", "length"),
    [
        (0, [(0, 1)], 1),
        (3, [(0, 1)], 1),
        (2**32 - 1, [(0, 1)], 1),
        (1, [(0, 5)], 4),
        (1, [(0, 5), (10, 5)], 11),
        (1, [(99, 2)], 2),
        (1, [(0, 0)], 0),
    ],
)
def test_ram_slots_that_fit_no_block_are_the_peer_s_fault(
    owner: int, pairs: list[tuple[int, int]], length: int
) -> None:
    """An unknown block, a length that is not the sum, and extents that the meta's rules forbid are refused."""
    with pytest.raises(RemoteProtocolError):
        RamKind(list(blocks())).place(owner, meta(*pairs), length)


@pytest.mark.parametrize(
    ("owner", "pairs", "length"), [(0, [(0, 1)], 0), (3, [(0, 1)], 0), (1, [(0, 5)], 5), (1, [(99, 2)], 0)]
)
def test_zero_slots_that_fit_no_block_are_the_peer_s_fault(
    owner: int, pairs: list[tuple[int, int]], length: int
) -> None:
    """An unknown block, a length, and extents beyond the block are refused."""
    with pytest.raises(RemoteProtocolError):
        ZeroKind(list(blocks())).place(owner, meta(*pairs), length)


def test_zero_slots_clear() -> None:
    """The extents of a zero slot read as zero, and nothing else changes."""
    targets = list(blocks())
    kind = ZeroKind(targets)
    assert kind.place(2, meta((PAGE, PAGE), (0, 5)), 0) == ()
    kind.commit(2, meta((PAGE, PAGE), (0, 5)), ())
    expected = bytes(5) + b"y" * (PAGE - 5) + bytes(PAGE) + b"y" * PAGE
    assert bytes(targets[1].read(0, 3 * PAGE, memoryview(b""))) == expected
    assert bytes(targets[0].read(0, 100, memoryview(b""))) == b"x" * 100


def test_names_are_those_of_the_specification() -> None:
    """The feed's kinds are the two of proto/native.md, and its slots have room in a sendmsg."""
    assert RamFeed.kinds == (RamKind.name, ZeroKind.name) == ("ram", "zero")
    assert SLOT_EXTENTS <= EXTENTS_MAX
