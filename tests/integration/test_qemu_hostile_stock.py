"""Streams of stock QEMUs that are corrupted on their way: nothing is kept, and the guest runs on at the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.corrupt_line import Corrupt, CorruptLine
from harness.qemu_receiving import names_in

from multifd.qemu.saved import SavingMachine
from multifd.testing.binaries import QemuBinary
from multifd.testing.peers import DestinationPeer
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow


def inverted(stream: str, at: int) -> Corrupt:
    """One byte of one stream."""

    def corrupt(name: str, offset: int, data: bytes) -> bytes:
        if name != stream or not offset <= at < offset + len(data):
            return data
        return data[: at - offset] + bytes((data[at - offset] ^ 0xFF,)) + data[at - offset + 1 :]

    return corrupt


def replaced(old: bytes, new: bytes) -> Corrupt:
    """In main; `old` comes in one piece, near enough always."""
    return lambda name, _, data: data.replace(old, new) if name == "main" else data


def lost(stream: str, at: int) -> Corrupt:
    """The rest of one stream is zeros."""

    def corrupt(name: str, offset: int, data: bytes) -> bytes:
        kept = max(0, at - offset) if name == stream else len(data)
        return data[:kept] + bytes(len(data) - min(kept, len(data)))

    return corrupt


ROWS: dict[str, tuple[Corrupt, str]] = {
    "the machine": (inverted("main", 14), "main at 8: configuration: expected a machine type in printable ASCII"),
    "a device's name": (
        replaced(b"\x0bglobalstate", b"\x0bglobalstats"),
        "main at .* the VM description says globalstate",
    ),
    "the VM description": (replaced(b'"devices": [', b'"devices":["'), "main at .*: VM description"),
    "a packet's magic": (inverted("channel0", 64), "channel 0 at 64: packet.magic"),
    "a packet's pages": (inverted("channel1", 64 + 16), "channel 1 at 64: packet.normal_pages"),
    "most of a channel": (lost("channel1", 100_000), "channel 1 at .*: packet.magic"),
}


@pytest.mark.parametrize("what", ROWS)
async def test_the_guest_runs_on(
    what: str, tmp_path: Path, qemu: QemuFactory, qemu_versions: tuple[QemuBinary, ...]
) -> None:
    """The destination says what was wrong, and the source's migration has failed, not its guest."""
    corrupt, words = ROWS[what]
    binary = qemu_versions[[*ROWS].index(what) % len(qemu_versions)]
    folder = tmp_path / "machines"
    folder.mkdir()
    source = await qemu(binary)
    async with (
        await DestinationPeer.open(into=SavingMachine(folder / "saved")) as peer,
        CorruptLine(peer.address, corrupt, tmp_path) as line,
    ):
        await source.configure(MigrationSettings())
        await source.wait_steps()
        await source.migrate(line.address)
        assert re.search(words, await peer.failure())
        await source.wait_migration("failed")
    assert names_in(folder) == []
    assert await source.wait_run_state("running")
    await source.wait_steps()
