"""Our destination and our source beside stock QEMUs, with and without faults."""

from __future__ import annotations

import asyncio

import pytest
from interop_versions import VERSIONS

from multifd.elements import Pong, Shut, SwitchoverAck
from multifd.testing.binaries import QemuBinary, QemuError
from multifd.testing.faults import Faults, Treatment
from multifd.testing.guest import counts
from multifd.testing.pytest_plugin import DestinationFactory, QemuFactory, QemuOf, SourceFactory
from multifd.testing.qemu import differing_pages
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow

of_each_version = pytest.mark.parametrize("version", VERSIONS)


async def test_a_guest_goes_through_us_and_on(
    qemu: QemuFactory, destination: DestinationFactory, source: SourceFactory, qemu_binary: QemuBinary
) -> None:
    """Received from a QEMU and sent to a fresh one: RAM is equal both times, and the count has no gap."""
    settings = MigrationSettings(channels=3, compression="zstd")
    first, last = await asyncio.gather(qemu(qemu_binary), qemu(qemu_binary, incoming=True, paused=True))
    peer = await destination(settings)
    await first.configure(settings)
    await first.wait_steps()
    await first.migrate(peer.address)
    await peer.result()
    await first.wait_migration("completed")
    assert differing_pages(first.ram(), peer.ram()) == []
    await last.configure(settings)
    sender = await source(peer.machine, await last.listen(), settings)
    await sender.result()
    await last.wait_migration("completed")
    assert differing_pages(first.ram(), last.ram()) == []
    await last.execute("cont")
    await last.wait_steps()
    assert counts(first.serial + last.serial)[0] == 1


async def test_we_hold_an_ack(qemu: QemuFactory, destination: DestinationFactory, qemu_of: QemuOf) -> None:
    """The guest runs at the source until the ack is given, and no longer."""
    settings = MigrationSettings(switchover_ack=True)
    first = await qemu(qemu_of("10.0"))
    await first.configure(settings)
    peer = await destination(settings, Faults(acks=Treatment.HOLD))
    await first.migrate(peer.address)
    await first.wait_steps(200)
    assert (await first.migration())["status"] == "active"
    peer.release()
    await peer.result()
    await first.wait_migration("completed")
    assert set(peer.heard) == {SwitchoverAck(), Pong(1), Shut(0)}


@of_each_version
async def test_we_refuse_at_the_end(
    qemu: QemuFactory, destination: DestinationFactory, qemu_of: QemuOf, version: str
) -> None:
    """SHUT 1: the guest goes on at the source without a gap."""
    first = await qemu(qemu_of(version))
    await first.configure(MigrationSettings())
    peer = await destination(None, Faults(shut=1))
    await first.migrate(peer.address)
    with pytest.raises(QemuError, match="the migration is failed"):
        await first.wait_migration("completed")
    await first.wait_steps()
    assert first.counts()[0] == 1


@of_each_version
async def test_we_lose_a_channel(
    qemu: QemuFactory, destination: DestinationFactory, qemu_of: QemuOf, version: str
) -> None:
    """Both sides fail, and the guest goes on at the source."""
    first = await qemu(qemu_of(version))
    await first.configure(MigrationSettings())
    peer = await destination(None, Faults(cut=(1, 1 << 20)))
    await first.migrate(peer.address)
    assert await peer.failure()
    with pytest.raises(QemuError, match="the migration is failed"):
        await first.wait_migration("completed")
    await first.wait_steps()


async def test_a_qemu_loses_a_channel_of_ours(
    qemu: QemuFactory, destination: DestinationFactory, source: SourceFactory, qemu_of: QemuOf
) -> None:
    """A source of ours whose channel is cut has failed, whatever the QEMU makes of it."""
    binary = qemu_of("10.0")
    first, last = await asyncio.gather(qemu(binary), qemu(binary, incoming=True))
    await first.configure(MigrationSettings())
    await last.configure(MigrationSettings())
    peer = await destination()
    await first.migrate(peer.address)
    await peer.result()
    sender = await source(peer.machine, await last.listen(), None, Faults(cut=(0, 1 << 20)))
    assert await sender.failure()
