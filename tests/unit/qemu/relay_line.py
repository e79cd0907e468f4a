"""A source, a relay, and where it goes on to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tls_directories
from qemu_machines import description_of, device, memory_machine, state_of

from multifd import elements as e
from multifd.elements import Compression
from multifd.errors import MigrationError
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.relay import QemuRelay
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.qemu.relay_report import RelayReport
from multifd.qemu.report import QemuReport
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.session import qemu_relay as r

DEADLINE_S = 10.0
LARGE = 20_000  # pages: more than all sockets take


class Stepped(QemuRelay):
    """Does something just before a step."""

    steps: dict[type, Callable[[], None]]

    def before(self, action: r.RelayAction) -> None:
        kind: type = type(action)
        if isinstance(action, r.Reply):
            kind = type(action.message)
        self.steps.get(kind, lambda: None)()


@dataclass
class Line:
    """A source, a relay, and where the relay goes on to."""

    relay: Stepped
    listener: QemuListener
    source: QemuSource
    tasks: list[asyncio.Task[QemuReport]] = field(default_factory=list)

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self.relay.run()), asyncio.create_task(self.source.run())]

    async def ended(self) -> tuple[RelayReport, QemuReport]:
        """Both reports; of those that failed, the one that the error has."""
        if not self.tasks:
            self.start()
        done = await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), DEADLINE_S)
        reports = []
        for each in done:
            report = each.report if isinstance(each, MigrationError) else each
            assert isinstance(report, QemuReport), report
            reports.append(report)
        assert isinstance(reports[0], RelayReport)
        return reports[0], reports[1]


MakeLine = Callable[..., Line]


@asynccontextmanager
async def lines(folder: Path) -> AsyncIterator[MakeLine]:
    """Makes them; all end with it."""
    made: list[Line] = []

    def make(
        to: str, machine: MemoryMachine | None = None, *, compression: Compression = Compression.NONE,
        channels: int = 2, steps: dict[type, Callable[[], None]] | None = None, tls: bool = False, **options: object,
    ) -> Line:  # fmt: skip
        listener = QemuListener.open(f"unix:{folder / 'relay'}" if not tls else "tcp:127.0.0.1:0",
                                     tls_directories.server() if tls else None)  # fmt: skip
        relay = Stepped(
            listener, to, QemuRelayOptions(channels=channels, compression=compression, **options)  # type: ignore[arg-type]
        )  # fmt: skip
        relay.steps = steps or {}
        source = QemuSource(
            str(listener.address), machine or memory_machine(),
            QemuSourceOptions(
                channels=channels, compression=compression, tls=tls_directories.client() if tls else None
            ),
        )  # fmt: skip
        made.append(Line(relay, listener, source))
        return made[-1]

    yield make
    for each in made:
        for task in each.tasks:
            task.cancel()
        await asyncio.gather(*each.tasks, return_exceptions=True)
        await each.listener.close()


def running(state: str = "running") -> e.MachineState:
    """A machine that says what its guest did."""
    body = (100).to_bytes(4, "big") + state.encode().ljust(100, b"\0")
    base = state_of(described=True)
    sections = (*base.sections, device("globalstate", body, number=40))
    return e.MachineState(
        base.configuration, base.early, base.ram, base.blocks, True, sections,
        description_of((*base.early, *sections)), base.uuid,
    )  # fmt: skip
