"""What a QEMU sends and we do not take, or what it takes back: its guest runs on, nothing is kept, and the next one is
received.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from interop_ends import Ended, LibraryReceiver, QemuOf, ReceiverFactory, inspected, left_in, saved_ram, send, settings
from interop_rows import DEFAULT, Link
from interop_versions import VERSIONS
from tls_directories import tls_dir

from multifd.elements import Shut
from multifd.limits import MIB
from multifd.qemu.saved import SavedMachine
from multifd.testing.binaries import QemuError
from multifd.testing.guest import counts
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import Qemu, differing_pages
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow

LINK = Link()
OLDEST_FIRST = ("7.2", *(pytest.param(version, marks=pytest.mark.interop) for version in ("10.0", "11.1")))
STRANGER = "stranger"
CAS = ("usual", STRANGER)
SHARED = settings(LINK, capabilities=("x-ignore-shared",))


async def refused(first: Qemu, told: MigrationSettings, address: str) -> None:
    """The source's migration fails and its guest goes on without a gap."""
    await first.configure(told)
    await first.wait_steps()
    await first.migrate(address)
    with pytest.raises(QemuError, match="the migration is failed"):
        await first.wait_migration("completed")
    await first.wait_run_state("running")
    await first.wait_steps()
    assert first.counts()[0] == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_without_ram_is_refused(
    version: str, qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """x-ignore-shared: no SHUT 0 is said, the guest goes on at the source, and nothing is left."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(receive("library", LINK, into), qemu(qemu_of(version)))
    await refused(first, SHARED, peer.address)
    ended = await peer.end()
    assert ended.code == 3, ended
    assert "x-ignore-shared" in ended.data["cause"]
    assert isinstance(peer, LibraryReceiver)
    assert peer.destination.replies == [Shut(1)]
    assert left_in(into.parent) == set()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_without_ram_is_taken_if_asked_for(
    version: str, qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """It is told to be without RAM; sent to a QEMU that has the same memory file, its guest goes on."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(receive("command", LINK, into, allow_ignore_shared=True), qemu(qemu_of(version)))
    await first.configure(SHARED)
    await first.wait_steps()
    await first.migrate(peer.address)
    received = await peer.end()
    assert received.code == 0, received
    await first.wait_migration("completed")
    assert received.data["without_ram"] is True
    digests = {block["name"]: block["sha256"] for block in received.data["blocks"]}
    assert digests["m"] is None
    assert left_in(into.parent) == {"saved"}
    with SavedMachine.open(into) as saved:
        assert saved.contents("m") is None
    found = await inspected(into)
    assert found.code == 0, found
    last = await qemu(qemu_of(version), incoming=True, paused=True, memory=first.memory)
    await last.configure(SHARED)
    sent = await send("library", LINK, into, await last.listen(), DEFAULT)
    assert sent.code == 0, sent
    assert sent.data["without_ram"] is True
    await last.wait_migration("completed")
    await last.execute("cont")
    await last.wait_steps()
    assert counts(first.serial + last.serial)[0] == 1


@pytest.mark.parametrize("version", OLDEST_FIRST)
async def test_a_source_without_return_path_is_refused(
    version: str, qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """It could not be refused later: so it is refused before any page, and the guest goes on."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(receive("command", LINK, into), qemu(qemu_of(version)))
    await refused(first, settings(LINK, return_path=False), peer.address)
    ended = await peer.end()
    assert ended.code == 3, ended
    assert "return-path" in ended.data["cause"]
    assert ended.data["packets"]["packets"] == 0
    assert left_in(into.parent) == set()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_source_with_a_certificate_of_somebody_else_is_refused(
    version: str, qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """It comes no further than TLS, and the right one is taken after it."""
    link, into = Link(security="tls"), tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(receive("library", link, into), qemu(qemu_of(version)))
    folder = tmp_path / "stranger"  # it trusts us, but we don't trust it
    folder.mkdir()
    (folder / "ca-cert.pem").write_bytes(b"".join((tls_dir(ca) / "ca-cert.pem").read_bytes() for ca in CAS))
    for name in ("client-cert.pem", "client-key.pem"):
        (folder / name).write_bytes((tls_dir(STRANGER) / name).read_bytes())
    await refused(first, replace(settings(link), tls_folder=folder), peer.address)
    again = await qemu(qemu_of(version))
    await again.configure(settings(link))
    await again.migrate(peer.address)
    ended = await peer.end()
    assert ended.code == 0, ended
    await again.wait_migration("completed")
    assert differing_pages(again.ram(), saved_ram(into)) == []


@pytest.mark.parametrize("receiver", ["command", pytest.param("library", marks=pytest.mark.interop)])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_migration_that_is_cancelled_leaves_nothing(
    receiver: str, version: str, qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """Cancelled in the middle of its pages; its guest goes on, and is received by the next one."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(receive(receiver, LINK, into), qemu(qemu_of(version)))
    await first.configure(settings(LINK, bandwidth=2 * MIB))
    await first.wait_steps()
    await first.migrate(peer.address)
    await under_way(first)
    await first.execute("migrate_cancel")
    # 7.2 shuts its return path before it says that it cancels: its migration may find that first, and fail
    await first.wait_migration("cancelled", "failed")
    ended: Ended = await peer.end()
    assert ended.code == 1, ended
    assert "cancelled" in ended.data["cause"]
    assert left_in(into.parent) == set()
    await first.wait_run_state("running")
    await first.wait_steps()
    peer = await receive(receiver, LINK, into)
    await first.configure(settings(LINK))
    await first.migrate(peer.address)
    ended = await peer.end()
    assert ended.code == 0, ended
    await first.wait_migration("completed")
    assert differing_pages(first.ram(), saved_ram(into)) == []
    assert first.counts()[0] == 1


async def under_way(first: Qemu) -> None:
    """Until it has sent a tenth of a MiB."""
    while True:
        info = await first.wait_migration("active")
        if info["ram"]["transferred"] > MIB // 10:
            return
