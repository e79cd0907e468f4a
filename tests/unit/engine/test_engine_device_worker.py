"""A device's worker: a thread with a loop of its own that holds up nobody, and lets go."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from multifd import limits
from multifd.engine.device_worker import DeviceWorker

WAIT_S = 5.0


async def name_of_thread() -> str:
    return threading.current_thread().name


async def test_coroutines_run_in_the_devices_thread() -> None:
    """Results and errors come back to the caller's loop."""

    async def failing() -> None:
        raise KeyError("no such register")

    worker = DeviceWorker("nic/0")
    worker.start()
    assert await worker.submit(name_of_thread()) == "multifd-device-nic/0"
    with pytest.raises(KeyError, match="no such register"):
        await worker.submit(failing())
    assert await asyncio.to_thread(worker.stop)


async def test_calls_run_in_order_and_before_what_is_submitted_later() -> None:
    """What was called before the thread began is not lost."""
    worker = DeviceWorker("nic/0")
    seen: list[int] = []
    worker.call(lambda: seen.append(1))
    worker.start()
    worker.call(lambda: seen.append(2))
    await worker.submit(name_of_thread())
    assert seen == [1, 2]
    assert await asyncio.to_thread(worker.stop)
    worker.call(lambda: seen.append(3))  # it has ended: nothing happens
    assert seen == [1, 2]


async def test_stop_cancels_what_runs() -> None:
    """A device that waits is let go, and whoever waits for it hears so."""
    entered = threading.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.get_running_loop().create_future()

    worker = DeviceWorker("nic/0")
    worker.start()
    waiting = worker.submit(hang())
    assert await asyncio.to_thread(entered.wait, WAIT_S)
    assert await asyncio.to_thread(worker.stop)
    with pytest.raises((asyncio.CancelledError, CancelledError)):
        await waiting


async def test_a_device_that_blocks_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `CLOSE_DEADLINE_S` stop says that it did not let go; nobody waits for ever."""
    monkeypatch.setattr(limits, "CLOSE_DEADLINE_S", 0.01)
    entered, release = threading.Event(), threading.Event()

    async def block() -> None:
        entered.set()
        release.wait(WAIT_S)  # as a driver that knows nothing of loops

    worker = DeviceWorker("nic/0")
    worker.start()
    blocking = worker.submit(block())
    assert await asyncio.to_thread(entered.wait, WAIT_S)
    assert not await asyncio.to_thread(worker.stop)
    release.set()
    monkeypatch.undo()
    assert await asyncio.to_thread(worker.stop)
    await asyncio.gather(blocking, return_exceptions=True)


def test_a_worker_that_never_began_needs_no_stopping() -> None:
    """Its loop is closed all the same."""
    worker = DeviceWorker("nic/0")
    assert worker.stop()
    assert worker._loop.is_closed()
