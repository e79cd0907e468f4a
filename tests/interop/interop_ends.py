"""Our ends of a migration as a test of a whole way needs them: as a command, or as the library in this process, with
the same answers from both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from interop_rows import DEFAULT, Link
from tls_directories import server, tls_dir

from multifd.cli.ending import ExitCode, failed
from multifd.elements import Compression, ReturnMessage, ZeroPages
from multifd.engine.tls import Tls
from multifd.errors import MultifdError
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.saved import SavedMachine, SavingMachine
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.testing.binaries import QemuBinary
from multifd.testing.settings import MigrationSettings

WAIT_S = 60.0  # far more than anything here takes
RAM = "m"
"""The block that is the RAM of a `multifd.testing.qemu.Machine`."""


@dataclass(frozen=True)
class Ended:
    """How one of our ends ended: exit code, the JSON object, and what it said besides."""

    code: int
    data: dict[str, Any]
    said: str = ""


class Receiver(Protocol):
    """A destination of ours that listens."""

    address: str

    async def end(self) -> Ended:
        """Wait for its end."""
        ...


QemuOf = Callable[[str], QemuBinary]
"""The fixture `qemu_of`."""
ReceiverFactory = Callable[..., Awaitable[Receiver]]
"""`await receive(receiver, link, into, **options)`: `receiving`, which ends when the test does."""


def settings(link: Link, **more: Any) -> MigrationSettings:
    """The QEMU's side of a link."""
    over_tls = link.security == "tls"
    return MigrationSettings(
        channels=link.channels,
        compression=link.compression,
        tls_folder=tls_dir() if over_tls else None,
        tls_hostname="localhost" if over_tls and link.address == "unix" else None,
        **more,
    )


def listening(link: Link) -> str | None:
    """For `Qemu.listen`."""
    return "tcp:127.0.0.1:0" if link.address == "tcp" else None


@contextlib.asynccontextmanager
async def receiving(receiver: str, link: Link, into: Path, **options: Any) -> AsyncIterator[Receiver]:
    """Listen, to save a machine as `into`. `options` are more of `QemuDestinationOptions`."""
    where = "tcp:127.0.0.1:0" if link.address == "tcp" else f"unix:{into.parent.with_name('in')}"
    into.parent.mkdir(exist_ok=True)
    opened = _command_receiving if receiver == "command" else _library_receiving
    async with opened(where, link, into, options) as opened_one:
        yield opened_one


async def send(sender: str, link: Link, machine: Path, to: str, zero_pages: str) -> Ended:
    """Send a saved machine."""
    if sender == "command":
        arguments = ["--channels", link.channels, "--compression", link.compression]
        arguments += [] if zero_pages == DEFAULT else ["--zero-pages", zero_pages]
        arguments += ["--tls-dir", tls_dir(), "--tls-hostname", "localhost"] if link.security == "tls" else []
        async with _command("qemu", "send", machine, "--to", to, *arguments, "--json") as process:
            return await _end(process)
    options = QemuSourceOptions(
        channels=link.channels,
        compression=Compression[link.compression.upper()],
        zero_pages=None if zero_pages == DEFAULT else ZeroPages(zero_pages),
        tls=Tls.load(tls_dir(), server=False, hostname="localhost") if link.security == "tls" else None,
    )
    with SavedMachine.open(machine) as saved:
        return await _ended(QemuSource(to, saved, options))


async def inspected(path: Path) -> Ended:
    """`multifd qemu inspect`."""
    async with _command("qemu", "inspect", path, "--json") as process:
        return await _end(process)


def saved_ram(path: Path) -> npt.NDArray[np.uint8]:
    """The RAM of a machine that was saved."""
    with SavedMachine.open(path) as machine:
        block = machine.contents(RAM)
        assert block is not None
        pages = np.frombuffer(block.view, dtype=np.uint8).reshape(len(block.present), -1)
        return np.where(block.present[:, np.newaxis], pages, np.uint8(0)).reshape(-1)


def left_in(folder: Path) -> set[str]:
    """What is in it, hidden or not."""
    return {each.name for each in folder.iterdir()}


class Listened(QemuDestination):
    """Keeps what it said on the return path."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.replies: list[ReturnMessage] = []

    def send_return(self, message: ReturnMessage) -> None:
        self.replies.append(message)
        super().send_return(message)


# -- the library -------------------------------------------------------------------------------------------------------


class LibraryReceiver:
    """`QemuDestination` in this process."""

    def __init__(self, listener: QemuListener, destination: Listened) -> None:
        self.destination = destination
        self.address = listener.uri
        self._listener = listener
        self._session = asyncio.ensure_future(_ended(destination))

    async def end(self) -> Ended:
        ended = await asyncio.wait_for(asyncio.shield(self._session), WAIT_S)
        await self._listener.close()
        return ended

    async def close(self) -> None:
        """Give up."""
        self._session.cancel()
        await asyncio.gather(self._session, return_exceptions=True)
        await self._listener.close()


@contextlib.asynccontextmanager
async def _library_receiving(
    where: str, link: Link, into: Path, options: dict[str, Any]
) -> AsyncIterator[LibraryReceiver]:
    listener = QemuListener.open(where, server() if link.security == "tls" else None)
    saving = SavingMachine(into)
    compression = Compression[link.compression.upper()]
    chosen = QemuDestinationOptions(channels=link.channels, compression=compression, **options)
    receiver = LibraryReceiver(listener, Listened(listener, saving, chosen, path=str(into)))
    try:
        yield receiver
    finally:
        await receiver.close()


async def _ended(side: QemuDestination | QemuSource) -> Ended:
    try:
        report = await side.run()
    except MultifdError as error:
        ending = failed(error)
        return Ended(ending.code, ending.data, ending.fault)
    return Ended(ExitCode.COMPLETED, report.to_json())


# -- commands ----------------------------------------------------------------------------------------------------------


class CommandReceiver:
    """`multifd qemu receive`."""

    def __init__(self, process: Process, address: str) -> None:
        self.address = address
        self._process = process

    async def end(self) -> Ended:
        return await _end(self._process)


@contextlib.asynccontextmanager
async def _command_receiving(
    where: str, link: Link, into: Path, options: dict[str, Any]
) -> AsyncIterator[CommandReceiver]:
    arguments = ["--channels", link.channels, "--compression", link.compression]
    arguments += ["--tls-dir", tls_dir()] if link.security == "tls" else []
    for name, value in options.items():
        option = "--" + name.removesuffix("_s").replace("_", "-")
        arguments += [option] if value is True else [option, value]
    async with _command("qemu", "receive", "--listen", where, "--into", into, *arguments, "--json") as process:
        assert process.stderr is not None
        said = ""
        while "listening on " not in said:
            line = await asyncio.wait_for(process.stderr.readline(), WAIT_S)
            said += line.decode()
            assert line, f"it did not listen: {said}"
        yield CommandReceiver(process, said.rpartition("listening on ")[2].strip())


@contextlib.asynccontextmanager
async def _command(*arguments: object) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "multifd", *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _end(process: Process) -> Ended:
    out, said = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode is not None
    data = json.loads(out) if out.startswith(b"{") else {"said": out.decode()}
    return Ended(process.returncode, data, said.decode())
