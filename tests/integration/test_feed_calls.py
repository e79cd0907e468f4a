"""What the engine promises to feeds (slot.py): one call at a time in helper threads, and one `close` at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence

import pytest

import multifd

PATIENCE_S = 0.1  # how long a call waits for another one to come in at the same time; five looks at what is dirty


class Watched(multifd.SlotKind, multifd.Feed):
    """Has nothing to send. Its first `collect` runs `meanwhile`, and takes until another call overlaps or does not."""

    name = "multifd.example/watched"
    kinds = (name,)

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.overlaps: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self._inside = ""
        self._overlapped = threading.Event()

    def pending(self) -> int:
        self._enter("pending")
        self._inside = ""
        return 0

    def collect(self, *, live: bool) -> Iterable[multifd.Slot]:
        self._enter("collect")
        if self.calls.count("collect") == 1:
            self.meanwhile()
            self._overlapped.wait(PATIENCE_S)
        self._inside = ""
        return []

    def close(self) -> None:
        self._enter("close")
        self._inside = ""

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        raise AssertionError("nothing is sent")

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        raise AssertionError("nothing is sent")

    def _enter(self, call: str) -> None:
        if self._inside:
            self.overlaps.append(f"{call} during {self._inside}")
            self._overlapped.set()
        self.calls.append(call)
        self._inside = call


async def receive(listener: multifd.Listener) -> multifd.Report:
    return await multifd.Destination(listener, kinds=[Watched()]).run()


async def test_a_feeds_calls_do_not_overlap() -> None:
    """While a sweep is collected nobody looks at what is pending, and `close` is the last call, once."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    receiving = asyncio.create_task(receive(listener))
    feed = Watched()
    await multifd.Source(listener.address, feeds=[feed]).run()
    await receiving
    await listener.close()
    assert feed.overlaps == []
    assert feed.calls.count("close") == 1
    assert feed.calls[-1] == "close"


async def test_close_waits_for_a_sweep_that_nobody_waits_for() -> None:
    """A migration that is cancelled while a sweep is collected closes the feed after that."""
    loop = asyncio.get_running_loop()
    listener = await multifd.listen("tcp://127.0.0.1:0")
    receiving = asyncio.create_task(receive(listener))
    feed = Watched()
    source = multifd.Source(listener.address, feeds=[feed])
    feed.meanwhile = lambda: loop.call_soon_threadsafe(source.cancel)
    with pytest.raises(multifd.MigrationCancelledError):
        await source.run()
    with pytest.raises(multifd.MigrationFailedError):
        await receiving
    await listener.close()
    assert feed.overlaps == []
    assert feed.calls == ["collect", "close"]


async def test_a_preflight_leaves_feeds_alone() -> None:
    """A preflight calls nothing of a feed, so that it can be sent afterwards."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    receiving = asyncio.create_task(receive(listener))
    feed = Watched()
    source = multifd.Source(listener.address, feeds=[feed])
    report = await source.preflight()
    assert report.outcome is multifd.Outcome.PREFLIGHTED
    assert feed.calls == []
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await listener.close()
