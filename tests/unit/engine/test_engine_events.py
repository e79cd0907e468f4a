"""What workers tell the loop: all of it arrives, in batches, and no counter is left unseen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from multifd import limits
from multifd.engine.events import EventQueue

WAIT_S = 5.0


def fail(error: Exception) -> None:
    raise AssertionError(f"the handler raised {error!r}")


class Watcher:
    """A handler that keeps what it saw, and an event for when it has seen enough."""

    def __init__(self, counter: Callable[[], int] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: EventQueue[int] = EventQueue(self.loop, self.handle, fail)
        self.counter = counter
        self.events: list[int] = []
        self.counts: list[int] = []
        self.calls = 0
        self._changed = asyncio.Event()

    def handle(self) -> None:
        self.calls += 1
        self.events += self.queue.take()
        if self.counter is not None:
            self.counts.append(self.counter())
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


async def test_events_of_all_workers_arrive() -> None:
    """In the order of each, in far fewer calls than events."""
    watcher = Watcher()

    def post(worker: int) -> None:
        for number in range(1000):
            watcher.queue.post(worker * 1000 + number)

    threads = [in_thread(lambda worker=worker: post(worker)) for worker in range(3)]  # type: ignore[misc]
    await watcher.until(lambda: len(watcher.events) == 3000)
    for thread in threads:
        thread.join()
    for worker in range(3):
        assert [event for event in watcher.events if event // 1000 == worker] == [
            *range(worker * 1000, (worker + 1) * 1000)
        ]


async def test_a_thousand_events_posted_at_once_are_one_call() -> None:
    """The loop is woken when the queue stops being empty, not for each."""
    watcher = Watcher()
    for number in range(1000):
        watcher.queue.post(number)
    await watcher.until(lambda: len(watcher.events) == 1000)
    assert watcher.calls == 1


async def test_events_that_can_wait_wake_nobody() -> None:
    """They are seen with the next one that is to be seen soon, in order."""
    watcher = Watcher()
    watcher.queue.post(1, soon=False)
    watcher.queue.post(2, soon=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert watcher.calls == 0
    watcher.queue.post(3)
    await watcher.until(lambda: watcher.events == [1, 2, 3])
    assert watcher.calls == 1


@pytest.mark.parametrize("urgent", [True, False])
async def test_no_counter_is_left_unseen(urgent: bool) -> None:
    """Workers count and then hint; whatever the last one counted is seen, though most hints wake nobody."""
    counters = [0, 0]
    watcher = Watcher(lambda: sum(counters))
    watcher.queue.urgent = urgent

    def count(worker: int) -> None:
        for _ in range(2000):
            counters[worker] += 1
            watcher.queue.hint()

    threads = [in_thread(lambda worker=worker: count(worker)) for worker in range(2)]  # type: ignore[misc]
    await watcher.until(lambda: watcher.counts != [] and watcher.counts[-1] == 4000)
    for thread in threads:
        thread.join()


async def test_a_hint_that_wakes_nobody_is_made_good() -> None:
    """Two hints within `SETTLED_DELAY_S`: the second one's counter is seen when that is over, without another."""
    count = 0
    watcher = Watcher(lambda: count)
    count = 1
    watcher.queue.hint()
    await watcher.until(lambda: watcher.counts == [1])
    count = 2
    watcher.queue.hint()
    began = watcher.loop.time()
    await watcher.until(lambda: watcher.counts[-1] == 2)
    assert watcher.loop.time() - began < 100 * limits.SETTLED_DELAY_S


async def test_hints_do_not_wake_the_loop_for_ever() -> None:
    """After the last one it looks once more, and then rests."""
    watcher = Watcher(lambda: 0)
    watcher.queue.hint()
    await watcher.until(lambda: watcher.calls >= 2)
    calls = watcher.calls
    rested = asyncio.Event()
    watcher.loop.call_later(4 * limits.SETTLED_DELAY_S, rested.set)
    await rested.wait()
    assert watcher.calls <= calls + 1


async def test_a_wake_in_the_handler_is_another_call() -> None:
    """The flag is cleared before the handler looks: what comes while it looks is looked at again."""
    watcher = Watcher()

    def handle() -> None:
        watcher.calls += 1
        if watcher.calls < 3:
            watcher.queue.wake()
        watcher._changed.set()

    watcher.queue._handler = handle
    watcher.queue.wake()
    watcher.queue.wake()
    await watcher.until(lambda: watcher.calls == 3)


async def test_what_the_handler_raises_is_told() -> None:
    """Nobody else would hear of it."""
    told: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    error = ValueError("a bug")

    def handle() -> None:
        raise error

    queue: EventQueue[int] = EventQueue(asyncio.get_running_loop(), handle, told.set_result)
    queue.post(1)
    async with asyncio.timeout(WAIT_S):
        assert await told is error


async def test_nothing_is_handled_after_close() -> None:
    """Neither what was on its way nor what is posted then; a worker that waits for room goes on."""
    watcher = Watcher(lambda: 0)
    watcher.queue.hint()
    await watcher.until(lambda: watcher.calls == 1)
    watcher.queue.post(1)
    watcher.queue.close()
    watcher.queue.post(2)
    watcher.queue.wake()
    rested = asyncio.Event()
    watcher.loop.call_later(2 * limits.SETTLED_DELAY_S, rested.set)
    await rested.wait()
    assert (watcher.calls, watcher.events) == (1, [])


async def test_a_full_queue_holds_the_worker_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker waits beyond `EVENTS_MAX`; closing lets it go, and its event is dropped."""
    monkeypatch.setattr(limits, "EVENTS_MAX", 2)
    queue: EventQueue[int] = EventQueue(asyncio.get_running_loop(), lambda: None, fail)

    def post() -> None:
        for number in range(4):
            queue.post(number)

    thread = in_thread(post)
    await asyncio.sleep(0)
    queue.close()
    await asyncio.to_thread(thread.join, WAIT_S)
    assert not thread.is_alive()
    assert queue.take() == []


def test_a_closed_loop_is_nobody_who_listens() -> None:
    """A worker that outlives the loop does not fail for it."""
    loop = asyncio.new_event_loop()
    queue: EventQueue[int] = EventQueue(loop, lambda: None, fail)
    loop.close()
    queue.post(1)
    queue.wake()
    assert queue.take() == [1]
