"""Two relays between stock QEMUs: a running guest goes through both, and whichever of them dies when, it never runs
twice.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tls_directories
from dying_hop import FAR_STEPS, NEAR_STEPS
from interop_versions import VERSIONS

from multifd.elements import Pong, SwitchoverAck
from multifd.testing.binaries import QemuError
from multifd.testing.faults import Faults, Treatment
from multifd.testing.guest import counts
from multifd.testing.pytest_plugin import LineFactory, QemuFactory, QemuOf
from multifd.testing.qemu import MANY_DEVICES, Machine, Qemu, differing_pages
from multifd.testing.settings import MigrationSettings

pytestmark = pytest.mark.slow

WAIT_S = 60.0  # far more than anything here takes
RELAY = ("-m", "multifd", "qemu", "relay")
DYING = (str(Path(__file__).with_name("dying_hop.py")),)


@dataclass
class Running:
    """A process with a relay in it."""

    process: Process
    address: str

    async def end(self) -> tuple[int, dict[str, Any]]:
        """Exit code, and the object."""
        out, said = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        assert self.process.returncode is not None
        return self.process.returncode, json.loads(out) if out.startswith(b"{") else {"said": said.decode()}


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts relays that end with the test, and waits until they listen."""
    async with AsyncExitStack() as stack:

        async def begin(kind: tuple[str, ...], *arguments: object) -> Running:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *kind, *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            stack.push_async_callback(_killed, process)
            stream = process.stdout if kind is DYING else process.stderr
            assert stream is not None
            line = b""
            while b":" not in line or (kind is RELAY and b"listening on" not in line):
                line = await asyncio.wait_for(stream.readline(), WAIT_S)
                assert line, "it never listened"
            return Running(process, line.decode().split()[-1])

        yield begin


async def _killed(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="multifd-") as name:
        yield Path(name)


@dataclass
class Ends:
    """A source with its guest, and a far end that waits; it was started with -S."""

    source: Qemu
    far: Qemu
    to: str
    qmp: str

    async def never_both(self) -> str:
        """Where the guest runs: `source`, `far`, or nowhere."""
        try:
            far = await self.far.run_state()
        except QemuError:  # it ends when its connections do
            await self.far.wait_exit()
            far = "gone"
        source = await self.source.run_state()
        assert not (source == far == "running")
        return "source" if source == "running" else "far" if far == "running" else ""


async def ends(
    qemu: QemuFactory, folder: Path, pair: tuple[Any, Any], come: MigrationSettings, go: MigrationSettings,
    **machine: Any,
) -> Ends:  # fmt: skip
    """Both up, the guest counting."""
    kind, qmp = min(pair).q35, folder / "qmp"
    given = {"type": kind} | machine
    there = Machine(**given, arguments=("-qmp", f"unix:{qmp},server=on,wait=off"))
    source, far = await asyncio.gather(
        qemu(pair[0], Machine(**given)), qemu(pair[1], there, incoming=True, paused=True)
    )
    await source.configure(come)
    await far.configure(go)
    await source.wait_steps()
    return Ends(source, far, await far.listen("tcp:127.0.0.1:0"), f"unix:{qmp}")


# -- a guest goes through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_running_guest_goes_through_two_relays(
    qemu: QemuFactory, qemu_of: QemuOf, start: Start, folder: Path, version: str
) -> None:
    """Under TLS and zstd between them, with other compressions at the ends: it goes on there without a gap."""
    binary, tls = qemu_of(version), tls_directories.tls_dir()
    come, go = (MigrationSettings(channels=3, compression=each) for each in ("none", "zlib"))
    made = await ends(qemu, folder, (binary, binary), come, go)
    far = await start(
        RELAY, "--listen-relay", "tcp:127.0.0.1:0", "--to", made.to, "--out-compression", "zlib", "--out-qmp", made.qmp,
        "--tls-dir", tls, "--json",
    )  # fmt: skip
    near = await start(
        RELAY, "--listen", "tcp:127.0.0.1:0", "--to-relay", far.address, "--channels", 3, "--codec", "zstd",
        "--out-tls-dir", tls, "--json",
    )  # fmt: skip
    await made.source.migrate(near.address)
    (code, data), (far_code, far_data) = await asyncio.gather(near.end(), far.end())
    assert (code, far_code) == (0, 0), (data, far_data, made.far.last_words())
    await made.source.wait_migration("completed")
    assert await made.never_both() == "far"
    await made.far.wait_steps()
    assert counts(made.source.serial + made.far.serial)[0] == 1
    assert (data["continued"], far_data["continued"]) == (True, True)
    assert data["hop"]["security"].startswith("TLS 1.3")
    assert (data["dialect"]["compression"], data["out"]["compression"]) == ("none", "zlib")


