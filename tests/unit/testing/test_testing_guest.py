"""The guest's ROM has its settings where it looks for them, and what it prints is checked for gaps."""

from __future__ import annotations

import pytest

from multifd.testing.binaries import QemuError
from multifd.testing.guest import ROM_BYTES, SOURCE, TIMER_HZ, Guest, assembled, counts


def lines(*numbers: int) -> bytes:
    return b"".join(b"%08x\n" % number for number in numbers)


def test_settings_are_at_the_begin_of_the_rom() -> None:
    """Bytes to fill, bytes to dirty and the timer's divisor, little-endian; all else is as assembled."""
    rom = Guest(filled=0x123000, dirtied=0x4000, steps_per_s=1000).rom()
    divisor = (TIMER_HZ // 1000).to_bytes(4, "little")
    assert rom[:12] == bytes.fromhex("00301200 00400000") + divisor
    assert rom[12:] == assembled()[12:]
    assert len(rom) == ROM_BYTES
    assert Guest(steps_per_s=None).rom()[8:12] == bytes(4)


def test_the_processor_begins_in_the_rom() -> None:
    """Sixteen bytes before the end is a jump."""
    assert assembled()[-16] == 0xE9


@pytest.mark.parametrize("steps", [18, -5])
def test_a_timer_that_slow_is_refused(steps: int) -> None:
    """The divisor has sixteen bits."""
    with pytest.raises(QemuError, match="steps a second"):
        Guest(steps_per_s=steps).rom()


def test_a_missing_assembler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GNU as the error says which package has it."""
    monkeypatch.setenv("PATH", "")
    assembled.cache_clear()
    with pytest.raises(QemuError, match=r"GNU as .*binutils"):
        Guest().rom()
    assert SOURCE.exists()


@pytest.mark.parametrize(
    ("serial", "found"),
    [
        (b"", []),
        (b"0000", []),
        (lines(1, 2, 3), [1, 2, 3]),
        (lines(0x9F, 0xA0) + b"000000", [0x9F, 0xA0]),
    ],
)
def test_counts_without_gaps_are_read(serial: bytes, found: list[int]) -> None:
    """Whole lines are numbers; the last one, which may be half printed, is left out."""
    assert counts(serial) == found


@pytest.mark.parametrize(
    "serial",
    [lines(1, 3), lines(2, 2), lines(2, 1), lines(1) + b"000\n", lines(1) + b"\n", lines(1) + b"0000000X\n"],
    ids=["gap", "twice", "back", "torn", "empty", "other"],
)
def test_breaks_in_counts_are_found(serial: bytes) -> None:
    """A gap, a repetition and a torn line are errors that name the line."""
    with pytest.raises(QemuError, match="count breaks"):
        counts(serial)
