"""The meta of device chunks: what can't be written is not. The vectors hold the rest."""

import pytest

from multifd.device.interface import Phase
from multifd.errors import LocalProtocolError
from multifd.wire.chunk import CHUNK_META_BYTES, ChunkMeta


def test_every_phase_of_a_device_can_be_written() -> None:
    """The phases are the device interface's, and a meta of each is 24 bytes."""
    for phase in Phase:
        assert len(ChunkMeta(1, phase, last=True, index=0).pack()) == CHUNK_META_BYTES == 24
        assert ChunkMeta.parse(ChunkMeta(1, phase, last=True, index=0).pack()).phase == phase


def test_bounds_are_inclusive() -> None:
    """The highest epoch and index can be written and read."""
    chunk = ChunkMeta(2**32 - 1, 3, last=False, index=2**64 - 1)
    assert ChunkMeta.parse(chunk.pack()) == chunk


@pytest.mark.parametrize(
    ("chunk", "where"),
    [
        (ChunkMeta(0, 1, last=False, index=0), "device-chunk.epoch"),
        (ChunkMeta(2**32, 1, last=False, index=0), "device-chunk.epoch"),
        (ChunkMeta(1, 0, last=False, index=0), "device-chunk.phase"),
        (ChunkMeta(1, 4, last=False, index=0), "device-chunk.phase"),
        (ChunkMeta(1, 1, last=False, index=-1), "device-chunk.index"),
        (ChunkMeta(1, 1, last=False, index=2**64), "device-chunk.index"),
    ],
)
def test_does_not_write_what_it_would_refuse(chunk: ChunkMeta, where: str) -> None:
    """A number out of its bounds is this side's error, by its field."""
    with pytest.raises(LocalProtocolError) as caught:
        chunk.pack()
    assert caught.value.where == where
