"""Asking for the outcome: patient with a destination that is there, not with one that is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from multifd import limits
from multifd.engine.outcome import ask_outcome
from multifd.engine.transport import Address
from multifd.messages import AskOutcome, Fate, OutcomeIs
from multifd.wire.control import serialize

QUESTION = AskOutcome(bytes(16), bytes(16))
STARTED = OutcomeIs(Fate.STARTED, "")


class Answerer:
    """Counts connections; answers after a while, or never, or closes the first few at once."""

    def __init__(self, answer_after_s: float | None, *, closes: int = 0) -> None:
        self.connections = 0
        self._after_s = answer_after_s
        self._closes = closes

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.connections > self._closes:
            reading = asyncio.ensure_future(reader.read(-1))  # ends when the asker is gone
            await asyncio.wait({reading}, timeout=self._after_s)
            if not reading.done():
                writer.write(serialize(STARTED))
                await writer.drain()
            reading.cancel()
        writer.close()


@asynccontextmanager
async def answering(answerer: Answerer) -> AsyncIterator[Address]:
    """Its address."""
    server = await asyncio.start_server(answerer, "127.0.0.1", 0)
    yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()
    await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTCOME_DEADLINE_S", 0.02)
    monkeypatch.setattr(limits, "OUTCOME_PAUSE_S", 0.0)


async def test_a_slow_answer_is_waited_for() -> None:
    """A destination whose owner takes its time to start answers after that, longer than a connection may take."""
    answerer = Answerer(0.1)
    async with answering(answerer) as address:
        assert await ask_outcome(address, QUESTION) == STARTED
    assert answerer.connections == 1


async def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is connected and says nothing is waited for once, and told as that."""
    monkeypatch.setattr(limits, "OUTCOME_ANSWER_DEADLINE_S", 0.05)
    answerer = Answerer(None)
    async with answering(answerer) as address:
        assert await ask_outcome(address, QUESTION) == f"no answer from {address} within 0.05 s"
    assert answerer.connections == 1


async def test_a_lost_connection_is_tried_again() -> None:
    """As often as `OUTCOME_TRIES`."""
    answerer = Answerer(0.0, closes=limits.OUTCOME_TRIES - 1)
    async with answering(answerer) as address:
        assert await ask_outcome(address, QUESTION) == STARTED
    assert answerer.connections == limits.OUTCOME_TRIES
