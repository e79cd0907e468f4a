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
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine, namespace
from bench.contender import Contender, alternate
from bench.errors import BenchError
from bench.machine import ROOT
from bench.result import Result, Run
from bench.scenario import GUEST_RAM, LOOPBACK, Scenario
from multifd.cli.sizes import format_bytes
from multifd.limits import KIB, MIB
from multifd.testing.binaries import QemuBinary, QemuError, find_binaries
from multifd.testing.qemu import Machine, Qemu
from multifd.testing.settings import MigrationSettings

STOCK, RECEIVE, SEND = "stock to stock", "stock to ours", "ours to stock"
DEADLINE_S = 300.0
TMPFS = Path("/dev/shm")
"""The bench is about memory: a file anywhere else would measure a disk."""
_PACKET_BYTES = 512 * KIB  # QEMU's own, whatever the options
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class QemuBenchError(BenchError):
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
    link: str = LOOPBACK

    def scenario(self) -> Scenario:
        """The only one."""
        return Scenario(
            work=GUEST_RAM,
            size=self.size,
            channels=self.channels,
            piece_bytes=_PACKET_BYTES,
            congestion=self.congestion,
            compression=self.compression,
            link=self.link,
        )


def local(plan: Plan) -> Result:
    """Run it on this machine. Raise `BenchError`."""
    own = namespace.enter(plan.congestion, plan.link)
    facts = machine.describe()
    binary = _choose(plan.version)
    _check_room(plan.size)
    scenario = plan.scenario()
    with tempfile.TemporaryDirectory(prefix="multifd-bench-", dir=TMPFS) as folder:
        bench = _Bench(plan, binary, Path(folder))
        pairs = [(scenario, contender) for contender in bench.contenders()]
        series = alternate(pairs, repeat=plan.repeat, warm_up=1)
    share = statistics.median(bench.commit_shares[1:])  # without the round that warmed up
    return Result(
        machine=facts,
        ours=(RECEIVE, SEND),
        series=series,
        conditions={
            "QEMU": binary.text,
            "guest RAM": "random bytes in files on tmpfs, populated at both ends; the guest is stopped",
            "network": "a namespace of the bench's own" if own else "the system's own loopback",
        },
        findings=(
            "every run of ours verified by SHA-256",
            f"{RECEIVE}: what comes before SHUT 0 is {share:.0%} of the guest's stop",
            f"{SEND}: processor time has the start of our process in it",
        ),
    )


def unable(plan: Plan) -> str | None:
    """Why it can't be run here, with what to do about it; None if it can."""
    try:
        _choose(plan.version)
        _check_room(plan.size)
    except QemuBenchError as error:
        return str(error)
    return None


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


class _Pair(Contender):
    def __init__(self, name: str, once: Callable[[], Coroutine[Any, Any, tuple[float, float]]]) -> None:
        self.name = name
        self._once = once

    def run(self, scenario: Scenario) -> Run:
        try:
            seconds, cpu_s = asyncio.run(self._once())
        except QemuError as error:
            raise QemuBenchError(str(error)) from error
        return Run(bytes=scenario.size, seconds=seconds, cpu_s=cpu_s, congestion=scenario.congestion)


class _Bench:
    def __init__(self, plan: Plan, binary: QemuBinary, folder: Path) -> None:
        self._plan = plan
        self._binary = binary
        self._folder = folder
        self._settings = MigrationSettings(channels=plan.channels, compression=plan.compression)
        self._saved = folder / "saved"
        self._digest = self._fill(folder / "source")
        self.commit_shares: list[float] = []
        """Of the guest's stop, run by run: what had to happen before SHUT 0 (ours as destination)."""

    def contenders(self) -> tuple[_Pair, ...]:
        """In this order: what ours sends is what it received before."""
        return _Pair(STOCK, self._stock), _Pair(RECEIVE, self._receive), _Pair(SEND, self._send)

    def _fill(self, memory: Path) -> str:
        digest = hashlib.sha256()
        random = np.random.default_rng(1)
        with memory.open("wb") as file:
            for _ in range(0, self._plan.size, 64 * MIB):
                piece = random.bytes(64 * MIB)
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()

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
        self.commit_shares.append(report["commit_share"])
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
