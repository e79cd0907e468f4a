"""Destinations of QEMU's dialect for tests: run against a source that replays, stopped or failing on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.qemu_replay import ReplaySource
from multifd.elements import MachineState, Shut
from multifd.errors import MigrationError, MigrationFailedError, MigrationRefusedError, StorageError
from multifd.qemu.destination import QemuDestination
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.report import QemuReport
from multifd.stats import Outcome, Progress

WAIT_S = 20.0  # far more than any of it takes


async def receive(destination: QemuDestination, source: ReplaySource, listener: QemuListener) -> QemuReport:
    """Both sides to their ends, and of the listener. Raises what the destination does."""
    playing = asyncio.create_task(source.play(listener.address))
    try:
        async with asyncio.timeout(WAIT_S):
            return await destination.run()
    finally:
        await listener.close()  # whatever of the source is not accepted yet
        await asyncio.wait({playing})


async def fail(destination: QemuDestination, source: ReplaySource, listener: QemuListener) -> MigrationError:
    """The error of a migration that is to fail, or to be refused."""
    with pytest.raises((MigrationFailedError, MigrationRefusedError)) as caught:
        await receive(destination, source, listener)
    assert caught.value.report.outcome in (Outcome.FAILED, Outcome.REFUSED)
    assert Shut(0) not in source.answers
    return caught.value


class Stopped(QemuDestination):
    """Waits before it commits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()

    def before_commit(self) -> None:
        self._loop.call_soon_threadsafe(self.asked.set)
        assert self.go_on.wait(WAIT_S)


class Failing(MemoryMachine):
    """Fails in one of its calls."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call
        self.aborted = False

    def _fail(self, call: str) -> None:
        if call == self.call:
            raise StorageError(f"no room to {call}")

    def begin(self, *arguments: Any) -> Mapping[str, Any]:
        self._fail("begin")
        return super().begin(*arguments)

    def commit(self, state: MachineState) -> None:
        self._fail("commit")
        super().commit(state)

    def digest(self, done: Callable[[int], None]) -> Mapping[str, str]:
        self._fail("digest")
        return super().digest(done)

    def abort(self) -> None:
        self.aborted = True
        super().abort()


async def looked_at(destination: QemuDestination, state: str) -> Progress:
    """The first look at it in a state."""
    async for progress in destination.progress():
        if progress.state == state:
            return progress
    raise AssertionError(f"it was never {state}")


async def waiting(destination: QemuDestination, words: str) -> bool:
    """Whether it waits for something, in these words, sooner or later."""
    async with asyncio.timeout(WAIT_S):
        async for progress in destination.progress():
            if any(words in waits for waits in progress.waiting_for):
                return True
    return False


async def until_failed(destination: QemuDestination) -> None:
    """The session has failed, whether it has ended or not."""
    async with asyncio.timeout(WAIT_S):
        while destination.report is None or not destination.report.cause:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return sorted(path.name for path in folder.iterdir())


async def until_closed(reader: asyncio.StreamReader) -> None:
    """By the other side, which has said nothing."""
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
