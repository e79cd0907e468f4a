"""Two relays between our own source and a destination, with a line between them that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tls_directories
from cut_line import CutLine, cut_line
from qemu_machines import description_of, device, memory_machine, state_of

import multifd
from multifd import elements as e
from multifd.elements import Compression
from multifd.errors import MigrationError
from multifd.qemu.hop_far import FarRelay
from multifd.qemu.hop_near import NearRelay
from multifd.qemu.hop_options import NearOptions
from multifd.qemu.hop_report import FarReport, NearReport
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.qemu.report import QemuReport
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.session import qemu_relay as r
from multifd.stats import Report

DEADLINE_S = 20.0
LARGE = 20_000  # pages: more than all sockets and credit take

Steps = dict[type, Callable[[], None]]


class SteppedNear(NearRelay):
    """Does something just before a step."""

    steps: Steps

    def before(self, action: r.RelayAction) -> None:
        kind = type(action.message) if isinstance(action, r.Reply) else type(action)
        self.steps.get(kind, lambda: None)()


@dataclass
class Hop:
    """A source, two relays and the line between them."""

    source: QemuSource
    near: SteppedNear
    far: FarRelay
    line: CutLine
    source_path: str = ""
    """Where the near relay listens."""
    tasks: list[asyncio.Task[Report]] = field(default_factory=list)

    def start(self) -> None:
        self.tasks = [asyncio.create_task(each.run()) for each in (self.source, self.near, self.far)]

    async def ended(self) -> tuple[QemuReport, NearReport, FarReport]:
        """All reports; of those that failed, the one that the error has."""
        if not self.tasks:
            self.start()
        done = await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), DEADLINE_S)
        source, near, far = [each.report if isinstance(each, MigrationError) else each for each in done]
        assert isinstance(source, QemuReport), source
        assert isinstance(near, NearReport), near
        assert isinstance(far, FarReport), far
        return source, near, far


MakeHop = Callable[..., Awaitable[Hop]]


@asynccontextmanager
async def hops(folder: Path) -> AsyncIterator[MakeHop]:
    """Makes them; all end with it."""
    async with AsyncExitStack() as stack:

        async def make(
            to: str, machine: MemoryMachine | None = None, *, compression: Compression = Compression.NONE,
            far_compression: Compression | None = None, channels: int = 2, steps: Steps | None = None,
            tls: bool = False, out_qmp: str | None = None, codec: str = "none", relay_channels: int = 2,
        ) -> Hop:  # fmt: skip
            server, client = (tls_directories.server(), tls_directories.client()) if tls else (None, None)
            far_listener = await multifd.listen("tcp://127.0.0.1:0", server)
            stack.push_async_callback(far_listener.close)
            line = await stack.enter_async_context(cut_line(far_listener.address))
            near_listener = QemuListener.open(f"unix:{folder / 'near'}")
            stack.push_async_callback(near_listener.close)
            options = NearOptions(
                channels=channels, compression=compression, out_tls=client, codec=codec, relay_channels=relay_channels
            )
            near = SteppedNear(near_listener, line.address, options)
            near.steps = steps or {}
            far = FarRelay(
                far_listener, to,
                QemuRelayOptions(out_compression=far_compression, out_qmp=out_qmp, out_tls=client),
            )  # fmt: skip
            sent = QemuSourceOptions(channels=channels, compression=compression)
            source = QemuSource(str(near_listener.address), machine or memory_machine(), sent)
            made = Hop(source, near, far, line, near_listener.address.path)
            stack.push_async_callback(_finished, made)
            return made

        yield make


async def _finished(made: Hop) -> None:
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def running(state: str = "running", pages: int = 700) -> MemoryMachine:
    """A machine that says what its guest did."""
    body = (100).to_bytes(4, "big") + state.encode().ljust(100, b"\0")
    base = state_of(pages=pages)
    sections = (*base.sections, device("globalstate", body, number=40))
    return memory_machine(
        e.MachineState(
            base.configuration, base.early, base.ram, base.blocks, True, sections,
            description_of((*base.early, *sections)), base.uuid,
        )
    )  # fmt: skip
