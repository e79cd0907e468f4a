"""Two stock QEMUs and nothing of ours in between: what the harness says of a migration is true."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from multifd.testing.binaries import QemuBinary, QemuError
from multifd.testing.certificates import make_tls_dir
from multifd.testing.guest import counts
from multifd.testing.pytest_plugin import QemuFactory, QemuOf
from multifd.testing.qemu import MANY_DEVICES, Machine, differing_pages
from multifd.testing.settings import CAPABILITY_SINCE, PARAMETER_SINCE, MigrationSettings, has

pytestmark = pytest.mark.slow

USUAL = [("10.0", "zlib"), ("11.1", "none"), ("11.1", "zstd")]
PAIRS = [("7.2", "10.0"), ("10.0", "11.1"), ("11.1", "10.0"), ("10.0", "7.2")]


async def moves(
    qemu: QemuFactory,
    pair: tuple[QemuBinary, QemuBinary],
    settings: MigrationSettings,
    machine: Machine,
    address: str | None,
) -> None:
    """Move the guest; its RAM arrives, and it goes on counting without a gap."""
    source, destination = await asyncio.gather(
        qemu(pair[0], machine), qemu(pair[1], machine, incoming=True, paused=True)
    )
    await destination.configure(settings)
    await source.configure(settings)
    await source.wait_steps()
    await source.migrate(await destination.listen(address))
    await source.wait_migration("completed")
    await destination.wait_migration("completed")
    assert await source.run_state() == "postmigrate"
    assert await destination.run_state() == "paused"
    assert differing_pages(source.ram(), destination.ram()) == []
    assert source.ram().any()
    assert destination.serial == b""
    await destination.execute("cont")
    await destination.wait_steps()
    assert counts(source.serial + destination.serial)[0] == 1


@pytest.mark.parametrize(
    ("version", "compression"),
    [
        pytest.param(version, compression, marks=[] if (version, compression) in USUAL else pytest.mark.interop)
        for version in ("7.2", "10.0", "11.1")
        for compression in ("none", "zlib", "zstd")
    ],
)
async def test_a_guest_moves_between_two_of_a_version(
    qemu: QemuFactory, qemu_of: QemuOf, version: str, compression: str
) -> None:
    """With each compression, over TCP or a unix socket, RAM is equal and the guest goes on."""
    settings = MigrationSettings(compression=compression)
    address = None if compression == "zlib" else "tcp:127.0.0.1:0"
    binary = qemu_of(version)
    machine = Machine(type=binary.i440fx if compression == "zstd" else None)
    await moves(qemu, (binary, binary), settings, machine, address)


@pytest.mark.parametrize(("older", "newer"), PAIRS, ids=lambda version: version)
@pytest.mark.interop
async def test_a_guest_moves_between_versions(qemu: QemuFactory, qemu_of: QemuOf, older: str, newer: str) -> None:
    """With the machine type of the older one a guest moves up and down."""
    pair = qemu_of(older), qemu_of(newer)
    await moves(qemu, pair, MigrationSettings(channels=4), Machine(type=min(pair).q35), None)


async def test_a_guest_runs_on_when_nobody_listens(qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """A migration to nowhere fails with a reason, which is in the error, and the guest goes on at the source."""
    source = await qemu(qemu_binary)
    await source.configure(MigrationSettings())
    await source.migrate(f"unix:{source.folder / 'nobody'}")
    with pytest.raises(QemuError, match=r"the migration is failed: .*nobody"):
        await source.wait_migration("completed")
    await source.wait_steps()
    assert await source.run_state() == "running"


async def test_a_qemu_that_does_not_come_up_says_why(qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """The words of a QEMU that ends at once are in the error."""
    with pytest.raises(QemuError, match="machine type"):
        await qemu(qemu_binary, Machine(type="no-such-machine"))


async def test_what_a_version_has_not_is_said_before_it_is_asked(qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """The table of capabilities and parameters is right for each version: none is refused that the table has."""
    one = await qemu(qemu_binary, paused=True)
    known = {item["capability"] for item in await one.execute("query-migrate-capabilities")}
    known |= set(await one.execute("query-migrate-parameters"))
    listed = {*CAPABILITY_SINCE, *PARAMETER_SINCE}
    assert {name for name in listed if has(name, qemu_binary.version)} == listed & known


@pytest.mark.interop
@pytest.mark.parametrize("address", [None, "tcp:127.0.0.1:0"], ids=["unix", "tcp"])
async def test_a_guest_moves_over_tls(
    qemu: QemuFactory, qemu_binary: QemuBinary, tmp_path: Path, address: str | None
) -> None:
    """With certificates that both sides verify; over a unix socket the name to look for is told."""
    settings = MigrationSettings(
        tls_folder=make_tls_dir(tmp_path / "tls"), tls_hostname=None if address else "localhost"
    )
    await moves(qemu, (qemu_binary, qemu_binary), settings, Machine(), address)


@pytest.mark.interop
async def test_a_guest_with_many_devices_moves(qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """A machine with devices of all sorts comes up and moves."""
    machine = Machine(devices=MANY_DEVICES)
    await moves(qemu, (qemu_binary, qemu_binary), MigrationSettings(channels=8), machine, None)
