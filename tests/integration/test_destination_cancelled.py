"""Calling a destination off in its own process: what its `run` waits for, and what `cancel` and `report` say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from harness.migration import bounded

import multifd
from multifd import EmulatedDevice, EmulatedOptions, Outcome
from multifd.device.emulated_options import Step

pytestmark = pytest.mark.usefixtures("nothing_left")


class SlowOwner(multifd.Owner):
    """Starts when it is let go, and calls `at_start` before."""

    def __init__(self, at_start: Callable[[], object]) -> None:
        self.go_on = asyncio.Event()
        self.runs = False
        self._at_start = at_start

    async def start(self) -> None:
        self._at_start()
        await self.go_on.wait()
        self.runs = True


@pytest.fixture
async def listener() -> AsyncIterator[multifd.Listener]:
    """On loopback."""
    made = await multifd.listen("tcp://127.0.0.1:0")
    yield made
    await made.close()


def block() -> multifd.BufferBlock:
    """Some memory."""
    return multifd.BufferBlock("ram", bytearray(1 << 20), tracker="none")


@bounded
async def test_cancelled_after_commit_it_waits_for_the_owner(listener: multifd.Listener) -> None:
    """`run` ends when it is known whether the owner runs, and `report` says that it does."""
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        receiving.cancel()
        loop.call_later(0.02, owner.go_on.set)

    owner = SlowOwner(cancel)
    destination = multifd.Destination(listener, blocks=[block()], owner=owner)
    assert destination.report is None
    receiving = asyncio.create_task(destination.run())
    sending = asyncio.create_task(multifd.Source(listener.address, blocks=[block()]).run())
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert owner.runs
    assert destination.report is not None
    assert destination.report.outcome is Outcome.COMPLETED
    assert (await sending).outcome is Outcome.COMPLETED


@bounded
async def test_cancelled_before_commit_it_waits_for_its_threads(listener: multifd.Listener) -> None:
    """When `run` has ended nobody writes to the memory any more, however often it was cancelled."""
    device = EmulatedDevice(
        "x", EmulatedOptions(initial_bytes=4096, hang_at=Step.SET_UP), state=multifd.DeviceState.STOP
    )
    destination = multifd.Destination(listener, blocks=[block()], devices=[device])
    receiving = asyncio.create_task(destination.run())
    here = EmulatedDevice("x", EmulatedOptions(initial_bytes=4096))
    sending = asyncio.create_task(multifd.Source(listener.address, blocks=[block()], devices=[here]).run())
    async for progress in destination.progress():
        if progress.state == "precopy":
            break
    threads = [each for each in threading.enumerate() if each.name.startswith(("multifd-receive", "multifd-populate"))]
    assert threads
    for _ in range(3):
        receiving.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert destination.report is not None
    assert destination.report.outcome is Outcome.FAILED
    with pytest.raises(multifd.MigrationFailedError, match="the destination was cancelled"):
        await sending


@bounded
async def test_cancel_says_when_it_is_too_late(listener: multifd.Listener) -> None:
    """After COMMIT `Destination.cancel` returns False, and the owner starts."""
    said: list[bool] = []

    def cancel() -> None:
        said.append(destination.cancel())
        owner.go_on.set()

    owner = SlowOwner(cancel)
    destination = multifd.Destination(listener, blocks=[block()], owner=owner)
    assert not destination.cancel()
    receiving = asyncio.create_task(destination.run())
    await multifd.Source(listener.address, blocks=[block()]).run()
    assert (await receiving).outcome is Outcome.COMPLETED
    assert said == [False]
    assert not destination.cancel()
