"""Calling a migration off in every state, at either end, in every way that asyncio knows.

Before COMMIT the source runs on; after it nothing changes.
"""

from __future__ import annotations

import asyncio

import pytest
from harness import stages
from harness.migration import Migration, Setup, bounded, migration
from harness.proxy import Way
from harness.ready_scripts import device
from harness.remote import DestinationHost
from harness.stages import BEFORE_COMMIT, WITH_STATE, Stage, stage_name

from multifd import Outcome
from multifd import messages as m
from multifd.session import source as machine
from multifd.session.states import SourceState

pytestmark = pytest.mark.usefixtures("nothing_left")
SETUP = Setup(here={"x": device()})


async def check_told(it: Migration, stage: Stage, words: str) -> None:
    """The destination reports why, or, if it had nothing yet, goes on listening."""
    if stage in WITH_STATE:
        await it.check_aborted_there(words)
    else:
        await it.destination.logged(words)
        assert it.destination.end is None


@pytest.mark.parametrize("stage", BEFORE_COMMIT, ids=stage_name)
@bounded
async def test_cancel_at_the_source(host: DestinationHost, stage: Stage) -> None:
    """`Source.cancel` before COMMIT ends it as cancelled, with the cause at both ends; the source runs on."""
    async with migration(host, SETUP) as it:
        await stage(it)
        assert it.source.cancel("changed my mind")
        report = await it.report()
        assert report.outcome is Outcome.CANCELLED
        assert report.cause == "changed my mind"
        assert not it.source.cancel("again")
        await it.check_runs_on()
        await check_told(it, stage, "changed my mind")


@pytest.mark.parametrize("stage", BEFORE_COMMIT, ids=stage_name)
@bounded
async def test_cancel_the_source_task(host: DestinationHost, stage: Stage) -> None:
    """Cancelling the task that runs a source before COMMIT is the same, but for the exception."""
    async with migration(host, SETUP) as it:
        await stage(it)
        it.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.task
        await it.check_runs_on()
        await check_told(it, stage, "was cancelled")


@bounded
async def test_cancel_while_it_connects(host: DestinationHost) -> None:
    """A source that is called off before it is connected says nothing at all."""
    async with migration(host, SETUP) as it:
        await it.begin()
        while not it.source.cancel("too early"):  # noqa: ASYNC110 - until there is something to cancel
            await asyncio.sleep(0)
        report = await it.report()
        assert report.outcome is Outcome.CANCELLED
        assert it.proxy.seen == []
        await it.check_runs_on()


@bounded
async def test_too_late_to_cancel(host: DestinationHost) -> None:
    """`Source.cancel` after COMMIT changes nothing and says so."""
    async with migration(host, SETUP) as it:
        held = it.proxy.hold(Way.TO_SOURCE, m.Started)
        await it.begin()
        await it.proxy.saw(m.Started)
        await it.reached("committed")
        assert not it.source.cancel()
        held.release()
        assert (await it.report()).outcome is Outcome.COMPLETED
        await it.check_completed()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
@bounded
async def test_too_late_to_cancel_the_task(host: DestinationHost, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling the task after COMMIT, however often, waits until it is known which side runs, and only one does."""
    words = machine._WAITS[SourceState.COMMITTED][1]
    monkeypatch.setitem(machine._WAITS, SourceState.COMMITTED, (0.5, words))
    async with migration(host, SETUP) as it:
        await stages.committed(it)
        for _ in range(times):
            it.task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await it.task
        assert it.proxy.count(m.OutcomeIs) == 1
        await it.check_completed()


@pytest.mark.parametrize("order", ["cancel", "cancel the task"])
@pytest.mark.parametrize("stage", WITH_STATE, ids=stage_name)
@bounded
async def test_cancel_at_the_destination(host: DestinationHost, stage: Stage, order: str) -> None:
    """A destination that is cancelled before COMMIT tells the source, which runs on."""
    async with migration(host, SETUP) as it:
        await stage(it)
        it.destination.order(order)
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert ("cancel" if order == "cancel the task" else "called off at the destination") in report.cause
        await it.check_runs_on()


@pytest.mark.parametrize("order", ["cancel", "cancel the task"])
@bounded
async def test_too_late_to_cancel_there(host: DestinationHost, order: str) -> None:
    """A destination that is cancelled after COMMIT starts its owner all the same."""
    async with migration(host, Setup(here={"x": device()}, owner_there="waits")) as it:
        await it.begin()
        await it.destination.until(lambda: it.destination.starts == 1, "its owner to be started")
        it.destination.order(order)
        it.destination.order("go on")
        assert (await it.report()).outcome is Outcome.COMPLETED
        assert it.proxy.count(m.Started) == 1
        assert not it.owner.spells.running
