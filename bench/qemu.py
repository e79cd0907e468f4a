"""QEMU: a guest's RAM from a stock QEMU to a stock QEMU, from a stock QEMU to `multifd qemu receive`, and from
`multifd qemu send` to a stock QEMU, alternating, over TCP loopback.

RAM is a file on tmpfs, and populated at both ends before the clock starts (with --cold at the source alone). The guest
is stopped: nothing is sent twice.
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
from typing import Any, NamedTuple

from bench import machine, namespace
from bench.certificates import certificates
from bench.contender import Contender, alternate
from bench.contents import WORKS, pieces
from bench.errors import BenchError
from bench.machine import ROOT
from bench.memory import cpu_s_of
from bench.result import Result, Run
from bench.scenario import GUEST, LOOPBACK, PLAIN, RAM, TLS, Scenario
from multifd.cli.sizes import format_bytes
from multifd.limits import KIB, MIB
from multifd.testing.binaries import QemuBinary, QemuError, find_binaries
from multifd.testing.qemu import Machine, Qemu
from multifd.testing.settings import MigrationSettings

STOCK, RECEIVE, SEND = "stock to stock", "stock to ours", "ours to stock"
DEADLINE_S = 300.0
VERIFIED = "every run verified: the destination's memory is the source's (of ours as destination by SHA-256)"
TMPFS = Path("/dev/shm")
"""The bench is about memory: a file anywhere else would measure a disk."""
_COMPARED_BYTES = 64 * MIB  # at a time
_PACKET_BYTES = 512 * KIB  # QEMU's own, whatever the options


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
    work: str = RAM
    security: str = PLAIN
    cold: bool = False
    """RAM of a destination is not populated before the start."""
    only_stock: bool = False
    """Stock to stock alone."""

    def scenario(self) -> Scenario:
        """The only one."""
        return Scenario(
            work=f"{GUEST}-{self.work}",
            size=self.size,
            channels=self.channels,
            piece_bytes=_PACKET_BYTES,
            congestion=self.congestion,
            compression=self.compression,
            link=self.link,
            security=self.security,
            cold=self.cold,
        )

    @property
    def ours(self) -> tuple[str, ...]:
        """Those pairs that one of ours is in."""
        return () if self.only_stock else (RECEIVE, SEND)


def local(plan: Plan) -> Result:
    """Run it on this machine. Raise `BenchError`."""
    own = namespace.enter(plan.congestion, plan.link)
    facts = machine.describe()
    binary = _choose(plan.version)
    _check_room(plan)
    scenario = plan.scenario()
    with tempfile.TemporaryDirectory(prefix="multifd-bench-", dir=TMPFS) as folder:
        bench = _Bench(plan, binary, Path(folder))
        pairs = [(scenario, contender) for contender in bench.contenders()]
        series = alternate(pairs, repeat=plan.repeat, warm_up=1)
    ends = "at the source alone, the destination is cold" if plan.cold else "at both ends"
    return Result(
        machine=facts,
        ours=plan.ours,
        series=series,
        conditions={
            "QEMU": binary.text,
            "guest RAM": f"{WORKS[plan.work].words}; in files on tmpfs, populated {ends}; the guest is stopped",
            "network": "a namespace of the bench's own" if own else "the system's own loopback",
            "security": bench.security,
        },
        findings=(VERIFIED, *bench.findings()),
    )


def unable(plan: Plan) -> str | None:
    """Why it can't be run here, with what to do about it; None if it can."""
    try:
        _choose(plan.version)
        _check_room(plan)
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


def _check_room(plan: Plan) -> None:
    needed = (2 if plan.only_stock else 3) * plan.size + 512 * MIB  # two QEMUs and a saved machine
    free = shutil.disk_usage(TMPFS).free
    if min(free, machine.memory_available()) < needed:
        raise QemuBenchError(f"{format_bytes(needed)} of memory on {TMPFS} are needed: choose a smaller --size")


class _Figures(NamedTuple):
    seconds: float
    cpu_s: float
    wire_bytes: int


class _Pair(Contender):
    def __init__(self, name: str, once: Callable[[], Coroutine[Any, Any, _Figures]]) -> None:
        self.name = name
        self._once = once

    def run(self, scenario: Scenario) -> Run:
        try:
            made = asyncio.run(self._once())
        except QemuError as error:
            raise QemuBenchError(str(error)) from error
        return Run(bytes=scenario.size, congestion=scenario.congestion, **made._asdict())


