"""The end of a session when what a user gave does not end: nothing waits for ever, and the cause says what hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Self

import pytest
from harness.migration import bounded

import multifd
from multifd import limits
from multifd.engine import opening
from multifd.engine.connection import Connection
from multifd.engine.tls import Tls
from multifd.engine.transport import Address, SocketOptions
from multifd.errors import TransportError
from multifd.slot import Work

pytestmark = pytest.mark.usefixtures("nothing_left")


class Odd(multifd.SlotKind, multifd.Feed):
    """Raises when it is closed, or hangs, until it is let go: there or in making slots."""

    def __init__(self, name: str, *, raises: bool = False, hangs_in: str = "") -> None:
        self.name = f"multifd.example/{name}"
        self.kinds = (self.name,)
        self.closed = False
        self.expanding = threading.Event()
        self.go_on = threading.Event()
        self._raises = raises
        self._hangs_in = hangs_in

    def pending(self) -> int:
        return 0

    def collect(self, *, live: bool) -> Iterable[Work]:
        return [multifd.Slot(self.name, 1, b"", (), 0)] if self._hangs_in == "expand" else []

    def expand(self, work: Work) -> Iterator[multifd.Slot]:
        self.expanding.set()
        self.go_on.wait()
        return iter(())

    def close(self) -> None:
        self.closed = True
        if self._raises:
            raise RuntimeError("told to fail")
        if self._hangs_in == "close":
            self.go_on.wait()

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        raise AssertionError("nothing is sent")

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        raise AssertionError("nothing is sent")


class NeverStops(multifd.Owner):
    """Calls the migration off when it is asked to stop."""

    source: multifd.Source

    async def stop(self) -> None:
        self.source.cancel("enough")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Of a destination that takes what these feeds are named after."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    kinds = [Odd(name) for name in ("good", "bad")]
    receiving = asyncio.create_task(multifd.Destination(listener, kinds=kinds).run())
    yield listener.address
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await listener.close()


@bounded
async def test_a_close_that_raises_does_not_change_the_outcome(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """A migration that completed has completed: it is logged, and all other feeds are closed."""
    feeds = [Odd("bad", raises=True), Odd("good")]
    with caplog.at_level(logging.WARNING, "multifd"):
        report = await multifd.Source(address, feeds=feeds).run()
    assert report.outcome is multifd.Outcome.COMPLETED
    assert [feed.closed for feed in feeds] == [True, True]
    assert "feed multifd.example/bad could not be closed: RuntimeError: told to fail" in caplog.text


@bounded
async def test_a_close_that_raises_is_told_after_the_cause(address: str) -> None:
    """A migration that was called off is that, and its cause has both."""
    owner = NeverStops()
    owner.source = multifd.Source(address, feeds=[Odd("bad", raises=True), Odd("good")], owner=owner)
    with pytest.raises(multifd.MigrationCancelledError, match=r"enough; and then feed .*told to fail"):
        await owner.source.run()


@bounded
async def test_a_close_that_hangs_is_left_behind(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for no longer than `CLOSE_DEADLINE_S`, and named; the others are closed."""
    monkeypatch.setattr(limits, "CLOSE_DEADLINE_S", 0.1)
    owner, bad, good = NeverStops(), Odd("bad", hangs_in="close"), Odd("good")
    owner.source = multifd.Source(address, feeds=[bad, good], owner=owner)
    with pytest.raises(
        multifd.MigrationCancelledError, match=r"feed multifd\.example/bad did not let go of its thread"
    ):
        await owner.source.run()
    assert good.closed
    bad.go_on.set()


@bounded
async def test_a_channel_that_hangs_is_left_behind(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that never makes its slots holds its channel's thread, which is named in the cause."""
    monkeypatch.setattr(limits, "CLOSE_DEADLINE_S", 0.1)
    bad = Odd("bad", hangs_in="expand")
    source = multifd.Source(address, feeds=[bad], options=multifd.SourceOptions(channels=1))
    sending = asyncio.create_task(source.run())
    assert await asyncio.to_thread(bad.expanding.wait, 10.0)
    source.cancel("enough")
    with pytest.raises(multifd.MigrationCancelledError, match="enough; and then data channel 1 did not let go"):
        await sending
    assert bad.closed
    bad.go_on.set()


@bounded
async def test_a_channel_that_cannot_be_opened_ends_the_others(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on connecting for a session that has failed."""
    begun: list[SocketOptions | None] = []
    ended: list[bool] = []

    class Failing(Connection):
        @classmethod
        async def connect(cls, address: Address, options: SocketOptions | None = None, tls: Tls | None = None) -> Self:
            begun.append(options)
            if len(begun) == 2:
                raise TransportError("told to fail")
            try:
                never: asyncio.Future[Self] = asyncio.get_running_loop().create_future()
                return await never
            finally:
                ended.append(True)

    monkeypatch.setattr(opening, "Connection", Failing)
    source = multifd.Source(address, feeds=[Odd("good")], options=multifd.SourceOptions(channels=3))
    with pytest.raises(multifd.MigrationFailedError, match=r"^told to fail$"):
        await source.run()
    assert len(ended) == len(begun) - 1
