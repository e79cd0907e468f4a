"""The meta of `ram` and `zero` slots: extents of one block (proto/native.md sections 3.1 and 3.2). Knows no memory and
no block but its length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from multifd.errors import RemoteProtocolError
from multifd.limits import EXTENTS_MAX

Extents = npt.NDArray[np.int64]
"""Shape (n, 2), rows (offset, length) in bytes, in the payload's order."""

EXTENT_BYTES = 16
"""Of meta, for each extent."""
_WHERE = "extents"
_PAIR = np.dtype((">u8", 2))


def pack(extents: Extents) -> bytes:
    """The meta of a slot with these extents: 1 to `EXTENTS_MAX` rows, as `parse` would have them."""
    assert 0 < len(extents) <= EXTENTS_MAX
    return extents.astype(">u8").tobytes()


def pack_one(offset: int, length: int) -> bytes:
    """`pack` for one extent, which is what most slots have: numpy would take five times as long."""
    return offset.to_bytes(8) + length.to_bytes(8)


def parse_one(meta: bytes, *, block_length: int) -> tuple[int, int]:
    """`parse` for a meta of `EXTENT_BYTES`, one extent. Raise `RemoteProtocolError`."""
    offset, length = int.from_bytes(meta[:8]), int.from_bytes(meta[8:])
    if not length:
        raise RemoteProtocolError(_WHERE, "no empty extent", f"one at {offset}")
    if offset + length > block_length:
        raise RemoteProtocolError(_WHERE, f"extents within the block's {block_length} bytes", [offset, length])
    return offset, length


def parse(meta: bytes | bytearray | memoryview, *, block_length: int) -> Extents:
    """The extents of a slot, in its order. Raise `RemoteProtocolError` if one is empty, beyond the block or overlaps
    another, or there are none or too many.
    """
    count, rest = divmod(len(meta), EXTENT_BYTES)
    if rest:
        raise RemoteProtocolError(_WHERE, f"a meta of {EXTENT_BYTES} bytes an extent", len(meta))
    if not 1 <= count <= EXTENTS_MAX:
        raise RemoteProtocolError(_WHERE, f"1..{EXTENTS_MAX} extents", count)
    if count == 1:
        return np.array([parse_one(bytes(meta), block_length=block_length)], dtype=np.int64)
    rows = np.frombuffer(meta, dtype=_PAIR).astype(np.uint64)
    offsets, lengths = rows[:, 0], rows[:, 1]
    if not lengths.all():
        raise RemoteProtocolError(_WHERE, "no empty extent", f"one at {int(offsets[lengths == 0][0])}")
    limit = np.uint64(block_length)
    # Nothing wraps around: the length is compared with what is left behind an offset that is in the block.
    beyond = (offsets > limit) | (lengths > limit - np.minimum(offsets, limit))
    if beyond.any():
        raise RemoteProtocolError(_WHERE, f"extents within the block's {block_length} bytes", rows[beyond][0].tolist())
    extents = rows.astype(np.int64)
    _check_apart(extents)
    return extents


def unpack(meta: bytes) -> Extents:
    """The same of a meta that `parse` has accepted, without a look."""
    return np.frombuffer(meta, dtype=_PAIR).astype(np.int64)


def _check_apart(extents: Extents) -> None:
    starts = extents[:, 0]
    if (starts[1:] < starts[:-1]).any():
        extents = extents[np.argsort(starts, kind="stable")]
        starts = extents[:, 0]
    overlaps = starts[1:] < starts[:-1] + extents[:-1, 1]
    if overlaps.any():
        raise RemoteProtocolError(_WHERE, "extents that do not overlap", f"two at {int(starts[1:][overlaps][0])}")
