"""`multifd qemu relay`: a running guest goes from one stock QEMU to another, and never runs twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tls_directories
from harness.dying_relay import STEPS

from multifd.testing.binaries import QemuBinary
from multifd.testing.guest import Guest, counts
from multifd.testing.pytest_plugin import QemuFactory
from multifd.testing.qemu import Machine, Qemu, differing_pages
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow

WAIT_S = 30.0  # far more than anything here takes
GUEST = Guest(dirtied=4 << 20)
"""It writes to more than fits the limit of a stop at once, so that there are rounds."""


class Relay:
    """A `multifd qemu relay` that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    @classmethod
    async def start(cls, *arguments: object) -> Relay:
        """Until it listens."""
        command = (sys.executable, "-m", *map(str, arguments))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent
        )
        return cls(process)

    async def address(self) -> str:
        """Where it listens."""
        assert self.process.stderr is not None
        while line := (await asyncio.wait_for(self.process.stderr.readline(), WAIT_S)).decode():
            self.said += line
            if "listening on" in line:
                return line.split()[-1]
        raise AssertionError(f"it never listened: {self.said}")

    async def end(self) -> tuple[int, dict[str, Any]]:
        """Exit code, and the object."""
        out, said = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        self.said += said.decode()
        assert self.process.returncode is not None
        return self.process.returncode, json.loads(out) if out.startswith(b"{") else {"text": out.decode()}

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


StartRelay = Callable[..., Any]


