"""What has arrived has arrived: nothing that happens while the receiver closes makes it a failure."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from multifd import Listener
from multifd.cli import receive
from multifd.cli.display import PlainDisplay


class Lingering:
    """A listener that has a source to answer until it is told that this is over."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def close(self) -> None:
        await self.over.wait()


class Notes(PlainDisplay):
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.came = asyncio.Event()

    def note(self, text: str) -> None:
        self.texts.append(text)
        self.came.set()


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr(receive, "LINGER_NOTE_S", 0.001)
    return Notes()


async def test_a_wait_is_told(notes: Notes) -> None:
    """And it ends when the source has its answer."""
    listener = Lingering()
    closing = asyncio.ensure_future(receive.close(cast(Listener, listener), notes))
    await notes.came.wait()
    assert "has not confirmed" in notes.texts[0]
    assert not closing.done()
    listener.over.set()
    await closing


async def test_a_signal_ends_the_wait_and_is_no_failure(notes: Notes) -> None:
    """The command goes on to its report."""
    closing = asyncio.ensure_future(receive.close(cast(Listener, Lingering()), notes))
    await notes.came.wait()
    closing.cancel()
    await closing  # does not raise


async def test_without_a_wait_nothing_is_said(notes: Notes) -> None:
    """The usual case."""
    listener = Lingering()
    listener.over.set()
    await receive.close(cast(Listener, listener), notes)
    assert notes.texts == []


def test_unfinished_files_of_before_are_counted(tmp_path: Path) -> None:
    """Only what has our form; and what to do is said."""
    for name in (".multifd-1.part", ".multifd-2.part", ".multifd", "other.part"):
        (tmp_path / name).touch()
    assert receive.unfinished(tmp_path) == 2
    assert receive.leftovers_note(2, tmp_path).startswith("2 unfinished files (.multifd-*.part) of an earlier receive")
    assert "remove it" in receive.leftovers_note(1, tmp_path)
