"""A machine that a stock QEMU sends is received whole: each version, machine type, compression, form of zero pages,
number of channels, address, TLS, few devices and many, by the command and by the library, in pairs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from interop_ends import Ended, QemuOf, ReceiverFactory, inspected, left_in, saved_ram, settings
from interop_rows import DEFAULT, RECEIVE_ROWS, USUAL, ReceiveRow, devices_of, pairs_of, possible_pairs

from multifd.elements import SyncDialect, ZeroPages
from multifd.qemu.inspect import inspect
from multifd.qemu.saved import SavedMachine
from multifd.session.qemu_machine_type import machine_type
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import Machine, Qemu, differing_pages

ROWS = [pytest.param(row, marks=[] if row in USUAL else pytest.mark.interop, id=str(row)) for row in RECEIVE_ROWS]


def test_rows_cover_every_pair() -> None:
    """Every two values that a QEMU can have at once are in some row, and every QEMU with each machine type."""
    tried = {pair for row in RECEIVE_ROWS for pair in pairs_of(row)}
    assert set(possible_pairs()) - tried == set()
    assert len(set(RECEIVE_ROWS)) == len(RECEIVE_ROWS) == 25


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
async def test_a_machine_is_received_whole(
    row: ReceiveRow,
    qemu: QemuFactory,
    qemu_of: QemuOf,
    receive: ReceiverFactory,
    tmp_path: Path,
) -> None:
    """The source completes; RAM is that of its memory file, sections are those of the VM description, what is told is
    what was asked for, and nothing else is left.
    """
    machine = Machine(type=row.machine, devices=devices_of(row.machine, row.devices))
    into = tmp_path / "machines" / "saved"
    receiver, source = await asyncio.gather(receive(row.receiver, row.link, into), qemu(qemu_of(row.qemu), machine))
    await source.configure(settings(row.link, zero_pages=None if row.zero_pages == DEFAULT else row.zero_pages))
    await source.wait_steps()
    await source.migrate(receiver.address)
    received = await receiver.end()
    assert received.code == 0, received
    await source.wait_migration("completed")
    assert left_in(into.parent) == {"saved"}
    assert differing_pages(source.ram(), saved_ram(into)) == []
    assert source.ram().any()
    check_report(row, received.data)
    check_live(received.data, into)
    await check_inspection(row, received, into)
    assert await source.run_state() == "postmigrate"
    check_counted(source)


def check_report(row: ReceiveRow, report: dict[str, Any]) -> None:
    """What the destination tells is what follows from the machine type and was asked for."""
    kind = machine_type(row.machine)
    asked = kind.zero_pages.value if row.zero_pages == DEFAULT else row.zero_pages
    zero_pages = [] if asked == ZeroPages.NONE.value else [asked]
    assert report["outcome"] == "completed"
    assert report["machine"] == row.machine
    assert report["dialect"] == {
        "sync": kind.sync.value,
        "ack": "off",
        "zero_pages": zero_pages,
        "compression": row.link.compression,
        "return_path": True,
        "switchover_start": kind.switchover_start,
        "description": True,
    }
    assert (kind.sync is SyncDialect.PER_SECTION) == (kind.version in ((7, 2), (8, 0)))
    assert report["channels"] == row.link.channels
    assert report["security"].startswith("plain" if row.link.security == "plain" else "TLS 1.3")
    assert report["notes"] == []


def check_live(report: dict[str, Any], into: Path) -> None:
    """The guest was running, and dirtied memory meanwhile: pages came more than once."""
    with SavedMachine.open(into) as machine:
        contents = filter(None, (machine.contents(block.name) for block in machine.state.blocks))
        present = sum(int(block.present.sum()) for block in contents)
    assert report["packets"]["normal_pages"] > present


async def check_inspection(row: ReceiveRow, received: Ended, into: Path) -> None:
    """Nothing is wrong with what was saved; digests and sections are those of the report."""
    if row.receiver == "command":
        ended = await inspected(into)
        assert ended.code == 0, ended
        found = ended.data
    else:
        found = (await asyncio.to_thread(inspect, into)).to_json()
    assert found["violations"] == []
    assert found["blocks"] == received.data["blocks"]
    sections = [{key: each[key] for key in ("name", "instance", "bytes")} for each in found["sections"]]
    assert sections == received.data["sections"]
    if row.devices == "many":
        names = " ".join(section["name"] for section in sections)
        missing = [part for part in ("virtio-net", "e1000e", "xhci", "virtio-scsi", "virtio-rng") if part not in names]
        assert missing == []
        assert ("pcie-root-port" in names) == ("q35" in row.machine)


def check_counted(source: Qemu) -> None:
    """The guest has counted without a gap until it was stopped."""
    assert source.counts()[0] == 1
