"""`multifd qemu send`: a saved machine goes on at a QEMU; what goes wrong is told, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qemu_machines import contents, memory_machine, state_of

from multifd import limits
from multifd.elements import PAGE_BYTES, Compression, ZeroPages
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.origin import MachineOrigin
from multifd.qemu.saved import SavedMachine, SavingMachine
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.testing.binaries import QemuBinary
from multifd.testing.peers import DestinationPeer
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import Qemu, differing_pages
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow

WAIT_S = 30.0  # far more than anything here takes


@dataclass
class Ended:
    code: int
    data: dict[str, Any]
    said: str


async def multifd(*arguments: object, until: Callable[[asyncio.subprocess.Process], Any] | None = None) -> Ended:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "multifd", *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        if until is not None:
            await until(process)
        out, said = await asyncio.wait_for(process.communicate(), WAIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, json.loads(out) if out.startswith(b"{") else {"text": out.decode()}, said.decode())


def save(machine: MachineOrigin, path: Path) -> Path:
    """As a saved machine in a folder."""
    saving = SavingMachine(path)
    state = machine.state
    targets = saving.begin(state.configuration, state.ram, state.blocks)
    for name, target in targets.items():
        block = machine.contents(name)
        assert block is not None
        offsets = np.flatnonzero(block.present) * state.configuration.page_size
        done = 0
        data = b"".join(block.view[at : at + PAGE_BYTES] for at in offsets.tolist())
        for view in target.place(offsets):
            view[:] = data[done : done + len(view)]
            done += len(view)
    saving.commit(state)
    return path


@pytest.fixture
async def ours() -> AsyncIterator[Callable[..., Any]]:
    """Our own destination, in memory."""
    made: list[DestinationPeer] = []

    async def open_peer(**options: Any) -> DestinationPeer:
        made.append(await DestinationPeer.open(MigrationSettings(**options)))
        return made[-1]

    yield open_peer
    for each in made:
        await each.close()


async def test_a_saved_machine_arrives(tmp_path: Path, ours: Callable[..., Any]) -> None:
    """By the command, with options; the object at the end says what went."""
    machine = memory_machine(state_of(pages=3000))
    saved = save(machine, tmp_path / "saved")
    peer = await ours(channels=3, compression="zlib")
    ended = await multifd(
        "qemu", "send", saved, "--to", peer.address, "--channels", 3, "--compression", "zlib",
        "--zero-pages", "legacy", "--json",
    )  # fmt: skip
    assert (ended.code, ended.said.count("\n") < 10) == (0, True), ended
    await peer.result()
    assert contents(peer.machine) == contents(machine)
    assert peer.machine.state == machine.state
    data = ended.data
    assert (data["outcome"], data["machine"], data["channels"]) == ("completed", "pc-q35-10.0", 3)
    assert data["dialect"]["compression"] == "zlib"
    assert data["main"]["zero_pages"] + data["packets"]["normal_pages"] == 3017
    assert data["path"] == str(saved)


async def test_for_people(tmp_path: Path, ours: Callable[..., Any]) -> None:
    """What was sent, in a few lines; also of the bare file."""
    saved = save(memory_machine(), tmp_path / "saved")
    (bare,) = [path for path in saved.iterdir() if path.stat().st_size > 1 << 20]
    peer = await ours()
    ended = await multifd("qemu", "send", bare, "--to", peer.address)
    assert ended.code == 0, ended
    assert "sent pc-q35-10.0" in ended.data["text"]
    assert "over 2 channels" in ended.data["text"]


async def test_what_went_wrong_is_told(tmp_path: Path) -> None:
    """Nobody there, no machine, no such option: exit code, sentence and object."""
    saved = save(memory_machine(), tmp_path / "saved")
    nobody, nothing, many = await asyncio.gather(
        multifd("qemu", "send", saved, "--to", f"unix:{tmp_path}/nobody", "--json"),
        multifd("qemu", "send", tmp_path / "nothing", "--to", "tcp:127.0.0.1:1", "--json"),
        multifd("qemu", "send", saved, "--to", "tcp:127.0.0.1:1", "--channels", 256),
    )
    assert (nobody.code, nobody.data["outcome"]) == (1, "failed")
    assert "can't connect to" in nobody.data["cause"]
    assert (nothing.code, nothing.data["outcome"]) == (1, "failed")
    assert "nothing" in nothing.said
    assert many.code == 2
    assert "1 to 255" in many.said


async def test_a_signal_ends_it(tmp_path: Path) -> None:
    """Also while the destination does not read; the machine that was to be sent is as it was."""
    machine = memory_machine(state_of(pages=20_000))
    saved = save(machine, tmp_path / "saved")
    path = tmp_path / "in"
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda _, writer: accepted.put_nowait(writer), path, limit=1)

    async def interrupt(process: asyncio.subprocess.Process) -> None:
        for _ in range(3):
            writers.append(await asyncio.wait_for(accepted.get(), WAIT_S))
        process.send_signal(signal.SIGINT)

    writers: list[asyncio.StreamWriter] = []
    ended = await multifd("qemu", "send", saved, "--to", f"unix:{path}", "--json", until=interrupt)
    for writer in writers:
        writer.close()
    server.close()
    assert (ended.code, ended.data["outcome"]) == (130, "cancelled"), ended
    assert "the saved machine is as it was" in ended.said
    with SavedMachine.open(saved) as again:
        assert again.state == machine.state


# -- to stock QEMUs


async def received(qemu: QemuFactory, binary: QemuBinary) -> tuple[Qemu, MemoryMachine]:
    """A QEMU whose guest ran, and the machine that it sent us."""
    first = await qemu(binary)
    async with await DestinationPeer.open() as peer:
        await first.configure(MigrationSettings())
        await first.wait_steps()
        await first.migrate(peer.address)
        await peer.result()
    await first.wait_migration("completed")
    return first, peer.machine


async def test_a_guest_goes_on_at_every_version(tmp_path: Path, qemu: QemuFactory, qemu_binary: QemuBinary) -> None:
    """Saved, and sent by the command: RAM equal when it stands, and the count goes on without a gap."""
    first, machine = await received(qemu, qemu_binary)
    saved = save(machine, tmp_path / "saved")
    last = await qemu(qemu_binary, incoming=True, paused=True)
    await last.configure(MigrationSettings(channels=4, compression="zstd"))
    address = await last.listen("tcp:127.0.0.1:0")
    ended = await multifd(
        "qemu", "send", saved, "--to", address, "--channels", 4, "--compression", "zstd", "--json"
    )  # fmt: skip
    assert (ended.code, ended.data.get("cause")) == (0, ""), (ended, last.last_words())
    await last.wait_migration("completed")
    assert differing_pages(first.ram(), last.ram()) == []
    await last.execute("cont")
    await last.wait_steps()
    assert last.counts()


@pytest.mark.interop
@pytest.mark.parametrize("compression", [each.name.lower() for each in Compression])
@pytest.mark.parametrize("zero_pages", [each.value for each in ZeroPages])
async def test_every_form_is_taken(
    qemu: QemuFactory, qemu_binary: QemuBinary, compression: str, zero_pages: str
) -> None:
    """By each version: each compression, and zero pages in each form that it knows."""
    if zero_pages == "multifd" and qemu_binary.version < (9, 0):
        pytest.skip("before 9.0 zero pages in packets are lost")
    first, machine = await received(qemu, qemu_binary)
    last = await qemu(qemu_binary, incoming=True, paused=True)
    settings = MigrationSettings(channels=3, compression=compression)
    await last.configure(settings)
    options = QemuSourceOptions(
        channels=3, compression=Compression[compression.upper()], zero_pages=ZeroPages(zero_pages)
    )
    await QemuSource(await last.listen(), machine, options).run()
    await last.wait_migration("completed")
    assert differing_pages(first.ram(), last.ram()) == []
    await last.execute("cont")
    await last.wait_steps()


@pytest.mark.interop
async def test_more_channels_there_are_told(
    qemu: QemuFactory, qemu_binary: QemuBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that waits for another channel says nothing: the missing PONG gives it away."""
    monkeypatch.setattr(limits, "QEMU_PONG_DEADLINE_S", 1.0)
    _, machine = await received(qemu, qemu_binary)
    last = await qemu(qemu_binary, incoming=True)
    await last.configure(MigrationSettings(channels=3))
    with pytest.raises(Exception, match="is its multifd-channels more than 2"):
        await QemuSource(await last.listen(), machine).run()
