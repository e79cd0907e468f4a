"""Faults between two stock QEMUs act as they are meant to, and what a QEMU does then is what the specification says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from interop_versions import VERSIONS

from multifd.elements import Pong, Shut, SwitchoverAck
from multifd.testing.binaries import QemuBinary, QemuError
from multifd.testing.faults import FaultLine, Faults, Treatment
from multifd.testing.guest import counts
from multifd.testing.pytest_plugin import LineFactory, QemuFactory, QemuOf
from multifd.testing.qemu import Machine, Qemu
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow

of_each_version = pytest.mark.parametrize("version", VERSIONS)
Begin = Callable[..., Awaitable[tuple[Qemu, Qemu, FaultLine]]]


@pytest.fixture
def begin(qemu: QemuFactory, fault_line: LineFactory) -> Begin:
    """Begin to migrate between two QEMUs of a version, over a line with faults."""

    async def start(
        binary: QemuBinary, faults: Faults, settings: MigrationSettings, machine: Machine | None = None
    ) -> tuple[Qemu, Qemu, FaultLine]:
        source, destination = await asyncio.gather(qemu(binary, machine), qemu(binary, machine, incoming=True))
        await destination.configure(settings)
        await source.configure(settings)
        await source.wait_steps()
        line = await fault_line(await destination.listen(), faults)
        await source.migrate(line.address)
        return source, destination, line

    return start


@of_each_version
async def test_a_line_without_faults_changes_nothing(begin: Begin, qemu_of: QemuOf, version: str) -> None:
    """The guest goes on at the destination, and what that one said is known in order."""
    source, destination, line = await begin(
        qemu_of(version), Faults(), MigrationSettings(channels=3, compression="zstd")
    )
    await source.wait_migration("completed")
    await destination.wait_run_state("running")
    await destination.wait_steps()
    assert counts(source.serial + destination.serial)[0] == 1
    assert line.heard == [Pong(1), Shut(0)]
    assert line.errors == []


async def test_a_source_waits_for_an_ack_that_is_held(begin: Begin, qemu_of: QemuOf) -> None:
    """With the ack held the guest runs on at the source; once it is released the migration completes."""
    source, _, line = await begin(qemu_of("10.0"), Faults(acks=Treatment.HOLD), MigrationSettings(switchover_ack=True))
    await line.wait_acted()
    await source.wait_steps(200)
    assert (await source.migration())["status"] == "active"
    assert line.heard == [SwitchoverAck(), Pong(1)]
    line.release()
    await source.wait_migration("completed")


async def test_a_source_whose_ack_is_lost_can_be_cancelled(begin: Begin, qemu_of: QemuOf) -> None:
    """It stays active with its guest running, until somebody cancels."""
    source, _, line = await begin(
        qemu_of("11.1"), Faults(acks=Treatment.DROP), MigrationSettings(switchover_ack=True),
        Machine(type="pc-q35-11.0"),
    )  # fmt: skip
    await line.wait_acted()
    await source.wait_steps(100)
    assert (await source.migration())["status"] == "active"
    await source.execute("migrate_cancel")
    await source.wait_migration("cancelled")
    await source.wait_steps()


@pytest.mark.parametrize("faults", [Faults(acks=Treatment.DOUBLE), Faults(surplus_acks=1)], ids=["double", "surplus"])
async def test_one_ack_too_many_hangs_a_new_source(begin: Begin, qemu_of: QemuOf, faults: Faults) -> None:
    """QEMU 11.1 says that acks underflow, and neither completes nor fails; its guest runs on."""
    machine = Machine(type="pc-q35-11.0" if faults.acks is Treatment.DOUBLE else "pc-q35-11.1")
    source, _, line = await begin(qemu_of("11.1"), faults, MigrationSettings(switchover_ack=True), machine)
    await line.wait_acted()
    await source.wait_steps(200)
    assert (await source.migration())["status"] == "active"


@of_each_version
async def test_a_refusal_at_the_end_leaves_the_guest_at_the_source(begin: Begin, qemu_of: QemuOf, version: str) -> None:
    """SHUT 1 in place of SHUT 0: the source has failed, and its guest goes on without a gap."""
    source, _, line = await begin(qemu_of(version), Faults(shut=1), MigrationSettings())
    with pytest.raises(QemuError, match="the migration is failed"):
        await source.wait_migration("completed")
    assert line.heard[-1] == Shut(0)
    await source.wait_steps()
    assert source.counts()[0] == 1


@of_each_version
async def test_a_channel_that_is_cut_fails_the_migration(begin: Begin, qemu_of: QemuOf, version: str) -> None:
    """A channel lost in the middle of its pages: the source fails and its guest goes on."""
    source, _, line = await begin(qemu_of(version), Faults(cut=(1, 1 << 20)), MigrationSettings())
    await line.wait_acted()
    with pytest.raises(QemuError, match="the migration is failed"):
        await source.wait_migration("completed")
    await source.wait_steps()
    assert source.counts()[0] == 1


@of_each_version
async def test_a_sync_that_is_late_is_waited_for(begin: Begin, qemu_of: QemuOf, version: str) -> None:
    """With a SYNC of one channel stalled the destination does nothing else, not even answer; then all goes on."""
    source, destination, line = await begin(qemu_of(version), Faults(stall_sync=(1, 2)), MigrationSettings())
    await line.wait_acted()
    unanswered = await asyncio.wait_for(freezes(destination), 10)
    line.release()
    await unanswered
    await source.wait_migration("completed")
    await destination.wait_run_state("running")
    await destination.wait_steps()
    assert counts(source.serial + destination.serial)[0] == 1


async def freezes(qemu: Qemu) -> asyncio.Task[str]:
    """Ask until no answer comes; the question that is open."""
    while True:
        question = asyncio.create_task(qemu.run_state())
        if not (await asyncio.wait([question], timeout=0.2))[0]:
            return question
