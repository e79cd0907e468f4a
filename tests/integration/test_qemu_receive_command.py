"""`multifd qemu receive` as a process: what it prints, its exit codes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.qemu_replay import ReplaySource, digests
from qemu_corpus import thin, whole

from multifd.elements import Shut, SwitchoverAck
from multifd.engine.transport import Address
from multifd.qemu.saved import SavedMachine

pytestmark = pytest.mark.slow
WAIT_S = 30.0
CAPTURE = "10.0-zstd-ch8"


class Command:
    """One that listens on a unix socket in `folder`, and saves to `saved` there."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.process = process
        self.address = Address(path=str(folder / "socket"))

    async def listening(self) -> None:
        """It says so in its first line."""
        assert self.process.stderr is not None
        line = await asyncio.wait_for(self.process.stderr.readline(), WAIT_S)
        assert line.decode() == f"listening on unix:{self.folder}/socket\n"

    async def ended(self) -> tuple[int, Any, str]:
        """Exit code, what is on stdout, and the last line on stderr."""
        out, said = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        assert self.process.returncode is not None
        words = said.decode().splitlines()
        return self.process.returncode, out.decode(), words[-1] if words else ""

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@asynccontextmanager
async def command(folder: Path, *options: str) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "multifd", "qemu", "receive", "--listen", f"unix:{folder}/socket", "--into",
        str(folder / "saved"), *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Command(folder, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_machine_is_received(tmp_path: Path) -> None:
    """Exit code 0, one JSON object, and a saved machine with the source's RAM; nothing else is left."""
    options = ("--channels", "8", "--compression", "zstd", "--reserve", "16MiB", "--json")
    async with command(tmp_path, *options) as receiving:
        assert receiving.process.stderr is not None
        assert await receiving.process.stderr.readline() == b"reserving 16 MiB\n"
        await receiving.listening()
        answers = await ReplaySource(whole(CAPTURE)).play(receiving.address)
        code, out, _ = await receiving.ended()
    assert (code, answers[-1]) == (0, Shut(0))
    data = json.loads(out)
    assert (data["outcome"], data["machine"], data["path"]) == ("completed", "pc-q35-10.0", str(tmp_path / "saved"))
    assert {block["name"]: block["sha256"] for block in data["blocks"]} == digests(CAPTURE)
    with SavedMachine.open(tmp_path / "saved") as saved:
        assert saved.state.configuration.machine == "pc-q35-10.0"
    assert receiving.left() == ["saved"]


async def test_what_was_received_is_told(tmp_path: Path) -> None:
    """For people, with a legacy acknowledgement that was held back."""
    async with command(tmp_path, "--switchover-ack", "on", "--hold-ack", "0.2") as receiving:
        await receiving.listening()
        answers = await ReplaySource(thin("10.0-none-switchover-ack")).play(receiving.address)
        code, out, _ = await receiving.ended()
    assert code == 0
    assert f"acknowledgements (legacy): {answers.count(SwitchoverAck())} given of 1 owed" in out
    assert out.startswith("received pc-q35-10.0, ")


async def test_a_source_that_dies(tmp_path: Path) -> None:
    """Exit code 1, a sentence, and nothing is left."""
    streams = thin(CAPTURE)
    cut = streams.put("main", streams.main[:5000])
    async with command(tmp_path, "--channels", "8", "--compression", "zstd", "--json") as receiving:
        await receiving.listening()
        await ReplaySource(cut, then_end=True).play(receiving.address)
        code, out, said = await receiving.ended()
    data = json.loads(out)
    assert (code, data["outcome"]) == (1, "failed")
    assert "the source has cancelled or died" in data["cause"]
    assert said.startswith("multifd: ")
    assert receiving.left() == []


async def test_a_signal_while_it_waits(tmp_path: Path) -> None:
    """Exit code 130; nothing is left."""
    async with command(tmp_path, "--json") as receiving:
        await receiving.listening()
        receiving.process.send_signal(signal.SIGTERM)
        code, out, said = await receiving.ended()
    assert (code, json.loads(out)["outcome"]) == (130, "cancelled")
    assert "the guest runs on at the source" in said
    assert receiving.left() == []


async def test_signals_after_shut_0(tmp_path: Path) -> None:
    """The source has given the machine up: any number of signals leaves it where it is, and it counts as received."""
    async with command(tmp_path, "--json") as receiving:
        await receiving.listening()

        def signals() -> None:  # two different ones: of the same, both at once would be one
            receiving.process.send_signal(signal.SIGINT)
            receiving.process.send_signal(signal.SIGTERM)

        await ReplaySource(thin("10.0-none-switchover-ack"), at_shut=signals).play(receiving.address)
        code, out, _ = await receiving.ended()
    assert (code, json.loads(out)["outcome"]) == (0, "completed")
    assert receiving.left() == ["saved"]


async def test_a_hold_without_acknowledgements(tmp_path: Path) -> None:
    """It would hold nothing back: a usage error, and nothing is made."""
    for options in (("--hold-ack", "3"), ("--hold-ack", "1e12", "--switchover-ack", "on")):
        async with command(tmp_path, *options) as receiving:
            code, _, said = await receiving.ended()
        assert code == 2
        assert "--hold-ack" in said
        assert receiving.left() == []


async def test_a_path_that_exists(tmp_path: Path) -> None:
    """Nothing is overwritten; it does not even listen."""
    (tmp_path / "saved").mkdir()
    async with command(tmp_path, "--json") as receiving:
        code, out, _ = await receiving.ended()
    assert code == 1
    assert "exists already" in json.loads(out)["cause"]
    assert receiving.left() == ["saved"]