@pytest.fixture
async def relay() -> AsyncIterator[StartRelay]:
    """Starts relays that end with the test."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: object) -> Relay:
            one = await Relay.start(*arguments)
            stack.push_async_callback(one.kill)
            return one

        yield start


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="multifd-") as name:
        yield Path(name)


@dataclass
class Ends:
    """A source with its guest, and a far end that waits."""

    source: Qemu
    far: Qemu
    to: str
    qmp: str
    source_qmp: str


async def ends(
    qemu: QemuFactory, folder: Path, source: QemuBinary, far: QemuBinary, come: MigrationSettings,
    go: MigrationSettings,
) -> Ends:  # fmt: skip
    """Both up, the guest counting."""
    qmps = [f"unix:{folder / name}" for name in ("source", "far")]
    here, there = (
        Machine(type=min(source, far).q35, guest=GUEST, arguments=("-qmp", f"{qmp},server=on,wait=off")) for qmp in qmps
    )
    first, last = await asyncio.gather(qemu(source, here), qemu(far, there, incoming=True, paused=True))
    await first.configure(come)
    await last.configure(go)
    await first.wait_steps()
    return Ends(first, last, await last.listen("tcp:127.0.0.1:0"), qmps[1], qmps[0])


async def test_a_running_guest_is_relayed(
    qemu: QemuFactory, relay: StartRelay, folder: Path, qemu_binary: QemuBinary
) -> None:
    """Compression differs; RAM is equal where it stands, and its count goes on without a gap."""
    made = await ends(
        qemu, folder, qemu_binary, qemu_binary, MigrationSettings(channels=3),
        MigrationSettings(channels=3, compression="zstd"),
    )  # fmt: skip
    one = await relay(
        "multifd", "qemu", "relay", "--listen", "tcp:127.0.0.1:0", "--to", made.to, "--channels", 3,
        "--out-compression", "zstd", "--json",
    )  # fmt: skip
    await made.source.migrate(await one.address())
    code, data = await one.end()
    assert (code, data.get("cause")) == (0, ""), (data, one.said, made.far.last_words())
    await made.source.wait_migration("completed")
    await made.far.wait_migration("completed")
    assert differing_pages(made.source.ram(), made.far.ram()) == []
    assert (data["guest"], data["shut"], data["run_state"]) == ("at the far end", 0, "running")
    await made.far.execute("cont")
    await made.far.wait_steps()
    assert counts(made.source.serial + made.far.serial)[0] == 1


async def test_the_far_end_is_continued(
    qemu: QemuFactory, relay: StartRelay, folder: Path, qemu_versions: tuple[QemuBinary, ...]
) -> None:
    """From the oldest version to the newest: started with -S, it runs when the source is done, and for people too."""
    made = await ends(
        qemu, folder, qemu_versions[0], qemu_versions[-1], MigrationSettings(compression="zlib"),
        MigrationSettings(compression="zlib"),
    )  # fmt: skip
    one = await relay(
        "multifd", "qemu", "relay", "--listen", f"unix:{folder}/in", "--to", made.to, "--compression", "zlib",
        "--out-qmp", made.qmp, "--in-qmp", made.source_qmp,
    )  # fmt: skip
    await made.source.migrate(await one.address())
    code, data = await one.end()
    assert code == 0, (data, one.said, made.far.last_words())
    assert "until it ran at the far end" in data["text"]
    assert await made.far.run_state() == "running"
    assert await made.source.run_state() == "postmigrate"
    await made.far.wait_steps()
    assert counts(made.source.serial + made.far.serial)[0] == 1


async def test_each_side_has_its_own_tls(
    qemu: QemuFactory, relay: StartRelay, folder: Path, qemu_versions: tuple[QemuBinary, ...]
) -> None:
    """The source's CA is another than the far end's."""
    near, far = tls_directories.tls_dir(), tls_directories.tls_dir("other")
    newest = qemu_versions[-1]
    made = await ends(
        qemu, folder, newest, newest, MigrationSettings(tls_folder=near), MigrationSettings(tls_folder=far)
    )
    one = await relay(
        "multifd", "qemu", "relay", "--listen", "tcp:127.0.0.1:0", "--to", made.to, "--tls-dir", near,
        "--out-tls-dir", far, "--out-qmp", made.qmp, "--json",
    )  # fmt: skip
    await made.source.migrate(await one.address())
    code, data = await one.end()
    assert (code, data.get("cause")) == (0, ""), (data, one.said, made.far.last_words())
    assert data["security"].startswith("TLS")
    assert data["out"]["security"].startswith("TLS")
    assert data["continued"]
    await made.far.wait_steps()


@pytest.mark.parametrize("step", STEPS)
async def test_a_relay_that_is_killed_leaves_one_guest_at_most(
    qemu: QemuFactory, relay: StartRelay, folder: Path, qemu_versions: tuple[QemuBinary, ...], step: str
) -> None:
    """Up to SHUT 0 its guest runs on at the source; after that it stands still at the far end until it is told."""
    newest = qemu_versions[-1]
    made = await ends(qemu, folder, newest, newest, MigrationSettings(bandwidth=64 << 20), MigrationSettings())
    one = await relay("harness.dying_relay", step, made.to, made.qmp)
    assert one.process.stdout is not None
    address = (await asyncio.wait_for(one.process.stdout.readline(), WAIT_S)).decode().strip()
    await made.source.migrate(address)
    assert await asyncio.wait_for(one.process.wait(), WAIT_S) == -9
    if step == "ContinueFar":
        await made.source.wait_migration("completed")
        assert await made.source.run_state() == "postmigrate"
        assert await made.far.run_state() == "paused"
        return
    await made.source.wait_migration("failed")
    await made.source.wait_steps()
    assert await made.source.run_state() == "running"
    assert made.far.serial == b""
    if step in ("ConnectFar", "Shut"):  # untouched; or whole, and standing still
        assert await made.far.run_state() in ("inmigrate", "paused")
    else:
        assert await made.far.wait_exit() != 0


async def test_a_far_end_that_is_killed_leaves_the_guest(
    qemu: QemuFactory, relay: StartRelay, folder: Path, qemu_versions: tuple[QemuBinary, ...]
) -> None:
    """The source hears of it at once."""
    slow = MigrationSettings(bandwidth=8 << 20)
    made = await ends(qemu, folder, qemu_versions[-1], qemu_versions[-1], slow, MigrationSettings())
    one = await relay(
        "multifd", "qemu", "relay", "--listen", "tcp:127.0.0.1:0", "--to", made.to, "--out-qmp", made.qmp, "--json"
    )
    await made.source.migrate(await one.address())
    await made.far.wait_migration("active")
    await made.source.wait_steps()
    await made.far.close()
    code, data = await one.end()
    assert (code, data["outcome"], data["guest"]) == (1, "failed", "at the source")
    await made.source.wait_migration("failed")
    await made.source.wait_steps()


async def test_a_source_that_calls_off(
    qemu: QemuFactory, relay: StartRelay, folder: Path, qemu_versions: tuple[QemuBinary, ...]
) -> None:
    """migrate_cancel: the far end ends, the guest runs on."""
    slow = MigrationSettings(bandwidth=8 << 20)
    made = await ends(qemu, folder, qemu_versions[0], qemu_versions[-1], slow, MigrationSettings())
    one = await relay("multifd", "qemu", "relay", "--listen", "tcp:127.0.0.1:0", "--to", made.to, "--json")
    await made.source.migrate(await one.address())
    await made.far.wait_migration("active")
    await made.source.wait_steps()
    await made.source.execute("migrate_cancel")
    code, data = await one.end()
    assert (code, data["outcome"], data["guest"]) == (1, "failed", "at the source")
    await made.source.wait_migration("cancelled")
    await made.source.wait_steps()
    assert await made.far.wait_exit() != 0
