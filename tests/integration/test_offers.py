"""Offers that come to nothing leave nothing, however large they are and whenever their source goes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator

import pytest
from harness.wire_source import WAIT_S, WireSource

from multifd import BufferBlock, Destination, Listener, Report, Source, SourceOptions, limits, listen
from multifd import messages as m
from multifd.errors import Code
from multifd.memory import Block


class Provider:
    """Makes blocks, each after it was let; counts those that are open."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()
        self.made = 0
        self.open = 0

    def __call__(self, info: m.BlockInfo) -> Block:
        self.asked.set()
        assert self.go.wait(WAIT_S)
        self.made += 1
        self.open += 1
        return Provided(self, info)


class Provided(BufferBlock):
    """One of its blocks."""

    def __init__(self, provider: Provider, info: m.BlockInfo) -> None:
        super().__init__(info.name, bytearray(info.length), tracker="none")
        self._provider = provider

    def close(self) -> None:
        self._provider.open -= 1
        super().close()


def offer_and_go(port: int) -> None:
    """Returns when the session has ended."""
    with contextlib.closing(WireSource(port)) as stranger:
        stranger.hello()
        blocks = tuple(m.BlockInfo(str(number), 1, 4096) for number in range(100))
        stranger.tell(m.Inventory(1, 1, blocks, (), (), preflight=False))
        stranger.main.shutdown(socket.SHUT_WR)
        while stranger.main.recv(1 << 16):
            pass


@contextlib.asynccontextmanager
async def receiving(provider: Provider) -> AsyncIterator[tuple[Listener, asyncio.Task[Report]]]:
    """A destination that listens."""
    listener = await listen("tcp://127.0.0.1:0")
    destination = asyncio.create_task(Destination(listener, blocks=provider).run())
    try:
        yield listener, destination
    finally:
        destination.cancel()
        await asyncio.gather(destination, return_exceptions=True)
        await listener.close()


async def test_a_source_that_goes_during_the_decision_leaves_nothing() -> None:
    """The provider is asked for no more, what it makes is closed, and the next source is served."""
    provider = Provider()
    async with asyncio.timeout(WAIT_S), receiving(provider) as (listener, destination):
        await asyncio.to_thread(offer_and_go, int(listener.address.rpartition(":")[2]))
        assert provider.asked.is_set()
        provider.go.set()
        await asyncio.gather(*listener._serving, return_exceptions=True)
        assert (provider.made, provider.open) == (1, 0)
        blocks = [BufferBlock("good", bytearray(b"x" * 10000), tracker="none")]
        await Source(listener.address, blocks=blocks, options=SourceOptions(channels=1)).run()
        await destination
    assert (provider.made, provider.open) == (2, 0)


async def test_a_large_inventory_is_more_than_the_backlog_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written as it is read: a preflight of many blocks with long names."""
    monkeypatch.setattr(limits, "MAIN_BACKLOG_BYTES_MAX", 16 * limits.KIB)
    monkeypatch.setattr(limits, "ITEMS_MAX", 100)  # many pages
    memory = bytearray(1)
    blocks = [BufferBlock(f"{number:04}" + "x" * 1000, memory, tracker="none") for number in range(2000)]
    provider = Provider()
    provider.go.set()
    async with asyncio.timeout(WAIT_S), receiving(provider) as (listener, _):
        report = await Source(listener.address, blocks=blocks).preflight()
        await asyncio.gather(*listener._serving, return_exceptions=True)
    assert report.outcome.value == "preflighted"
    assert (provider.made, provider.open) == (2000, 0)


async def test_a_stranger_that_offers_too_much_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy, before its last page; a small offer is taken all the same."""
    monkeypatch.setattr(limits, "INVENTORIES_BYTES_MAX", 1000)
    provider = Provider()
    provider.go.set()

    def offer_much(port: int) -> m.Message:
        with contextlib.closing(WireSource(port)) as stranger:
            stranger.hello()
            blocks = tuple(m.BlockInfo(f"{number:04}", 1, 4096) for number in range(limits.ITEMS_MAX))
            stranger.tell(m.Inventory(1, 2, blocks, (), (), preflight=False))
            return stranger.until(m.Verdict)

    async with asyncio.timeout(WAIT_S), receiving(provider) as (listener, destination):
        verdict = await asyncio.to_thread(offer_much, int(listener.address.rpartition(":")[2]))
        assert isinstance(verdict, m.Verdict)
        assert [(each.what, each.code) for each in verdict.refusals] == [(m.What.SESSION, Code.BUSY)]
        assert provider.made == 0
        blocks = [BufferBlock("good", bytearray(10000), tracker="none")]
        await Source(listener.address, blocks=blocks, options=SourceOptions(channels=1)).run()
        await destination
