"""One half of a measurement: a process's memory, and runs that move it out or take it in.

Both halves make the same bytes from a seed, so that the destination knows what must arrive without being told; it then
wipes its memory before each run, or gives its pages back where they have to be cold.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import multifd
from bench.contents import SEED, WORKS
from bench.memory import Memory, Meter
from bench.scenario import MEMORY, PLAIN, TLS
from multifd.codec import NONE
from multifd.errors import Code, MultifdError, RefusedError
from multifd.limits import CHANNELS_MAX

BLOCK = "throughput"
BUSY_DEADLINE_S = 120.0  # to digest and wipe a terabyte takes as long
BUSY_PAUSE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class HalfSettings:
    """What both halves must agree on. Sizes in bytes."""

    size: int
    slot_bytes: int
    congestion: str
    work: str = MEMORY
    codec: str = NONE
    security: str = PLAIN
    cold: bool = False
    """The destination's memory is not populated before a run, and the library does it ahead of the data."""
    tls_dir: str | None = None
    """Where the certificates are, under TLS."""
    seed: int = SEED

    def tls(self, *, server: bool) -> multifd.Tls | None:
        """Of one side; None in plain."""
        if self.security != TLS:
            return None
        assert self.tls_dir is not None, "certificates are made before the halves"
        return multifd.Tls.load(self.tls_dir, server=server)


@dataclass(frozen=True, kw_only=True)
class HalfRun:
    """What one half saw of one run. Times in seconds; `cpu_s` and `peak_bytes` are this process's (`Meter`)."""

    elapsed_s: float
    transfer_s: float
    cpu_s: float
    wire_bytes: int
    """Payload as it went over the connections."""
    congestion_control: str
    security: str
    peak_bytes: int | None
    verified: bool | None
    """Destination: the memory's digest is the one expected. The source cannot say."""


class Half:
    """Memory that is filled, populated and digested; what source and destination have in common."""

    def __init__(self, settings: HalfSettings) -> None:
        self.settings = settings
        self._memory = Memory(settings.size)
        self._memory.fill(settings.work, settings.seed)
        self.memory = self._memory.buffer
        self.pages = self._memory.pages
        self.expected = self._memory.digest()

    def facts(self) -> dict[str, Any]:
        """What there is to say about it before anything has run."""
        library = Path(multifd.__file__).resolve().parents[1]
        return {"pages": self.pages, "digest": self.expected, "library": str(library)}

    def _figures(self, report: multifd.Report, meter: Meter) -> HalfRun:
        return HalfRun(
            elapsed_s=report.elapsed_s,
            transfer_s=report.transfer_s,
            cpu_s=meter.cpu_s(),
            wire_bytes=report.bytes_sent,
            congestion_control=report.congestion_control,
            security=report.security,
            peak_bytes=meter.peak_bytes(),
            verified=None,
        )


class SourceHalf(Half):
    """The half that sends."""

    def __init__(self, settings: HalfSettings) -> None:
        super().__init__(settings)
        self.turned_away = asyncio.Event()  # set once a destination was busy

    async def run(self, address: str, channels: int) -> HalfRun:
        """Send all of the memory once. Raises what `Source.run` raises.

        A destination that verifies the run before is busy; it is asked again until `BUSY_DEADLINE_S` is over.
        """
        deadline = time.monotonic() + BUSY_DEADLINE_S
        while True:
            meter = Meter(self.settings.size)
            try:
                return self._figures(await self._source(address, channels).run(), meter)
            except multifd.MigrationRefusedError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
            self.turned_away.set()
            await asyncio.sleep(BUSY_PAUSE_S)

    def _source(self, address: str, channels: int) -> multifd.Source:
        return multifd.Source(
            address,
            blocks=[multifd.BufferBlock(BLOCK, self.memory, tracker="none")],
            options=multifd.SourceOptions(
                channels=channels,
                slot_bytes=self.settings.slot_bytes,
                codec=self.settings.codec,
                zero_detection=WORKS[self.settings.work].zero_detection,
                congestion_control=self.settings.congestion,
                tls=self.settings.tls(server=False),
            ),
        )


class DestinationHalf(Half):
    """The half that receives, one run after the other on one address."""

    def __init__(self, settings: HalfSettings) -> None:
        super().__init__(settings)
        self._listener: multifd.Listener | None = None
        self._make_ready()

    async def open(self, address: str) -> str:
        """Listen. Returns the address with its port."""
        self._listener = await multifd.listen(address, self.settings.tls(server=True))
        return str(self._listener.address)

    async def run(self) -> HalfRun:
        """Take one run in, verify it, and make the memory ready for the next. Raises what `Destination.run` raises."""
        assert self._listener is not None, "open comes first"
        destination = multifd.Destination(
            self._listener,
            blocks=[multifd.BufferBlock(BLOCK, self.memory)],
            options=multifd.DestinationOptions(
                channels_max=CHANNELS_MAX,
                congestion_control=self.settings.congestion,
                populate=self.settings.cold,  # else it is populated already
            ),
        )
        meter = Meter(self.settings.size)
        report = await destination.run()
        figures = self._figures(report, meter)
        verified = self._memory.digest() == self.expected
        self._make_ready()
        return dataclasses.replace(figures, verified=verified)

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            await self._listener.close()

    def _make_ready(self) -> None:
        if self.settings.cold:
            self._memory.cool()
        else:
            self._memory.wipe()


def _is_busy(error: multifd.MigrationRefusedError) -> bool:
    """Whether the destination refused only because it is not there for us yet."""
    cause = error.__cause__
    if isinstance(cause, RefusedError):
        return {refusal.code for refusal in cause.refusals} == {Code.BUSY}
    return isinstance(cause, MultifdError) and cause.code is Code.BUSY
