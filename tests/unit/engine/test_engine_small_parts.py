"""Progress, the downtime clock and the lazy timer: small parts with a rule each."""

from __future__ import annotations

import asyncio
import time

from multifd import limits
from multifd.engine.downtime import DowntimeClock
from multifd.engine.progress import ProgressFeed
from multifd.engine.timer import LazyTimer
from multifd.stats import Progress

WAIT_S = 5.0


def snapshot(number: int) -> Progress:
    return Progress(state="precopy", elapsed_s=float(number))


async def read_all(feed: ProgressFeed) -> list[float]:
    return [progress.elapsed_s async for progress in feed.read()]


async def test_every_reader_sees_every_snapshot() -> None:
    """In order, until the feed is closed."""
    feed = ProgressFeed()
    readers = [asyncio.create_task(read_all(feed)) for _ in range(2)]
    await asyncio.sleep(0)
    for number in range(3):
        feed.publish(snapshot(number))
        await asyncio.sleep(0)
    feed.close()
    async with asyncio.timeout(WAIT_S):
        assert await asyncio.gather(*readers) == [[0.0, 1.0, 2.0]] * 2


async def test_a_slow_reader_misses_the_oldest() -> None:
    """It holds up nobody: at most `PROGRESS_MAX` are kept for it, the newest ones."""
    feed = ProgressFeed()
    reading = feed.read()
    feed.publish(snapshot(0))
    assert (await anext(reading)).elapsed_s == 0.0
    for number in range(1, limits.PROGRESS_MAX + 11):
        feed.publish(snapshot(number))
    feed.close()
    left = [progress.elapsed_s async for progress in reading]
    assert left == [float(number) for number in range(11, limits.PROGRESS_MAX + 11)]


async def test_a_late_reader_begins_with_the_newest() -> None:
    """What was published last is there at once; after the end it is all there is."""
    feed = ProgressFeed()
    for number in range(3):
        feed.publish(snapshot(number))
    feed.close()
    assert await read_all(feed) == [2.0]


async def test_a_reader_that_leaves_is_forgotten() -> None:
    """Nothing is kept for it any more."""
    feed = ProgressFeed()
    feed.publish(snapshot(0))
    reading = feed.read()
    await anext(reading)
    assert len(feed._readers) == 1
    await reading.aclose()  # type: ignore[attr-defined]
    assert feed._readers == []


def test_downtime_is_split_at_its_moments() -> None:
    """Parts in their order, in milliseconds, together the whole."""
    clock = DowntimeClock()
    assert clock.total_ms is None
    clock.mark("early", 5.0)
    assert clock.parts_ms == {}
    clock.begin(10.0)
    clock.mark("stop_owner", 10.5)
    assert clock.total_ms == 500.0
    clock.mark("load", 10.75)
    clock.end("start", 11.0)
    assert clock.parts_ms == {"stop_owner": 500.0, "load": 250.0, "start": 250.0}
    assert list(clock.parts_ms) == ["stop_owner", "load", "start"]
    assert clock.total_ms == 1000.0


def test_downtime_ends_once() -> None:
    """What comes after an owner runs again is no downtime."""
    clock = DowntimeClock()
    clock.begin(1.0)
    clock.end("start", 2.0)
    clock.mark("late", 9.0)
    clock.end("later", 9.0)
    assert clock.total_ms == 1000.0
    assert clock.parts_ms == {"start": 1000.0}


def test_a_part_that_comes_twice_adds_up() -> None:
    """Its name stands once."""
    clock = DowntimeClock()
    clock.begin(0.0)
    clock.mark("load", 1.0)
    clock.mark("save", 2.0)
    clock.mark("load", 4.0)
    assert clock.parts_ms == {"load": 3000.0, "save": 1000.0}


def test_a_switchover_that_was_called_off_begins_anew() -> None:
    """The report is about the last stop."""
    clock = DowntimeClock()
    clock.begin(0.0)
    clock.end("start_again", 5.0)
    clock.begin(10.0)
    clock.mark("stop_owner", 10.25)
    assert clock.parts_ms == {"stop_owner": 250.0}
    assert clock.total_ms == 250.0


def test_ending_what_never_began_is_nothing() -> None:
    """Without a stop there is no downtime."""
    clock = DowntimeClock()
    clock.end("start", 3.0)
    assert clock.total_ms is None


async def test_the_timer_rings_at_the_earliest_time_it_was_set_to() -> None:
    """A later time does not put it off; an earlier one does bring it forward."""
    rung: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    timer = LazyTimer(asyncio.get_running_loop(), lambda: rung.set_result(time.monotonic()))
    began = time.monotonic()
    timer.set(began + 60)
    timer.set(began + 0.02)
    timer.set(began + 90)
    timer.set(None)
    async with asyncio.timeout(WAIT_S):
        assert 0.02 <= await rung - began < WAIT_S


async def test_a_time_that_has_passed_rings_at_once() -> None:
    """And it can be set again from within."""
    rings = 0
    done = asyncio.Event()

    def expired() -> None:
        nonlocal rings
        rings += 1
        timer.set(0.0) if rings < 3 else done.set()

    timer = LazyTimer(asyncio.get_running_loop(), expired)
    timer.set(0.0)
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    assert rings == 3


async def test_a_cancelled_timer_does_not_ring() -> None:
    """Neither then nor later."""
    timer = LazyTimer(asyncio.get_running_loop(), lambda: rung.append(1))
    rung: list[int] = []
    timer.set(time.monotonic())
    timer.cancel()
    timer.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert rung == []
