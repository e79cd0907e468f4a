"""The short way of packets of neighbouring pages: which headers are written, and which are found."""

from __future__ import annotations

import pytest

from multifd.errors import LocalProtocolError
from multifd.limits import MIB
from multifd.wire.qemu_packet import RunReader, RunWriter

PAGE = 4096


@pytest.mark.parametrize(
    ("where", "block", "offset", "length", "number"),
    [
        ("packet.pages", "m", 0, 0, 1),
        ("packet.pages", "m", 0, PAGE + 1, 1),
        ("packet.pages", "m", 0, 129 * PAGE, 1),
        ("packet.offsets", "m", 1, PAGE, 1),
        ("packet.offsets", "m", -PAGE, PAGE, 1),
        ("packet.offsets", "m", 2**63 - PAGE, 2 * PAGE, 1),
        ("packet.number", "m", 0, PAGE, 2**64),
        ("packet.number", "m", 0, PAGE, -1),
        ("packet.block", "m" * 256, 0, PAGE, 1),
    ],
)
def test_bad_runs_are_not_written(where: str, block: str, offset: int, length: int, number: int) -> None:
    """Whatever was written before them."""
    writer = RunWriter(PAGE)
    writer.serialize("m", PAGE, 2 * PAGE, number=1)
    with pytest.raises(LocalProtocolError) as caught:
        writer.serialize(block, offset, length, number=number)
    assert caught.value.where == where


@pytest.mark.parametrize("first", [0, 64 * MIB - PAGE, 64 * MIB, 2**40, 2**63 - 3 * PAGE])
def test_runs_are_found_wherever_they_lie(first: int) -> None:
    """Across the spans whose offsets are listed at once, and up to the last page that an offset can name."""
    runs = RunReader(PAGE)
    runs.header[:] = RunWriter(PAGE).serialize("m", first, 3 * PAGE, number=1)
    assert (runs.offset(), runs.block, runs.length) == (first, "m", 3 * PAGE)
    runs.header[-1021:-1020] = b"\1"  # of the second offset
    assert runs.offset() is None
