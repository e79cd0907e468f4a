"""A destination for stock QEMUs: what it says is what they do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from multifd.errors import MigrationCancelledError, StorageError
from multifd.qemu.destination import QemuDestination
from multifd.qemu.saved import SavedMachine, SavingMachine
from multifd.testing.binaries import QemuBinary
from multifd.testing.certificates import make_tls_dir
from multifd.testing.peers import DestinationPeer
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import MANY_DEVICES, Machine
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow


class Refusing(QemuDestination):
    """Has all of it, and can't keep it."""

    def before_commit(self) -> None:
        raise StorageError("no room")


async def test_a_machine_is_saved(tmp_path: Path, qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """Many devices, compressed, over TCP: RAM as in the source's memory file, all sections, and the source is done."""
    source = await qemu(qemu_binary, Machine(devices=MANY_DEVICES))
    settings = MigrationSettings(channels=4, compression="zlib")
    async with await DestinationPeer.open(
        settings, into=SavingMachine(tmp_path / "saved"), address="tcp:127.0.0.1:0"
    ) as peer:
        await source.configure(settings)
        await source.wait_steps()
        await source.migrate(peer.address)
        report = await peer.result()
    await source.wait_migration("completed")
    assert report.machine == qemu_binary.q35
    assert report.digests["m"] == hashlib.sha256(source.memory.read_bytes()).hexdigest()
    with SavedMachine.open(tmp_path / "saved") as saved:
        assert [(each.header.name, each.header.instance) for each in (*saved.state.early, *saved.state.sections)] == [
            (name, instance) for name, instance, _ in report.sections
        ]
    assert len(report.sections) > 30
    assert 0 < (report.commit_s or 0) <= (report.stop_s or 0)


async def test_what_can_not_be_kept_stays_at_the_source(qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """A failure with everything received: SHUT 1, and the guest runs on."""
    source = await qemu(qemu_binary)
    async with await DestinationPeer.open(kind=Refusing) as peer:
        await source.configure(MigrationSettings())
        await source.wait_steps()
        await source.migrate(peer.address)
        assert "no room" in await peer.failure()
        await source.wait_migration("failed")
    assert await source.wait_run_state("running")
    await source.wait_steps()


async def test_cancelling_leaves_the_guest_at_the_source(qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """In the midst of a slow migration."""
    source = await qemu(qemu_binary)
    settings = MigrationSettings(bandwidth=1 << 20)
    async with await DestinationPeer.open(settings) as peer:
        await source.configure(settings)
        await source.wait_steps()
        await source.migrate(peer.address)
        async for progress in peer.destination.progress():
            if progress.state in ("live", "part"):
                break
        assert peer.destination.cancel("enough")
        with pytest.raises(MigrationCancelledError):
            await peer.result()
        await source.wait_migration("failed")
    assert await source.wait_run_state("running")
    await source.wait_steps()


async def test_under_tls(tmp_path: Path, qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """Both sides verified; every connection ends in order, so that the source is content."""
    source = await qemu(qemu_binary)
    settings = MigrationSettings(channels=3, tls_folder=make_tls_dir(tmp_path), tls_hostname="localhost")
    async with await DestinationPeer.open(settings) as peer:
        await source.configure(settings)
        await source.wait_steps()
        await source.migrate(peer.address)
        report = await peer.result()
        await source.wait_migration("completed")
    assert report.security.startswith("TLS 1.3")
    assert report.digests["m"] == hashlib.sha256(source.memory.read_bytes()).hexdigest()
