"""Our own ends are told by the settings of a QEMU, have the faults that they are given, and leave nothing behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qemu_pair import machine as state_of_machine
from qemu_pair import section
from tls_directories import tls_dir

from multifd.elements import Pong, ReturnMessage, Shut
from multifd.engine.connection import Connection
from multifd.engine.transport import Address
from multifd.errors import TransportError
from multifd.qemu.destination import QemuDestination
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.report import QemuReport
from multifd.testing.faults import Faults
from multifd.testing.peers import DestinationPeer, SourcePeer
from multifd.testing.pytest_plugin import DestinationFactory, SourceFactory
from multifd.testing.settings import MigrationSettings

SETTINGS = MigrationSettings(channels=3, compression="zlib")


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing if there is none."""
    return sorted(path.name for path in folder.parent.glob(f"{folder.name}/*"))


@pytest.fixture
def machine() -> MemoryMachine:
    """With something in its RAM, and no VM description."""
    state = replace(state_of_machine(description=None), sections=(section("timer"), section("cpu")))
    machine = MemoryMachine()
    blocks = machine.begin(state.configuration, state.ram, state.blocks)
    offsets = np.arange(4, dtype=np.int64) * 8192
    for view in blocks["pc.ram"].place(offsets):
        view[:] = b"\x2a" * len(view)
    machine.commit(state)
    return machine


async def test_a_machine_goes_from_one_to_the_other(
    machine: MemoryMachine, destination: DestinationFactory, source: SourceFactory
) -> None:
    """Channels and compression are those of the settings, and what arrives can be sent on."""
    peer = await destination(SETTINGS, description=False)
    sender = await source(machine, peer.address, SETTINGS)
    sent, received = await sender.result(), await peer.result()
    assert (sent.channels, received.channels) == (3, 3)
    assert received.dialect.compression == "zlib"
    assert peer.machine.state == machine.state
    assert peer.machine.blocks["pc.ram"].view == machine.blocks["pc.ram"].view


@pytest.mark.parametrize("at_the_source", [True, False])
async def test_either_end_can_have_the_faults(
    machine: MemoryMachine, destination: DestinationFactory, source: SourceFactory, at_the_source: bool
) -> None:
    """A SHUT that is made a refusal fails the source, and what was said is known."""
    faults = Faults(shut=1)
    peer = await destination(SETTINGS, None if at_the_source else faults, description=False)
    sender = await source(machine, peer.address, SETTINGS, faults if at_the_source else None)
    assert await sender.failure()
    assert (sender if at_the_source else peer).heard == [Pong(1), Shut(0)]


async def test_a_session_that_completes_is_no_failure(
    machine: MemoryMachine, destination: DestinationFactory, source: SourceFactory
) -> None:
    """A test that waits for a failure in vain is told so."""
    peer = await destination(SETTINGS, description=False)
    sender = await source(machine, peer.address, SETTINGS)
    with pytest.raises(AssertionError, match="completed"):
        await sender.failure()


async def test_a_subclass_can_do_more(
    machine: MemoryMachine, destination: DestinationFactory, source: SourceFactory
) -> None:
    """What no fault does: the destination of the test's own is used."""
    said: list[ReturnMessage] = []

    class Listening(QemuDestination):
        def send_return(self, message: ReturnMessage) -> None:
            said.append(message)
            super().send_return(message)

    peer = await destination(SETTINGS, kind=Listening, description=False)
    await (await source(machine, peer.address, SETTINGS)).result()
    assert said == [Pong(1), Shut(0)]


async def test_one_that_waits_can_be_closed() -> None:
    """Nobody comes: its session and its address are gone after `close`, also after the second."""
    peer = await DestinationPeer.open(SETTINGS)
    folder = Path(peer.address.removeprefix("unix:")).parent
    assert names(folder) == ["in"]
    await peer.close()
    await peer.close()
    assert names(folder) == []


async def test_what_nobody_expects_is_raised_when_all_is_closed() -> None:
    """A bug in what a test gave, say: line, listener and folder go all the same."""

    class Broken(QemuDestination):
        async def run(self) -> QemuReport:
            raise ZeroDivisionError

    peer = await DestinationPeer.open(SETTINGS, Faults(shut=1), kind=Broken)
    folder, line = peer._folder, peer.line
    assert line is not None
    await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError):
        await peer.close()
    assert not folder.exists()
    with pytest.raises((OSError, TransportError)):
        await Connection.connect(Address.parse(line.address))


async def test_who_closes_can_be_cancelled() -> None:
    """The cancellation is not taken for the session's own, and all is closed."""
    go_on = asyncio.Event()

    class Slow(QemuDestination):
        async def run(self) -> QemuReport:
            try:
                return await super().run()
            finally:
                await go_on.wait()

    peer = await DestinationPeer.open(SETTINGS, kind=Slow)
    await asyncio.sleep(0)
    closing = asyncio.create_task(peer.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not peer._folder.exists()
    go_on.set()
    await peer.close()


async def test_faults_and_tls_exclude_each_other(machine: MemoryMachine) -> None:
    """Nothing can be done to what is encrypted, so asking for both is an error on either side."""
    settings = MigrationSettings(tls_folder=tls_dir(), tls_hostname="localhost")
    with pytest.raises(ValueError, match="encrypted"):
        await DestinationPeer.open(settings, Faults(shut=1))
    with pytest.raises(ValueError, match="encrypted"):
        await SourcePeer.open(machine, "unix:nowhere", settings, Faults(shut=1))
