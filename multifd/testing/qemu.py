"""A running stock QEMU with the test guest, and what a test asks of it. Never outlives the process that started it.

async with await Qemu.start(binary) as source, await Qemu.start(other, incoming=True) as destination:
    await destination.configure(MigrationSettings(channels=4))
    await source.configure(MigrationSettings(channels=4))
    await source.migrate(await destination.listen("tcp:127.0.0.1:0"))
    await source.wait_migration("completed")
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from qemu.qmp import QMPClient, QMPError

from multifd.limits import MIB
from multifd.testing.binaries import QemuBinary, QemuError
from multifd.testing.guest import LINE_BYTES, Guest, counts
from multifd.testing.process import start_tied
from multifd.testing.settings import MigrationSettings

START_DEADLINE_S = 20.0  # 0.2 s on an idle machine
FILLED_BYTES_PER_S = 100e6  # at the least: what the guest writes at its begin, with TCG
COMMAND_DEADLINE_S = 20.0  # a main loop that is blocked by a silent connection answers nothing
MIGRATION_DEADLINE_S = 30.0  # a default for a guest of a few MiB, which takes less than one
POLL_S = 0.01
LOG_BYTES_MAX = 4096  # of what a QEMU wrote to stderr, in an error

FINAL = frozenset({"completed", "failed", "cancelled"})
"""States of a migration that end it."""

PCI_DEVICES = (
    "virtio-net-pci",
    "e1000e",
    "qemu-xhci,id=usb",
    "usb-tablet,bus=usb.0",
    "virtio-rng-pci",
    "virtio-balloon-pci",
    "virtio-serial-pci",
    "virtio-scsi-pci",
    "VGA",
)
"""For `Machine.devices`: sections of all sorts, ROMs and a video memory."""
MANY_DEVICES = (
    "pcie-root-port,id=port1,slot=1,chassis=1",
    "pcie-root-port,id=port2,slot=2,chassis=2",
    "virtio-net-pci,bus=port1",
    "e1000e,bus=port2",
    *PCI_DEVICES[2:],
)
"""The same behind the ports of a q35."""


@dataclass(frozen=True)
class Machine:
    """What is started. A source and its destination need the same."""

    type: str | None = None
    """Full machine type; None: the newest q35 of the binary."""
    ram_bytes: int = 16 * MIB
    guest: Guest = field(default_factory=Guest)
    devices: tuple[str, ...] = ()
    """Each for one `-device`."""
    uuid: str | None = None
    properties: tuple[str, ...] = ()
    """Of the machine type, such as `suppress-vmdesc=on`."""
    memory_properties: tuple[str, ...] = ()
    """Of the memory backend, such as `prealloc=on`."""
    arguments: tuple[str, ...] = ()
    """Anything more for the command line."""


class Qemu:
    """A QEMU that runs. Make it with `start`, end it with `close` or as a context manager."""

    def __init__(
        self, binary: QemuBinary, machine: Machine, *, folder: Path, memory: Path, incoming: bool, name: str
    ) -> None:
        """Use `start`."""
        self.binary = binary
        self.machine = machine
        self.name = name
        self.folder = folder
        """Its own, for its files and sockets; removed by `close`. The path is short enough for unix sockets."""
        self.memory = memory
        """The file that is its RAM (block `m`)."""
        self.incoming = incoming
        self.qmp = QMPClient(name)
        self._process: subprocess.Popen[bytes] | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    @classmethod
    async def start(
        cls,
        binary: QemuBinary,
        machine: Machine | None = None,
        *,
        incoming: bool = False,
        paused: bool = False,
        memory: Path | None = None,
        name: str | None = None,
    ) -> Self:
        """Start a QEMU, with `-incoming defer` if it is to be a destination, and with `-S` if `paused`; else its guest
        has filled its RAM and counts when this returns.

        RAM is the file `memory`, made here; by default one in its own folder. Raise `QemuError` with its own words if
        it does not come up.
        """
        folder = Path(tempfile.mkdtemp(prefix="multifd-"))
        name = name or f"QEMU {binary} ({'destination' if incoming else 'source'})"
        machine = machine or Machine()
        qemu = cls(binary, machine, folder=folder, memory=memory or folder / "ram", incoming=incoming, name=name)
        try:
            await qemu._come_up([*qemu._arguments(), *(["-S"] if paused else [])])
            if not incoming and not paused:  # else its RAM would not be filled yet
                await qemu.wait_steps(1, deadline_s=START_DEADLINE_S + machine.guest.filled / FILLED_BYTES_PER_S)
        except BaseException:
            await qemu.close()
            raise
        return qemu

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def _arguments(self) -> list[str | Path]:
        rom = self.folder / "rom"
        rom.write_bytes(self.machine.guest.rom())
        kind = ",".join([self.machine.type or self.binary.q35, "memory-backend=m", *self.machine.properties])
        size = self.machine.ram_bytes
        arguments: list[str | Path] = [self.binary.path, "-nodefaults", "-display", "none", "-accel", "tcg"]
        arguments += ["-machine", kind, "-m", f"{size}B", "-bios", rom]
        backend = ["memory-backend-file", "id=m", "share=on", f"mem-path={self.memory}", f"size={size}B"]
        arguments += ["-object", ",".join([*backend, *self.machine.memory_properties])]
        arguments += ["-chardev", f"file,id=serial,path={self.folder / 'serial'}", "-serial", "chardev:serial"]
        for device in self.machine.devices:
            arguments += ["-device", device]
        if self.machine.uuid is not None:
            arguments += ["-uuid", self.machine.uuid]
        if self.incoming:
            arguments += ["-incoming", "defer"]
        return [*arguments, *self.machine.arguments]

    async def _come_up(self, command: list[str | Path]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            qmp = ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
            self._process = start_tied([*command, *qmp], errors=self.folder / "log", fds=[theirs.fileno()])
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await self.qmp.connect(ours)
        except (QMPError, TimeoutError) as error:
            ours.close()
            raise QemuError(f"{self.name} did not come up{self.last_words()}") from error

    async def close(self) -> None:
        """End it at once, and remove its files. Twice is harmless."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self.qmp.disconnect()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """What it wrote to stderr, and how it ended if it has: for the text of errors; empty if there is nothing."""
        log = self.folder / "log"
        said = log.read_bytes()[-LOG_BYTES_MAX:].decode(errors="replace").strip() if log.exists() else ""
        status = None if self._process is None else self._process.poll()
        ended = "" if status is None else f"; it ended with status {status}"
        return ended + (f"; it said: {said}" if said else "")

    async def wait_exit(self, deadline_s: float = COMMAND_DEADLINE_S) -> int:
        """Wait until it ends by itself; its exit status."""
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, deadline_s)
        except subprocess.TimeoutExpired as error:
            raise QemuError(f"{self.name} did not end within {deadline_s} s") from error

    # -- QMP -----------------------------------------------------------------------------------------------------------

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Run a QMP command and return its answer. Raise `QemuError` if it fails or none comes."""
        try:
            async with asyncio.timeout(COMMAND_DEADLINE_S):
                return await self.qmp.execute(command, arguments)
        except (QMPError, TimeoutError) as error:
            raise QemuError(f"{self.name}: {command}: {str(error) or 'no answer'}{self.last_words()}") from error

    async def run_state(self) -> str:
        """`running`, `paused`, `inmigrate`, `postmigrate` and so on."""
        return str((await self.execute("query-status"))["status"])

    async def wait_run_state(self, *states: str, deadline_s: float = COMMAND_DEADLINE_S) -> str:
        """Wait for one of these run states."""
        async with self._patience(f"run state {' or '.join(states)}", deadline_s):
            while True:
                state = await self.run_state()
                if state in states:
                    return state
                await asyncio.sleep(POLL_S)

    # -- migration -----------------------------------------------------------------------------------------------------

    async def configure(self, settings: MigrationSettings) -> None:
        """Set what both sides need before `listen` and `migrate`. Raise `QemuError` for what this version has not."""
        for command, arguments in settings.commands(self.binary.version, incoming=self.incoming):
            await self.execute(command, arguments)

    async def listen(self, address: str | None = None) -> str:
        """Listen as a destination; the address to give to a source. Port 0 becomes a free one; None: a unix socket."""
        await self.execute("migrate-incoming", {"uri": address or f"unix:{self.folder / 'in'}"})
        if address is None or not address.startswith("tcp:"):
            return address or f"unix:{self.folder / 'in'}"
        where = (await self.migration())["socket-address"][0]
        return f"tcp:{where['host']}:{where['port']}"

    async def migrate(self, address: str) -> None:
        """Begin a migration. What becomes of it: `wait_migration`."""
        await self.execute("migrate", {"uri": address})

    async def migration(self) -> dict[str, Any]:
        """The answer of `query-migrate`."""
        answer: dict[str, Any] = await self.execute("query-migrate")
        return answer

    async def wait_migration(self, *statuses: str, deadline_s: float = MIGRATION_DEADLINE_S) -> dict[str, Any]:
        """Wait for one of these states of the migration; the answer of `query-migrate` then.

        Raise `QemuError` with its reason if the migration ends in another one.
        """
        last = "none"
        async with self._patience(f"migration {' or '.join(statuses)}", deadline_s):
            while True:
                info = await self.migration()
                last = info.get("status", "none")
                if last in statuses:
                    return info
                if last in FINAL:
                    reason = info.get("error-desc", "no reason given")
                    raise QemuError(f"{self.name}: the migration is {last}: {reason}{self.last_words()}")
                await asyncio.sleep(POLL_S)

    # -- the guest -----------------------------------------------------------------------------------------------------

    @property
    def serial(self) -> bytes:
        """What came on the serial port so far."""
        try:
            return (self.folder / "serial").read_bytes()
        except FileNotFoundError:
            return b""

    def counts(self) -> list[int]:
        """What the guest has counted here, from its first whole line on. Raise `QemuError` if it has gaps."""
        begin = 0 if not self.incoming else self.serial.find(b"\n") + 1
        return counts(self.serial[begin:])

    async def wait_steps(self, steps: int = 10, *, deadline_s: float = COMMAND_DEADLINE_S) -> None:
        """Wait until the guest has printed so many lines from now on: so it runs, and prints."""
        end = len(self.serial) + steps * LINE_BYTES
        async with self._patience(f"{steps} steps of the guest", deadline_s):
            while len(self.serial) < end:
                if not self.alive:
                    raise QemuError(f"{self.name} is gone{self.last_words()}")
                await asyncio.sleep(POLL_S)

    def ram(self) -> npt.NDArray[np.uint8]:
        """Its RAM, live: a map of the file."""
        return np.memmap(self.memory, dtype=np.uint8, mode="r")

    @contextlib.asynccontextmanager
    async def _patience(self, what: str, deadline_s: float) -> Any:
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError as error:
            raise QemuError(f"{self.name}: waited {deadline_s} s for {what}{self.last_words()}") from error


def differing_pages(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], page_size: int = 4096) -> list[int]:
    """Offsets of pages that differ between the RAMs of two machines that stand still, bytes."""
    pages = one.reshape(-1, page_size) != other.reshape(-1, page_size)
    return [int(page) * page_size for page in np.flatnonzero(pages.any(axis=1))]
