"""How a destination of QEMU's dialect ends: SHUT 0 is the commit, said when all is stored; whatever goes wrong before,
or calls it off, leaves the guest at the source and nothing here.
"""

from __future__ import annotations

import asyncio
import errno
import io
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from harness.qemu_receiving import WAIT_S, Failing, Stopped, fail, looked_at, names_in, receive, until_failed
from harness.qemu_replay import ReplaySource, options_for
from qemu_corpus import thin

from multifd.cli import qemu_receive
from multifd.cli.display import PlainDisplay
from multifd.cli.ending import ExitCode, exit_code_of
from multifd.elements import Pong, ReturnMessage, Shut
from multifd.engine.connection import Connection
from multifd.engine.transport import Address
from multifd.errors import (
    LocalProtocolError,
    MigrationCancelledError,
    MigrationInDoubtError,
    StorageError,
    TransportError,
)
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.saved import SavedMachine, SavingMachine
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


class Refused(QemuDestination):
    """SHUT 0 can't be written: it is known before."""

    def send_return(self, message: ReturnMessage) -> None:
        if message == Shut(0):
            raise TransportError("main was lost")
        super().send_return(message)

    def main(self) -> Connection:
        """The connection."""
        assert self._run is not None
        assert self._run._main is not None
        return self._run._main


class RefusedBySystem(Refused):
    """The system does not take it, which only the connection knows."""

    def send_return(self, message: ReturnMessage) -> None:
        if message == Shut(0):
            socket.socket.shutdown(self.main()._socket, socket.SHUT_WR)
        QemuDestination.send_return(self, message)


class LostOnItsWay(Refused):
    """The system takes nothing of it yet, and then main is lost."""

    def send_return(self, message: ReturnMessage) -> None:
        if message == Shut(0):
            self.main()._send = lambda data: 0  # type: ignore[method-assign]
            asyncio.get_running_loop().call_soon(self.main()._lose, BrokenPipeError(errno.EPIPE, "gone"))
        QemuDestination.send_return(self, message)


@pytest.mark.parametrize("kind", [Refused, RefusedBySystem, LostOnItsWay])
async def test_shut_0_that_can_not_be_said_is_in_doubt(
    kind: type[QemuDestination], listener: QemuListener, tmp_path: Path
) -> None:
    """The machine is stored, and stays: if the source crashed there is no other."""
    path = tmp_path / "saved"
    destination = kind(listener, SavingMachine(path), options_for(thin(PLAIN)), path=str(path))
    with pytest.raises(MigrationInDoubtError) as caught:
        await receive(destination, ReplaySource(thin(PLAIN)), listener)
    assert caught.value.report.outcome is Outcome.IN_DOUBT
    assert str(caught.value).startswith(
        f"SHUT 0 could not be said: {path} is whole and kept; ask query-migrate at the source before one of the two "
        "runs ("
    )
    assert exit_code_of(caught.value) is ExitCode.IN_DOUBT
    with SavedMachine.open(path) as saved:
        assert saved.state.configuration.machine == "pc-q35-10.0"


async def test_the_command_keeps_what_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes nothing away at its end."""
    monkeypatch.setattr(qemu_receive, "QemuDestination", RefusedBySystem)
    said = io.StringIO()
    where, path = f"unix:{tmp_path / 'in'}", tmp_path / "saved"
    display = PlainDisplay(said)
    running = asyncio.create_task(qemu_receive.receive(where, path, options_for(thin(PLAIN)), display=display))
    while "listening" not in said.getvalue():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    playing = asyncio.create_task(ReplaySource(thin(PLAIN)).play(Address.parse(where)))
    with pytest.raises(MigrationInDoubtError, match="SHUT 0 could not be said"):
        await asyncio.wait_for(running, WAIT_S)
    await playing
    assert names_in(tmp_path) == ["saved"]


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
