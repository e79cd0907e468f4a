"""Zero pages are found, wherever the bytes that are not zero are. Compared with a naive search in
tests/property/test_extents.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from multifd.memory.zero import page_words, zero_pages, zero_rows

PAGE = 4096


@pytest.mark.parametrize("place", [0, 1, 7, 8, 1000, 2040, 2047, 2048, 4087, 4095])
def test_one_byte_anywhere_is_seen(place: int) -> None:
    """A page with a single byte that is not zero is not a zero page."""
    memory = bytearray(8 * PAGE)
    memory[3 * PAGE + place] = 1
    assert zero_pages(memoryview(memory), PAGE).tolist() == [page != 3 for page in range(8)]


@pytest.mark.parametrize("value", [0, 1])
def test_all_and_nothing(value: int) -> None:
    """All pages zero, or none."""
    assert zero_pages(memoryview(bytearray([value]) * (8 * PAGE)), PAGE).tolist() == [not value] * 8


def test_a_short_last_page_is_not_looked_at() -> None:
    """Only whole pages are told, and there may be none."""
    assert zero_pages(memoryview(bytearray(2 * PAGE + 100)), PAGE).tolist() == [True, True]
    assert zero_pages(memoryview(bytearray(100)), PAGE).tolist() == []
    assert zero_pages(memoryview(b""), PAGE).tolist() == []


def test_unaligned_memory_is_looked_at() -> None:
    """Memory that begins at an odd address is as good."""
    memory = bytearray(3 * PAGE + 1)
    memory[1 + PAGE + 9] = 1
    assert zero_pages(memoryview(memory)[1:], PAGE).tolist() == [True, False, True]


def test_suspects_far_apart_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that pass the probes are read whole, together or piece by piece, only those asked for."""
    monkeypatch.setattr("multifd.memory.zero._GATHER_ROWS", 2)
    memory = bytearray(100 * PAGE)
    for page in (10, 50, 51):
        memory[page * PAGE + 100] = 1
    words = page_words(memoryview(memory), PAGE)
    rows = np.array([0, 10, 20, 50, 70, 90, 99])
    assert zero_rows(words, rows).tolist() == [True, False, True, False, True, True, True]
    assert zero_rows(words, np.array([48, 49, 50, 52])).tolist() == [True, True, False, True]


def test_no_copy_is_made() -> None:
    """The words are the memory itself."""
    memory = bytearray(PAGE)
    words = page_words(memoryview(memory), PAGE)
    memory[8] = 1
    assert words[0, 1] == 1