class _Bench:
    def __init__(self, plan: Plan, binary: QemuBinary, folder: Path) -> None:
        self._plan = plan
        self._binary = binary
        self._tls_dir = certificates(folder / "tls") if plan.security == TLS else None
        self._settings = MigrationSettings(
            channels=plan.channels, compression=plan.compression, tls_folder=self._tls_dir
        )
        self._source, self._destination, self._saved = (folder / name for name in ("source", "destination", "saved"))
        self._digest = self._fill()
        self._commit_shares: list[float] = []
        """Of the guest's stop, run by run: what had to happen before SHUT 0 (ours as destination)."""
        self.security = PLAIN if self._tls_dir is None else "TLS with certificates of both sides"
        """What the connections were; the version and the cipher only where ours was there to see them."""

    def contenders(self) -> list[_Pair]:
        """In this order: what ours sends is what it received before."""
        every = {STOCK: self._stock, RECEIVE: self._receive, SEND: self._send}
        return [_Pair(name, every[name]) for name in (STOCK, *self._plan.ours)]

    def findings(self) -> list[str]:
        """What is to be said of the runs of ours."""
        if not self._plan.ours:
            return []
        share = statistics.median(self._commit_shares[1:])  # without the round that warmed up
        return [
            f"{RECEIVE}: what comes before SHUT 0 is {share:.0%} of the guest's stop",
            f"{SEND}: processor time has the start of our process in it",
        ]

    def _fill(self) -> str:
        """The source's RAM; its digest. Zeros are written too: a hole in the file would be no populated memory."""
        digest = hashlib.sha256()
        with self._source.open("wb") as file:
            for piece in pieces(self._plan.work, self._plan.size):
                digest.update(piece.data)
                file.write(piece.data)
        return digest.hexdigest()

    @contextlib.asynccontextmanager
    async def _qemu(self, *, incoming: bool) -> AsyncIterator[Qemu]:
        memory = self._destination if incoming else self._source
        populated = () if incoming and self._plan.cold else ("prealloc=on",)
        vm = Machine(ram_bytes=self._plan.size, memory_properties=populated)
        async with await Qemu.start(self._binary, vm, incoming=incoming, paused=True, memory=memory) as qemu:
            await qemu.configure(self._settings)
            yield qemu
        if incoming:
            memory.unlink()

    async def _stock(self) -> _Figures:
        async with self._qemu(incoming=True) as destination, self._qemu(incoming=False) as source:
            address = await destination.listen("tcp:127.0.0.1:0")
            made = await self._migrate(source, address, destination.pid)
            await self._verify_destination()
        return made

    async def _verify_destination(self) -> None:
        if not await asyncio.to_thread(_equal, self._source, self._destination):
            raise QemuBenchError("the destination's memory is not the source's")

    async def _migrate(self, source: Qemu, address: str, other: int) -> _Figures:
        before = cpu_s_of(source.pid) + cpu_s_of(other)
        await source.migrate(address)
        info = await source.wait_migration("completed", deadline_s=DEADLINE_S)
        cpu_s = cpu_s_of(source.pid) + cpu_s_of(other) - before
        return _Figures(info["total-time"] / 1e3, cpu_s, info["ram"]["transferred"])

    def _options(self) -> list[str]:
        """Of both our commands."""
        tls = [] if self._tls_dir is None else ["--tls-dir", str(self._tls_dir)]
        return ["--json", "--channels", str(self._plan.channels), "--compression", self._plan.compression, *tls]

    async def _receive(self) -> _Figures:
        shutil.rmtree(self._saved, ignore_errors=True)
        options = ["receive", "--listen", "tcp:127.0.0.1:0", "--into", str(self._saved), *self._options()]
        options += [] if self._plan.cold else ["--reserve", str(self._plan.size)]
        async with _command(options) as ours, self._qemu(incoming=False) as source:
            address = await _listening(ours)
            made = await self._migrate(source, address, ours.pid)
            report = await _report(ours)
        stored = next(block["sha256"] for block in report["blocks"] if block["name"] == "m")
        if stored != self._digest:
            raise QemuBenchError(f"what was received has the digest {stored}, not {self._digest}")
        self._commit_shares.append(report["commit_share"])
        self.security = report["security"]
        return made

    async def _send(self) -> _Figures:
        async with self._qemu(incoming=True) as destination:
            address = await destination.listen("tcp:127.0.0.1:0")
            before = cpu_s_of(destination.pid)
            began = os.times()
            async with _command(["send", str(self._saved), "--to", address, *self._options()]) as ours:
                report = await _report(ours)
            ended = os.times()
            ours_s = ended.children_user + ended.children_system - began.children_user - began.children_system
            cpu_s = cpu_s_of(destination.pid) - before + ours_s
            await self._verify_destination()
        return _Figures(report["elapsed_s"], cpu_s, report["bytes"])


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


def _equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same."""
    with one.open("rb") as first, other.open("rb") as second:
        while (piece := first.read(_COMPARED_BYTES)) == second.read(_COMPARED_BYTES):
            if not piece:
                return True
    return False
