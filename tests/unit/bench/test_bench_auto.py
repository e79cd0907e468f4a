"""The simulation of channels and a link does the arithmetic that it is for, and auto is within a tenth of the best."""

from __future__ import annotations

import pytest

from bench import auto, memory_kinds
from bench.simulated_link import Encoded, Fixed, Setting, SimulatedSlot, simulate
from multifd.limits import GIB, KIB, MIB

HALF = SimulatedSlot(MIB, 0.5, 20e-6, {"zstd": Encoded(0.004, 0.001, MIB // 2), "lz4": Encoded(0.002, 0.0005, MIB),
                                       "zstd:3": Encoded(0.008, 0.001, MIB // 2)})  # fmt: skip


def seconds(name: str, rate: float, channels: int, slots: int = 100) -> float:
    """How long so many slots take."""
    setting = Setting(link_bytes_per_s=rate, channels=channels)
    return simulate(setting, [HALF] * slots, [Fixed(name)] * channels).seconds


def test_a_slow_link_sets_the_pace() -> None:
    """Bytes over the link's rate, whatever the number of channels; half the bytes, half the time."""
    for channels in (1, 2, 4):
        assert seconds("none", 10e6, channels) == pytest.approx(100 * MIB / 10e6, rel=0.01)
        assert seconds("zstd", 10e6, channels) == pytest.approx(50 * MIB / 10e6, rel=0.01)


def test_processors_set_the_pace_on_a_fast_link() -> None:
    """Two channels encode twice as fast as one, four on two processors no faster."""
    assert seconds("zstd", 1e12, 1) == pytest.approx(100 * 0.004, rel=0.05)
    assert seconds("zstd", 1e12, 2) == pytest.approx(50 * 0.004, rel=0.07)
    assert seconds("zstd", 1e12, 4) == pytest.approx(50 * 0.004, rel=0.1)


def test_what_does_not_shrink_needs_no_decoding() -> None:
    """It travels plain: only the time to try is lost."""
    assert seconds("lz4", 1e12, 1) == pytest.approx(100 * (0.002 + MIB * 0.18e-9), rel=0.05)


@pytest.mark.parametrize("kind", memory_kinds.KINDS)
def test_memory_is_of_the_size_that_was_asked_for(kind: str) -> None:
    """Each kind of memory is as long as asked, the same each time, and not the same as another."""
    slots = [bytes(slot) for slot in memory_kinds.slots(kind, count=3, slot_bytes=64 * KIB)]
    assert [len(slot) for slot in slots] == [64 * KIB] * 3
    assert slots == [bytes(slot) for slot in memory_kinds.slots(kind, count=3, slot_bytes=64 * KIB)]


def test_auto_is_within_a_tenth_on_synthetic_codecs() -> None:
    """The whole grid on codecs of round figures: auto is at most a tenth slower than the best fixed choice."""
    kinds = {"half": [HALF] * 8}
    cells = list(auto.grid(auto.Plan(4 * GIB, (2,), 2), kinds))
    assert [cell.link for cell in cells] == list(auto.LINKS)
    assert min(cell.ratio for cell in cells) > 0.9
