"""QEMU: a guest's random RAM from a stock QEMU to a stock QEMU, from a stock QEMU to `multifd qemu receive`, and from
`multifd qemu send` to a stock QEMU, alternating, over TCP loopback.

RAM is a file on tmpfs, and populated at both ends before the clock starts. The guest is stopped: nothing is sent twice.
A time is the source's own: from the command to migrate until it knows that the destination has everything. Where root
allows, all of it runs in a network namespace with the congestion control that was asked for; QEMU has no option for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.machine import ROOT
from multifd.cli.sizes import format_bytes
from multifd.limits import MIB
from multifd.testing.binaries import QemuBinary, QemuError, find_binaries
from multifd.testing.qemu import Machine, Qemu
from multifd.testing.settings import MigrationSettings

STOCK, RECEIVE, SEND = "stock to stock", "stock to ours", "ours to stock"
DEADLINE_S = 300.0
TMPFS = Path("/dev/shm")
"""The bench is about memory: a file anywhere else would measure a disk."""
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_INSIDE = "MULTIFD_BENCH_NAMESPACE"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class QemuBenchError(Exception):
    """The measurement can't be made, or gave a wrong result."""


@dataclass(frozen=True)
class Plan:
    """What to run. `version` such as `10.0`; empty: the newest QEMU there is."""

    size: int
    channels: int
    repeat: int
    compression: str = "none"
    congestion: str = "cubic"
    version: str = ""


@dataclass
class Column:
    """What was measured of one pair."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    commit_share: list[float] = field(default_factory=list)
    """Of the guest's stop: what had to happen before SHUT 0 (ours as destination)."""

    def to_json(self, size: int) -> dict[str, Any]:
        """Medians and spread."""
        rates = [size / 1e9 / each for each in self.seconds]
        found: dict[str, Any] = {
            "gbytes_per_s": round(statistics.median(rates), 3),
            "gbytes_per_s_min": round(min(rates), 3),
            "gbytes_per_s_max": round(max(rates), 3),
            "cpu_s_per_gb": round(statistics.median(self.cpu_s) / (size / 1e9), 4),
            "seconds": [round(each, 3) for each in self.seconds],
        }
        if self.commit_share:
            found["commit_share_of_stop"] = round(statistics.median(self.commit_share), 3)
        return found


def local(plan: Plan, *, as_json: bool) -> int:
    """Run it on this machine. Returns the exit status."""
    namespace = _enter_namespace(plan.congestion)
    facts = machine.describe()
    binary = _choose(plan.version)
    folder = Path(tempfile.mkdtemp(prefix="multifd-bench-", dir=TMPFS))
    try:
        _check_room(plan.size)
        columns = asyncio.run(_Bench(plan, binary, folder).run())
    except QemuError as error:
        raise QemuBenchError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = _result(plan, binary, facts, columns, namespace=namespace)
    _show(result, as_json=as_json)
    return 0


def _enter_namespace(congestion: str) -> bool:
    """A network namespace of our own whose loopback has this congestion control; false if it is the system's anyway.

    unshare(2) has no function in Python 3.11: the bench starts itself again under the program of that name.
    """
    if os.environ.get(_INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for local in ("127.0.0.0/8", "127.0.0.1"):  # by route: a namespace may not choose it for all
            route = f"route change table local local {local} dev lo src 127.0.0.1 scope host congctl {congestion}"
            subprocess.run(["ip", *route.split()], check=True)
        return True
    own = _CONGESTION.read_text(encoding="utf-8").strip()
    if own == congestion:
        return False
    if os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip"):
        command = ["unshare", "--net", sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})
    raise QemuBenchError(
        f"the system's congestion control is {own} and QEMU can't choose {congestion}: run as root with unshare and ip "
        f"installed, or measure with --congestion {own}"
    )


