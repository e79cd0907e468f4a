"""Trackers are what was asked for, or an error that says what to ask for."""

from __future__ import annotations

from typing import Any

import pytest

from multifd.errors import TrackingError
from multifd.memory import choose as module
from multifd.memory.choose import choose, kernel_fault
from multifd.memory.kernel import KernelTracker
from multifd.memory.software import SoftwareTracker
from multifd.memory.tracker import StaticTracker


@pytest.mark.parametrize(("wanted", "mode"), [("none", "none (static)"), ("software", "software")])
def test_words_are_taken_literally(wanted: Any, mode: str) -> None:
    """A word that names a tracker gives that one."""
    assert choose(bytearray(100), wanted).mode == mode


def test_software_trackers_have_the_block_s_measure() -> None:
    """Length and page size are the block's, of an empty one too: its owner holds on to it."""
    tracker = choose(bytearray(100), "software", page_size=512)
    assert isinstance(tracker, SoftwareTracker)
    assert (tracker.length, tracker.page_size) == (100, 512)
    assert isinstance(choose(b"", "software"), SoftwareTracker)


@pytest.mark.parametrize("wanted", ["auto", "kernel"])
def test_the_kernel_s_is_the_default(wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel can track, it does."""
    monkeypatch.setattr(module, "kernel_fault", lambda: None)
    assert isinstance(choose(bytearray(100), wanted), KernelTracker)
    assert isinstance(choose(bytearray(), wanted), StaticTracker)


@pytest.mark.parametrize("wanted", ["auto", "kernel"])
def test_nothing_falls_back_silently(wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel can't track, the error says why and what to pass."""
    monkeypatch.setattr(module, "kernel_fault", lambda: "it is too old")
    with pytest.raises(TrackingError, match=r'it is too old; pass tracker="software".*or tracker="none"'):
        choose(bytearray(100), wanted)


def test_other_words_are_refused() -> None:
    """A word that names no tracker is refused with those that do."""
    wanted: Any = "fast"
    with pytest.raises(ValueError, match="'fast'; it can be"):
        choose(bytearray(100), wanted)


def test_the_kernel_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial's outcome is kept, good or bad, and a trial that sees nothing is a fault."""

    class Blind(KernelTracker):
        def count(self) -> int:
            return 0 * super().count()

    kernel_fault.cache_clear()
    first = kernel_fault()
    monkeypatch.setattr(module, "KernelTracker", Blind)
    assert kernel_fault() == first
    kernel_fault.cache_clear()
    assert kernel_fault() is not None
    kernel_fault.cache_clear()
