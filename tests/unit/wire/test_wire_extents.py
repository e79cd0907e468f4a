"""The meta of extents: what the specification allows is read, all else is the peer's fault (proto/native.md section
3.1).
"""

from __future__ import annotations

import numpy as np
import pytest

from multifd.errors import RemoteProtocolError
from multifd.limits import EXTENTS_MAX
from multifd.wire.extents import EXTENT_BYTES, pack, parse

LENGTH = 1 << 40


def meta(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def test_bytes_are_those_of_the_specification() -> None:
    """Each extent is two big-endian u64: offset and length."""
    extents = np.array([[4096, 8192], [0, 1]], dtype=np.int64)
    assert pack(extents) == meta(4096, 8192, 0, 1)
    assert parse(meta(4096, 8192, 0, 1), block_length=LENGTH).tolist() == extents.tolist()


def test_any_order_and_any_buffer_will_do() -> None:
    """Extents need not ascend, keep their order, may touch, and may be unaligned; a meta may be any sort of buffer."""
    data = meta(100, 50, 7, 93, 150, 1)
    for buffer in (data, bytearray(data), memoryview(data)):
        assert parse(buffer, block_length=151).tolist() == [[100, 50], [7, 93], [150, 1]]


def test_as_many_as_allowed() -> None:
    """`EXTENTS_MAX` extents are read."""
    data = meta(*(number for at in range(EXTENTS_MAX) for number in (2 * at, 1)))
    assert len(parse(data, block_length=LENGTH)) == EXTENTS_MAX


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "1..1000 extents, got 0"),
        (meta(0, 1)[:-1], "16 bytes an extent, got 15"),
        (meta(0, 1) + b"\0", "16 bytes an extent, got 17"),
        (meta(*range(2, 2 * EXTENTS_MAX + 4)), "1..1000 extents, got 1001"),
        (meta(5, 0), "no empty extent, got 'one at 5'"),
        (meta(0, 1, 5, 0), "no empty extent, got 'one at 5'"),
        (meta(LENGTH, 1), "within the block's"),
        (meta(0, LENGTH + 1), "within the block's"),
        (meta(LENGTH - 1, 2), "within the block's"),
        (meta(0, 1, LENGTH - 1, 2), "within the block's"),
        (meta(2**64 - 1, 1), "within the block's"),
        (meta(2**64 - 1, 2**64 - 1), "within the block's"),
        (meta(1, 2**64 - 1), "within the block's"),
        (meta(2**63, 2**63), "within the block's"),
        (meta(0, 10, 9, 1), "do not overlap, got 'two at 9'"),
        (meta(9, 1, 0, 10), "do not overlap, got 'two at 9'"),
        (meta(5, 1, 5, 1), "do not overlap"),
        (meta(0, 100, 50, 1, 200, 1), "do not overlap"),
    ],
)
def test_anything_else_is_the_peer_s_fault(data: bytes, expected: str) -> None:
    """Wrong lengths and counts, extents that are empty, beyond the block or overlap: a typed error that says which."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse(data, block_length=LENGTH)
    assert expected in str(caught.value)
    assert caught.value.where == "extents"


def test_an_empty_block_has_no_extents() -> None:
    """Nothing fits into a block without bytes."""
    with pytest.raises(RemoteProtocolError, match="within the block's 0 bytes"):
        parse(meta(0, 1), block_length=0)


def test_extent_bytes() -> None:
    """The constant is what one extent takes."""
    assert len(pack(np.array([[0, 1]]))) == EXTENT_BYTES