def _choose(version: str) -> QemuBinary:
    found = find_binaries(sorted(ROOT.glob(".qemu/*/qemu-system-x86_64")))
    wanted = [binary for binary in found if version in ("", str(binary))]
    if not wanted:
        there = ", ".join(map(str, found)) or "none"
        raise QemuBenchError(f"no QEMU {version or 'at all'}: there is {there}; `make test` fetches some")
    return wanted[-1]


def _check_room(size: int) -> None:
    needed = 3 * size + 512 * MIB  # two QEMUs and a saved machine
    free = shutil.disk_usage(TMPFS).free
    if min(free, machine.memory_available()) < needed:
        raise QemuBenchError(f"{format_bytes(needed)} of memory on {TMPFS} are needed: choose a smaller --size")


class _Bench:
    def __init__(self, plan: Plan, binary: QemuBinary, folder: Path) -> None:
        self._plan = plan
        self._binary = binary
        self._folder = folder
        self._columns = {name: Column() for name in (STOCK, RECEIVE, SEND)}
        self._settings = MigrationSettings(channels=plan.channels, compression=plan.compression)
        self._digest = ""
        self._saved = folder / "saved"

    async def run(self) -> dict[str, Column]:
        """All pairs once before any comes twice, so that drift hits all alike; the first round only warms up."""
        self._fill(self._folder / "source")
        for number in range(self._plan.repeat + 1):
            for name, once in ((STOCK, self._stock), (RECEIVE, self._receive), (SEND, self._send)):
                seconds, cpu_s = await once()
                rate = self._plan.size / 1e9 / seconds
                print(f"{name}, run {number or 'to warm up'}: {rate:.2f} GB/s", file=sys.stderr)
                if number:
                    self._columns[name].seconds.append(seconds)
                    self._columns[name].cpu_s.append(cpu_s)
                else:
                    self._columns[name].commit_share.clear()
        return self._columns

    def _fill(self, memory: Path) -> None:
        digest = hashlib.sha256()
        random = np.random.default_rng(1)
        with memory.open("wb") as file:
            for _ in range(0, self._plan.size, 64 * MIB):
                piece = random.bytes(64 * MIB)
                digest.update(piece)
                file.write(piece)
        self._digest = digest.hexdigest()

    @contextlib.asynccontextmanager
    async def _qemu(self, *, incoming: bool) -> AsyncIterator[Qemu]:
        memory = self._folder / ("destination" if incoming else "source")
        vm = Machine(ram_bytes=self._plan.size, memory_properties=("prealloc=on",))
        async with await Qemu.start(self._binary, vm, incoming=incoming, paused=True, memory=memory) as qemu:
            await qemu.configure(self._settings)
            yield qemu
        if incoming:
            memory.unlink()

    async def _stock(self) -> tuple[float, float]:
        async with self._qemu(incoming=True) as destination, self._qemu(incoming=False) as source:
            address = await destination.listen("tcp:127.0.0.1:0")
            return await self._migrate(source, address, destination.pid)

    async def _migrate(self, source: Qemu, address: str, other: int) -> tuple[float, float]:
        before = _cpu_s(source.pid) + _cpu_s(other)
        await source.migrate(address)
        info = await source.wait_migration("completed", deadline_s=DEADLINE_S)
        return info["total-time"] / 1e3, _cpu_s(source.pid) + _cpu_s(other) - before

    async def _receive(self) -> tuple[float, float]:
        shutil.rmtree(self._saved, ignore_errors=True)
        options = ["receive", "--listen", "tcp:127.0.0.1:0", "--into", str(self._saved), "--json"]
        options += ["--channels", str(self._plan.channels), "--compression", self._plan.compression]
        options += ["--reserve", str(self._plan.size)]
        async with _command(options) as ours, self._qemu(incoming=False) as source:
            address = await _listening(ours)
            seconds, cpu_s = await self._migrate(source, address, ours.pid)
            report = await _report(ours)
        stored = next(block["sha256"] for block in report["blocks"] if block["name"] == "m")
        if stored != self._digest:
            raise QemuBenchError(f"what was received has the digest {stored}, not {self._digest}")
        self._columns[RECEIVE].commit_share.append(report["commit_share"])
        return seconds, cpu_s

    async def _send(self) -> tuple[float, float]:
        async with self._qemu(incoming=True) as destination:
            address = await destination.listen("tcp:127.0.0.1:0")
            before = _cpu_s(destination.pid)
            options = ["send", str(self._saved), "--to", address, "--json"]
            options += ["--channels", str(self._plan.channels), "--compression", self._plan.compression]
            began = os.times()
            async with _command(options) as ours:
                report = await _report(ours)
            ended = os.times()
            ours_s = ended.children_user + ended.children_system - began.children_user - began.children_system
            cpu_s = _cpu_s(destination.pid) - before + ours_s
            digest = await asyncio.to_thread(_sha256, self._folder / "destination")
        if digest != self._digest:
            raise QemuBenchError(f"the destination's memory has the digest {digest}, not {self._digest}")
        return report["elapsed_s"], cpu_s


