"""Our own ends of a migration, in this process, for tests of a stock QEMU's: a destination that takes a machine into
memory, and a source that sends one. Both are told what to do by the same settings as the QEMU, and can have faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from multifd.elements import Compression, ReturnMessage, ZeroPages
from multifd.engine.tls import Tls
from multifd.errors import MigrationError, MultifdError
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.origin import MachineOrigin
from multifd.qemu.report import QemuReport
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.qemu.target import MachineTarget
from multifd.testing.faults import FaultLine, Faults
from multifd.testing.settings import MigrationSettings

RESULT_DEADLINE_S = 30.0  # of a test's migration, which takes less than one second
RAM = "m"
"""The block that is the RAM of a `multifd.testing.qemu.Machine`."""


class Peer:
    """What both have in common: a session that runs as a task, and perhaps a line with faults."""

    def __init__(self, faults: Faults | None) -> None:
        self.faults = faults or Faults()
        self.line: FaultLine | None = None
        """Where the faults are; None if there are none."""
        self._session: asyncio.Task[QemuReport] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def result(self, deadline_s: float = RESULT_DEADLINE_S) -> QemuReport:
        """Wait for the end of the session. Raises what `run` does, and `TimeoutError`."""
        assert self._session is not None
        return await asyncio.wait_for(asyncio.shield(self._session), deadline_s)

    async def failure(self, deadline_s: float = RESULT_DEADLINE_S) -> str:
        """Wait for a session that fails; why it did. Raises `AssertionError` if it did not fail."""
        try:
            await self.result(deadline_s)
        except MigrationError as error:
            return str(error)
        raise AssertionError("the migration completed")

    async def close(self) -> None:
        """End what runs. Twice is harmless. Raises what nobody expects of the session, when all is closed."""
        try:
            await self._end_session()
        finally:
            if self.line is not None:
                await self.line.close()

    async def _end_session(self) -> None:
        """Its own cancellation is no news; that of the task that waits here is."""
        if self._session is None:
            return
        self._session.cancel()
        await asyncio.wait({self._session})
        with contextlib.suppress(MultifdError, asyncio.CancelledError):
            self._session.result()

    def release(self) -> None:
        """Let go what the faults hold."""
        assert self.line is not None, "without faults nothing is held"
        self.line.release()

    @property
    def heard(self) -> list[ReturnMessage]:
        """What was on the return path so far; only with a line."""
        assert self.line is not None, "without faults nobody listens"
        return self.line.heard


class DestinationPeer(Peer):
    """Takes one machine into memory. `address` is for the source's `migrate`."""

    def __init__(self, faults: Faults | None) -> None:
        """Use `open`."""
        super().__init__(faults)
        self.address = ""
        self.machine = MemoryMachine()
        """What arrives; whole when `result` returns. Something that `SourcePeer` can send."""
        self._folder = Path(tempfile.mkdtemp(prefix="multifd-"))
        self._listener: QemuListener | None = None

    @classmethod
    async def open(
        cls,
        settings: MigrationSettings | None = None,
        faults: Faults | None = None,
        *,
        address: str | None = None,
        kind: type[QemuDestination] = QemuDestination,
        into: MachineTarget | None = None,
        **options: Any,
    ) -> Self:
        """Listen on `address`, or on a unix socket. `options` are more of `QemuDestinationOptions`; `kind` may be a
        subclass that does on the way what no fault does; `into` is where the machine goes in place of memory.
        """
        peer = cls(faults)
        settings, address = settings or MigrationSettings(), address or f"unix:{peer._folder / 'in'}"
        try:
            await peer._listen(settings, address, kind, into or peer.machine, options)
        except BaseException:
            await peer.close()
            raise
        return peer

    async def _listen(
        self,
        settings: MigrationSettings,
        address: str,
        kind: type[QemuDestination],
        into: MachineTarget,
        options: dict[str, Any],
    ) -> None:
        tls = None if settings.tls_folder is None else Tls.load(settings.tls_folder, server=True)
        self._listener = QemuListener.open(address, tls)
        chosen = QemuDestinationOptions(**{
            "channels": settings.channels,
            "compression": Compression[settings.compression.upper()],
            "switchover_ack": "on" if settings.switchover_ack else "off",
        } | options)  # fmt: skip
        self.destination = kind(self._listener, into, chosen)
        self.address = self._listener.uri
        if self.faults != Faults():
            _check_plain(settings)
            self.line = await FaultLine.open(self.address, self.faults)
            self.address = self.line.address
        self._session = asyncio.create_task(self.destination.run())

    async def close(self) -> None:
        """End what runs, and stop listening."""
        try:
            await super().close()
        finally:
            try:
                if self._listener is not None:
                    await self._listener.close()
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)

    def ram(self) -> npt.NDArray[np.uint8]:
        """The RAM that arrived."""
        return np.frombuffer(self.machine.blocks[RAM].view, dtype=np.uint8)


class SourcePeer(Peer):
    """Sends one machine, begun by `open`."""

    @classmethod
    async def open(
        cls,
        machine: MachineOrigin,
        address: str,
        settings: MigrationSettings | None = None,
        faults: Faults | None = None,
        **options: Any,
    ) -> Self:
        """Send `machine` to a destination that listens on `address`. `options` are more of `QemuSourceOptions`."""
        peer = cls(faults)
        settings = settings or MigrationSettings()
        try:
            await peer._begin(machine, address, settings, options)
        except BaseException:
            await peer.close()
            raise
        return peer

    async def _begin(
        self, machine: MachineOrigin, address: str, settings: MigrationSettings, options: dict[str, Any]
    ) -> None:
        hostname, folder = settings.tls_hostname, settings.tls_folder
        chosen = QemuSourceOptions(**{
            "channels": settings.channels,
            "compression": Compression[settings.compression.upper()],
            "zero_pages": None if settings.zero_pages is None else ZeroPages(settings.zero_pages),
            "tls": None if folder is None else Tls.load(folder, server=False, hostname=hostname),
        } | options)  # fmt: skip
        if self.faults != Faults():
            _check_plain(settings)
            self.line = await FaultLine.open(address, self.faults)
            address = self.line.address
        self.source = QemuSource(address, machine, chosen)
        self._session = asyncio.create_task(self.source.run())


def _check_plain(settings: MigrationSettings) -> None:
    if settings.tls_folder is not None:
        raise ValueError("faults can't be put into what is encrypted: leave out tls_folder, or the faults")
