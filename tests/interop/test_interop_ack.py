"""What holds a QEMU source back, and what we owe it: acknowledgements of the switchover, and a pause before it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from interop_ends import Ended, LibraryReceiver, QemuOf, ReceiverFactory, left_in, saved_ram, settings
from interop_rows import Link
from interop_versions import VERSIONS

from multifd.elements import Pong, Shut, SwitchoverAck
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import Machine, Qemu, differing_pages

pytestmark = pytest.mark.slow

HOLD_S = 3.0
LINK = Link()


async def begun(first: Qemu, receiver_address: str, **more: Any) -> float:
    """Begin to migrate; when that was."""
    await first.configure(settings(LINK, **more))
    await first.wait_steps()
    await first.migrate(receiver_address)
    return monotonic()


@pytest.mark.parametrize(
    ("version", "machine", "receiver"),
    [
        ("10.0", "pc-q35-10.0", "command"),
        pytest.param("10.0", "pc-i440fx-8.2", "library", marks=pytest.mark.interop),
        pytest.param("11.1", "pc-q35-11.0", "library", marks=pytest.mark.interop),
    ],
)
async def test_an_ack_that_is_held_keeps_the_guest_at_the_source(
    version: str,
    machine: str,
    receiver: str,
    qemu: QemuFactory,
    qemu_of: QemuOf,
    receive: ReceiverFactory,
    tmp_path: Path,
) -> None:
    """A source of machine type 11.0 or older stays active for as long, its guest running, and completes right after."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(
        receive(receiver, LINK, into, switchover_ack="on", hold_ack_s=HOLD_S),
        qemu(qemu_of(version), Machine(type=machine)),
    )
    began = await begun(first, peer.address, switchover_ack=True)
    while monotonic() - began < HOLD_S - 0.5:
        await first.wait_steps(20)
        assert (await first.migration())["status"] == "active"
    info = await first.wait_migration("completed")
    took_s = info["total-time"] / 1000
    assert HOLD_S - 0.1 <= took_s < HOLD_S + 1.0
    received = await peer.end()
    assert received.code == 0, received
    assert received.data["dialect"]["ack"] == "legacy"
    acks = received.data["switchover_ack"]
    assert (acks["owed"], acks["given"]) == (1, 1)
    assert HOLD_S <= acks["held_s"] < HOLD_S + 0.5
    assert differing_pages(first.ram(), saved_ram(into)) == []
    assert first.counts()[0] == 1
    if isinstance(peer, LibraryReceiver):
        assert peer.destination.replies == [Pong(1), SwitchoverAck(), Shut(0)]


async def test_a_new_machine_type_is_given_no_ack(
    qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """A source of machine type 11.1 has no device that asks for one: it gets none and does not wait."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(
        receive("library", LINK, into, switchover_ack="on", hold_ack_s=HOLD_S),
        qemu(qemu_of("11.1"), Machine(type="pc-q35-11.1")),
    )
    await begun(first, peer.address, switchover_ack=True)
    info = await first.wait_migration("completed")
    assert info["total-time"] / 1000 < HOLD_S - 0.5
    received = await peer.end()
    assert received.code == 0, received
    assert received.data["dialect"]["ack"] == "counted"
    assert received.data["switchover_ack"] == {"owed": 0, "given": 0, "held_s": 0.0}
    assert isinstance(peer, LibraryReceiver)
    assert peer.destination.replies == [Pong(1), Shut(0)]
    assert differing_pages(first.ram(), saved_ram(into)) == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_source_that_pauses_before_the_switchover_is_waited_for(
    version: str, qemu: QemuFactory, qemu_of: QemuOf, receive: ReceiverFactory, tmp_path: Path
) -> None:
    """It stands still for a second before it goes on, and that changes nothing."""
    into = tmp_path / "machines" / "saved"
    peer, first = await asyncio.gather(receive("library", LINK, into), qemu(qemu_of(version)))
    await begun(first, peer.address, capabilities=("pause-before-switchover",))
    await first.wait_migration("pre-switchover")
    began = monotonic()
    while monotonic() - began < 1.0:
        assert (await first.migration())["status"] == "pre-switchover"
    await first.execute("migrate-continue", {"state": "pre-switchover"})
    received: Ended = await peer.end()
    assert received.code == 0, received
    await first.wait_migration("completed")
    assert left_in(into.parent) == {"saved"}
    assert differing_pages(first.ram(), saved_ram(into)) == []
