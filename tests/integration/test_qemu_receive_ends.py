"""How a destination of QEMU's dialect ends: SHUT 0 is the commit, said when all is stored; whatever goes wrong before,
or calls it off, leaves the guest at the source and nothing here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from harness.qemu_receiving import WAIT_S, Failing, Stopped, fail, looked_at, names_in, receive, until_failed
from harness.qemu_replay import ReplaySource, options_for
from qemu_corpus import thin

from multifd.elements import Pong, ReturnMessage, Shut
from multifd.errors import (
    LocalProtocolError,
    MigrationCancelledError,
    StorageError,
    TransportError,
)
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.saved import SavingMachine
from multifd.stats import Outcome

PLAIN = "10.0-none-uuid-validate"
pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
async def listener() -> AsyncIterator[QemuListener]:
    listener = QemuListener.open("tcp:127.0.0.1:0")
    yield listener
    await listener.close()


# -- when it commits ---------------------------------------------------------------------------------------------------


async def test_shut_0_comes_after_commit(listener: QemuListener) -> None:
    """All has come and nothing is said as long as it is not stored."""
    streams, machine = thin(PLAIN), MemoryMachine()
    destination = Stopped(listener, machine, options_for(streams))
    source = ReplaySource(streams)
    running = asyncio.create_task(receive(destination, source, listener))
    await asyncio.wait_for(destination.asked.wait(), WAIT_S)
    assert source.answers == [Pong(1)]
    assert (await looked_at(destination, "storing")).waiting_for == ("all of it to be on the disk",)
    destination.go_on.set()
    await running
    assert source.answers == [Pong(1), Shut(0)]


async def test_a_source_that_dies_meanwhile_keeps_its_guest(listener: QemuListener, tmp_path: Path) -> None:
    """Main ends while the machine is being stored: what is stored is taken back."""
    streams = thin(PLAIN)
    destination = Stopped(listener, SavingMachine(tmp_path / "saved"), options_for(streams))
    source = ReplaySource(streams, then_end=True)
    running = asyncio.create_task(fail(destination, source, listener))
    await asyncio.wait_for(destination.asked.wait(), WAIT_S)
    await until_failed(destination)
    destination.go_on.set()
    assert isinstance((await running).__cause__, TransportError)
    assert names_in(tmp_path) == []


async def test_shut_0_that_can_not_be_said_commits_nothing(listener: QemuListener) -> None:
    """The source is gone when it is to be written: the guest is there, and what was stored goes."""

    class Speechless(QemuDestination):
        def send_return(self, message: ReturnMessage) -> None:
            if message == Shut(0):
                raise TransportError("main was lost")
            super().send_return(message)

    machine = Failing("")
    error = await fail(
        Speechless(listener, machine, options_for(thin(PLAIN))), ReplaySource(thin(PLAIN), then_end=True), listener
    )
    assert machine.aborted
    assert "main" in str(error)


@pytest.mark.parametrize("call", ["begin", "commit"])
async def test_storage_that_fails_is_shut_1(call: str, listener: QemuListener) -> None:
    """A full disk, say: the source hears of it and goes on."""
    machine, source = Failing(call), ReplaySource(thin(PLAIN))
    error = await fail(QemuDestination(listener, machine, options_for(thin(PLAIN))), source, listener)
    assert isinstance(error.__cause__, StorageError)
    assert source.answers[-1] == Shut(1)
    assert machine.aborted


async def test_digests_that_fail_change_nothing(listener: QemuListener) -> None:
    """The machine is whole and given up by its source: the report says what is missing."""
    destination = QemuDestination(listener, Failing("digest"), options_for(thin(PLAIN)))
    report = await receive(destination, ReplaySource(thin(PLAIN)), listener)
    assert (report.outcome, report.digests) == (Outcome.COMPLETED, {})
    assert report.notes == ("no digests: no room to digest",)


async def test_digests_can_be_given_up(listener: QemuListener) -> None:
    """Cancelling says that it is too late for the migration, and ends the digests."""
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow(MemoryMachine):
        def digest(self, done: Callable[[int], None]) -> Mapping[str, str]:
            loop.call_soon_threadsafe(began.set)
            assert go_on.wait(WAIT_S)
            return super().digest(done)

    destination = QemuDestination(listener, Slow(), options_for(thin(PLAIN)))
    running = asyncio.create_task(receive(destination, ReplaySource(thin(PLAIN)), listener))
    await asyncio.wait_for(began.wait(), WAIT_S)
    assert not destination.cancel("enough")
    go_on.set()
    report = await running
    assert (report.outcome, report.digests) == (Outcome.COMPLETED, {})
    assert report.notes == ("the digests were not finished",)


# -- calling it off ----------------------------------------------------------------------------------------------------


async def test_cancelling_before_anybody_came(listener: QemuListener) -> None:
    """It ends at once; a second call is too late."""
    machine = Failing("")
    destination = QemuDestination(listener, machine, QemuDestinationOptions())
    assert not destination.cancel("too early")
    running = asyncio.create_task(destination.run())
    await asyncio.sleep(0)
    assert destination.cancel("enough")
    with pytest.raises(MigrationCancelledError, match="enough") as caught:
        await running
    assert not destination.cancel("twice")
    assert caught.value.report.outcome is Outcome.CANCELLED
    assert machine.aborted


async def test_cancelling_during_commit(listener: QemuListener, tmp_path: Path) -> None:
    """Until SHUT 0 is said it is not too late: SHUT 1, and what is being stored goes."""
    streams = thin(PLAIN)
    destination = Stopped(listener, SavingMachine(tmp_path / "saved"), options_for(streams))
    source = ReplaySource(streams)
    running = asyncio.create_task(receive(destination, source, listener))
    await asyncio.wait_for(destination.asked.wait(), WAIT_S)
    assert destination.cancel("enough")
    destination.go_on.set()
    with pytest.raises(MigrationCancelledError):
        await running
    assert source.answers[-1] == Shut(1)
    assert names_in(tmp_path) == []


async def test_cancelling_the_task_releases_everything(listener: QemuListener) -> None:
    """The task that runs it may be cancelled at any time: it ends when all is released."""
    streams, machine = thin(PLAIN), Failing("")
    destination = Stopped(listener, machine, options_for(streams))
    running = asyncio.create_task(destination.run())
    source = ReplaySource(streams)
    playing = asyncio.create_task(source.play(listener.address))
    await asyncio.wait_for(destination.asked.wait(), WAIT_S)
    running.cancel()
    destination.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await playing)[-1] == Shut(1)
    assert machine.aborted
    assert destination.report is not None
    assert destination.report.outcome is Outcome.CANCELLED


async def test_one_object_is_for_one_run(listener: QemuListener) -> None:
    """A second run is refused."""
    destination = QemuDestination(listener, MemoryMachine(), options_for(thin(PLAIN)))
    await receive(destination, ReplaySource(thin(PLAIN)), listener)
    with pytest.raises(LocalProtocolError):
        await destination.run()