@pytest.mark.interop
@pytest.mark.parametrize(("older", "newer"), [("7.2", "11.1"), ("11.1", "10.0")])
async def test_ram_is_equal(
    qemu: QemuFactory, qemu_of: QemuOf, start: Start, folder: Path, older: str, newer: str
) -> None:
    """Between versions, with many devices, over TLS at all three places: the far end stands still, and is compared."""
    tls = tls_directories.tls_dir()
    settings = MigrationSettings(channels=8, compression="zstd", tls_folder=tls)
    pair = qemu_of(older), qemu_of(newer)
    made = await ends(qemu, folder, pair, settings, settings, devices=MANY_DEVICES)
    far = await start(
        RELAY, "--listen-relay", f"unix:{folder / 'far'}", "--to", made.to, "--tls-dir", tls, "--out-tls-dir", tls,
        "--json",
    )  # fmt: skip
    near = await start(
        RELAY, "--listen", "tcp:127.0.0.1:0", "--to-relay", far.address, "--channels", 8, "--compression", "zstd",
        "--tls-dir", tls, "--out-tls-dir", tls, "--out-tls-hostname", "localhost", "--relay-channels", 1, "--json",
    )  # fmt: skip
    await made.source.migrate(near.address)
    (code, data), (far_code, far_data) = await asyncio.gather(near.end(), far.end())
    assert (code, far_code) == (0, 0), (data, far_data, made.far.last_words())
    await made.source.wait_migration("completed")
    assert await made.far.run_state() == "paused"
    assert differing_pages(made.source.ram(), made.far.ram()) == []
    await made.far.execute("cont")
    await made.far.wait_steps()
    assert counts(made.source.serial + made.far.serial)[0] == 1
    assert far_data["out"]["security"].startswith("TLS")


@pytest.mark.interop
async def test_an_ack_that_is_held_holds_the_source(
    qemu: QemuFactory, qemu_of: QemuOf, start: Start, folder: Path, fault_line: LineFactory
) -> None:
    """The far end's acknowledgement goes all the way back: without it the guest runs on at the source."""
    binary = qemu_of("10.0")
    settings = MigrationSettings(switchover_ack=True)
    made = await ends(qemu, folder, (binary, binary), settings, settings)
    line = await fault_line(made.to, Faults(acks=Treatment.HOLD))
    far = await start(RELAY, "--listen-relay", "tcp:127.0.0.1:0", "--to", line.address, "--out-qmp", made.qmp, "--json")
    near = await start(RELAY, "--listen", "tcp:127.0.0.1:0", "--to-relay", far.address, "--json")
    await made.source.migrate(near.address)
    await line.wait_acted()
    await made.source.wait_steps(500)
    assert (await made.source.migration())["status"] == "active"
    assert line.heard == [SwitchoverAck(), Pong(1)]
    line.release()
    (code, data), (far_code, _) = await asyncio.gather(near.end(), far.end())
    assert (code, far_code, data["switchover_ack"]["given"]) == (0, 0, 1)
    await made.source.wait_migration("completed")
    await made.far.wait_steps()


# -- a relay dies ------------------------------------------------------------------------------------------------------

USUAL = {"Shut", "run"}
"""Steps that `make test` tries: the last at which the guest stays, and the last at all."""


def steps(names: tuple[str, ...]) -> list[Any]:
    """For `parametrize`."""
    return [pytest.param(name, marks=[] if name in USUAL else pytest.mark.interop) for name in names]


@pytest.mark.parametrize("step", steps(NEAR_STEPS))
async def test_a_near_relay_that_is_killed(
    qemu: QemuFactory, qemu_of: QemuOf, start: Start, folder: Path, step: str
) -> None:
    """Up to SHUT 0 the guest runs on at the source; after it it stands still at the far end until it is told."""
    made = await killed_between(qemu, qemu_of, folder)
    far = await start(RELAY, "--listen-relay", "tcp:127.0.0.1:0", "--to", made.to, "--out-qmp", made.qmp, "--json")
    near = await start(DYING, "near", step, far.address)
    await made.source.migrate(near.address)
    assert await asyncio.wait_for(near.process.wait(), WAIT_S) == -9
    if step == "ContinueFar":
        code, data = await far.end()
        await made.source.wait_migration("completed")
        assert await made.never_both() == ""
        assert (code, data["outcome"]) == (4, "in-doubt")
        assert "`cont` it only if query-migrate at the source says completed" in data["cause"]
        await made.far.execute("cont")
        await made.far.wait_steps()
        assert counts(made.source.serial + made.far.serial)[0] == 1
        return
    await runs_on(made)
    if step != "ConnectFar":  # before that the far relay has heard of nobody
        code, data = await far.end()
        assert code == (4 if step == "Shut" else 1), data


@pytest.mark.parametrize("step", steps(FAR_STEPS))
async def test_a_far_relay_that_is_killed(
    qemu: QemuFactory, qemu_of: QemuOf, start: Start, folder: Path, step: str
) -> None:
    """Up to COMMIT the guest runs on at the source; after it it stands still at the far end until it is told."""
    made = await killed_between(qemu, qemu_of, folder)
    far = await start(DYING, "far", step, made.to, made.qmp)
    near = await start(RELAY, "--listen", "tcp:127.0.0.1:0", "--to-relay", far.address, "--json")
    await made.source.migrate(near.address)
    assert await asyncio.wait_for(far.process.wait(), WAIT_S) == -9
    code, data = await near.end()
    if step == "run":
        await made.source.wait_migration("completed")
        assert await made.never_both() == ""
        assert (code, data["outcome"]) == (4, "in-doubt")
        assert "give it `cont`" in data["cause"]
        await made.far.execute("cont")
        await made.far.wait_steps()
        assert counts(made.source.serial + made.far.serial)[0] == 1
        return
    assert (code, data["guest"]) == (1, "at the source")
    await runs_on(made)


async def killed_between(qemu: QemuFactory, qemu_of: QemuOf, folder: Path) -> Ends:
    """Slow enough to be hit while it is live."""
    binary = qemu_of("11.1")
    return await ends(qemu, folder, (binary, binary), MigrationSettings(bandwidth=32 << 20), MigrationSettings())


async def runs_on(made: Ends) -> None:
    """At the source, and nowhere else."""
    await made.source.wait_migration("failed")
    await made.source.wait_steps()
    assert await made.never_both() == "source"
    assert made.far.serial == b""
    assert made.source.counts()[0] == 1