@contextlib.asynccontextmanager
async def _command(options: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """`multifd qemu ...` in a process of its own, which does not outlive this."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "multifd",
        "qemu",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        async for line in process.stderr:
            if line.startswith(b"listening on "):
                return line.decode().split()[-1]
    raise QemuBenchError("our destination did not come up")


async def _report(process: asyncio.subprocess.Process) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        out, errors = await process.communicate()
    if process.returncode:
        raise QemuBenchError(f"ours failed: {errors.decode().strip()}")
    report: dict[str, Any] = json.loads(out)
    return report


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _result(
    plan: Plan, binary: QemuBinary, facts: dict[str, Any], columns: dict[str, Column], *, namespace: bool
) -> dict[str, Any]:
    pairs = {name: column.to_json(plan.size) for name, column in columns.items()}
    stock = pairs[STOCK]["gbytes_per_s"]
    return {
        "scenario": "qemu",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "qemu": binary.text,
        "size_bytes": plan.size,
        "channels": plan.channels,
        "compression": plan.compression,
        "congestion_control": plan.congestion,
        "own_network_namespace": namespace,
        "repeat": plan.repeat,
        "machine": facts,
        "pairs": pairs,
        "receive_over_stock": round(pairs[RECEIVE]["gbytes_per_s"] / stock, 3),
        "send_over_stock": round(pairs[SEND]["gbytes_per_s"] / stock, 3),
        "verified": True,
    }


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    facts = result["machine"]
    console = Console(highlight=False, soft_wrap=True)
    busy = "idle" if facts["idle_before"] else f"NOT IDLE: {facts['busy_cores_before']} processors busy"
    console.print(
        f"{format_bytes(result['size_bytes'])} of random RAM on tmpfs, populated at both ends, {result['channels']} "
        f"channels, {result['compression']}, {result['congestion_control']}, QEMU {result['qemu']}\n"
        f"{facts['cpus']} x {facts['cpu_model']}, Linux {facts['kernel']}; before the runs it was {busy}; "
        f"commit {facts['commit']}; medians of {result['repeat']}, alternating; every run verified by SHA-256"
    )
    table = Table("pair", "GB/s", "from", "to", "CPU s/GB", "to stock")
    for name, pair in result["pairs"].items():
        ratio = pair["gbytes_per_s"] / result["pairs"][STOCK]["gbytes_per_s"]
        cells = [f"{pair[key]:.2f}" for key in ("gbytes_per_s", "gbytes_per_s_min", "gbytes_per_s_max", "cpu_s_per_gb")]
        table.add_row(name, *cells, f"{ratio:.2f}")
    console.print(table)
    share = result["pairs"][RECEIVE]["commit_share_of_stop"]
    console.print(f"ours as the destination: what comes before SHUT 0 is {share:.0%} of the guest's stop")
