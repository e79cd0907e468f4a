"""What was received from a QEMU goes on at a fresh one, of the same version or another: sent by the command and by the
library, or read by that QEMU from where it was saved.
"""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path

import pytest
from interop_ends import QemuOf, ReceiverFactory, inspected, listening, send, settings
from interop_rows import DEFAULT, SEND_ROWS, USUAL, Link, SendRow, devices_of

from multifd.session.qemu_machine_type import machine_type
from multifd.testing.guest import counts
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import Machine, Qemu, differing_pages
from multifd.testing.settings import MigrationSettings

ROWS = [pytest.param(row, marks=[] if row in USUAL else pytest.mark.interop, id=str(row)) for row in SEND_ROWS]
TO_FILE = MigrationSettings(capabilities=("mapped-ram",), return_path=False)


def test_rows_have_what_each_version_takes() -> None:
    """Each version is sent each compression and each form of zero pages that it takes, over each kind of address."""
    tried = {(row.destination, value) for row in SEND_ROWS for value in (row.zero_pages, *str(row.link).split("-"))}
    wanted = set(product(("7.2", "10.0", "11.1"), ("legacy", "none", "zlib", "zstd", "tcp", "unix", "tls", "plain")))
    forms = {(row.destination, sent_as(row)) for row in SEND_ROWS if row.sender != "file"}
    assert wanted - tried - forms == set()
    assert {(version, "multifd") for version in ("10.0", "11.1")} <= forms
    assert ("7.2", "multifd") not in forms
    assert len(set(SEND_ROWS)) == len(SEND_ROWS)


def sent_as(row: SendRow) -> str:
    """The form of zero pages that is used."""
    return machine_type(row.machine).zero_pages.value if row.zero_pages == DEFAULT else row.zero_pages


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
async def test_a_guest_goes_on(
    row: SendRow,
    qemu: QemuFactory,
    qemu_of: QemuOf,
    receive: ReceiverFactory,
    tmp_path: Path,
) -> None:
    """RAM is equal before the guest goes on; then it counts from where it was, without a gap."""
    machine = Machine(type=row.machine, devices=devices_of(row.machine, row.devices))
    into = tmp_path / "machines" / "saved"
    receiver, first, last = await asyncio.gather(
        receive("library", row.link, into),
        qemu(qemu_of(row.source), machine),
        qemu(qemu_of(row.destination), machine, incoming=True, paused=True),
    )
    await first.configure(settings(row.link))
    await first.wait_steps()
    await first.migrate(receiver.address)
    received = await receiver.end()
    assert received.code == 0, received
    await first.wait_migration("completed")
    if row.sender == "file":
        await load(last, into)
    else:
        await receive_by(last, row, into)
    await goes_on(first, last)


async def goes_on(first: Qemu, last: Qemu) -> None:
    """The guest has arrived whole, and counts on."""
    await last.wait_migration("completed")
    assert await last.run_state() == "paused"
    assert differing_pages(first.ram(), last.ram()) == []
    assert first.ram().any()
    assert last.serial == b""
    await last.execute("cont")
    await last.wait_steps()
    assert counts(first.serial + last.serial)[0] == 1


async def receive_by(last: Qemu, row: SendRow, machine: Path) -> None:
    """A QEMU receives the saved machine from us."""
    await last.configure(settings(row.link))
    sent = await send(row.sender, row.link, machine, await last.listen(listening(row.link)), row.zero_pages)
    assert sent.code == 0, sent
    assert sent.data["outcome"] == "completed"
    kind = machine_type(row.machine)
    assert sent.data["dialect"]["sync"] == kind.sync.value
    assert sent.data["dialect"]["zero_pages"] == [sent_as(row)]
    assert sent.data["dialect"]["compression"] == row.link.compression
    assert sent.data["security"].startswith("plain" if row.link.security == "plain" else "TLS 1.3")


async def load(last: Qemu, machine: Path) -> None:
    """A QEMU reads the saved machine by itself."""
    await last.configure(TO_FILE)
    await last.listen(f"file:{machine / 'vm'}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "destination", "kind"),
    [
        ("11.1", "11.1", "pc-i440fx-11.1"),
        pytest.param("10.0", "11.1", "pc-q35-10.0", marks=pytest.mark.interop),
        pytest.param("11.1", "7.2", "pc-q35-7.2", marks=pytest.mark.interop),
    ],
)
async def test_what_a_qemu_has_saved_goes_on(
    source: str, destination: str, kind: str, qemu: QemuFactory, qemu_of: QemuOf, tmp_path: Path
) -> None:
    """A mapped-ram file of a QEMU's own is sent like what we have saved."""
    saved, machine, link = tmp_path / "saved", Machine(type=kind), Link()
    first, last = await asyncio.gather(
        qemu(qemu_of(source), machine), qemu(qemu_of(destination), machine, incoming=True, paused=True)
    )
    await first.configure(TO_FILE)
    await first.wait_steps()
    await first.migrate(f"file:{saved}")
    await first.wait_migration("completed")
    found = await inspected(saved)
    assert found.code == 0, found
    await last.configure(settings(link))
    sent = await send("library", link, saved, await last.listen(), DEFAULT)
    assert sent.code == 0, sent
    await goes_on(first, last)
