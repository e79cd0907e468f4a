"""`QemuSource`: what a user has in hand to send a machine to a stock QEMU (proto/qemu.md section 12)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from multifd.engine.progress import ProgressFeed
from multifd.engine.reporting import finish
from multifd.engine.transport import Address
from multifd.errors import InDoubtError, LocalProtocolError
from multifd.qemu.origin import MachineOrigin
from multifd.qemu.report import Dialect, QemuReport
from multifd.qemu.source_options import QemuSourceOptions
from multifd.qemu.source_run import QemuSourceRun
from multifd.session.qemu_states import QemuSourceState
from multifd.stats import Outcome, Progress

_OUTCOMES = {
    QemuSourceState.COMPLETED: Outcome.COMPLETED,
    QemuSourceState.CANCELLED: Outcome.CANCELLED,
}


class QemuSource:
    """Sends a machine to a QEMU that waits for it (`-incoming`), where its guest goes on.

    `address` is where that QEMU listens: `tcp:HOST:PORT` or `unix:PATH`. One object is good for one `run`.
    """

    def __init__(
        self, address: str, origin: MachineOrigin, options: QemuSourceOptions | None = None, *, path: str = ""
    ) -> None:
        """`path` is where `origin` is from, for the report. Raises `ValueError` for an address that is none."""
        self._address = Address.parse(address)
        self._origin = origin
        self._options = options or QemuSourceOptions()
        self._path = path
        self._progress = ProgressFeed()
        self._run: QemuSourceRun | None = None

    async def run(self) -> QemuReport:
        """Send it. Returns the report when the destination has taken it over (SHUT 0).

        Raises `MigrationFailedError`, `MigrationCancelledError` or `MigrationInDoubtError` (all was sent and nobody
        says what became of it: the destination's guest may run), with the report; with nothing begun `StorageError`
        for a machine that is not whole, `LocalProtocolError` for options that can't be.
        """
        if self._run is not None:
            raise LocalProtocolError("QemuSource.run", "to be called once")
        try:
            self._run = QemuSourceRun(self._address, self._origin, self._options, self._progress)
            try:
                await self._run.run()
            finally:
                self._progress.publish(self._run.snapshot())
        finally:
            self._progress.close()
        report = self._report(self._run)
        finish(report, self._run.error)
        return report

    def cancel(self, cause: str = "cancelled") -> bool:
        """Call it off. False if it is too late, or there is nothing to call off."""
        return self._run is not None and self._run.cancel(cause)

    def progress(self) -> AsyncIterator[Progress]:
        """Snapshots, about ten a second, until the session ends. May be read before `run` is called."""
        return self._progress.read()

    @property
    def report(self) -> QemuReport | None:
        """How `run` ended, or stands; None before it."""
        return self._report(self._run) if self._run is not None else None

    def _report(self, run: QemuSourceRun) -> QemuReport:
        session, options, state = run.session, self._options, self._origin.state
        packets, main = run.tally, run.writer
        in_doubt = isinstance(run.error, InDoubtError)
        report = QemuReport(
            side="source",
            outcome=Outcome.IN_DOUBT if in_doubt else _OUTCOMES.get(session.state, Outcome.FAILED),
            cause="; ".join(filter(None, (f"{run.error or ''}{run.trouble}", run.hint))),
            channels=len(run.senders),
            bytes_sent=packets.wire_bytes,
            prepare_s=run.prepare_s,
            elapsed_s=run.now - run.began,
            transfer_s=max(0.0, (run.transfer_ended or run.now) - run.transfer_began) if run.transfer_began else 0.0,
            security=run.security,
            congestion_control=run.congestion_control,
            path=self._path,
            uuid=state.uuid.hex(),
            packets=packets,
            main_bytes=main.sent_bytes if main is not None else 0,
            zero_records=main.zero_pages if main is not None else 0,
            parts=main.parts if main is not None else 0,
            syncs=run.syncs,
            notes=tuple(session.notes),
            dialect=Dialect(
                sync=session.sync.value,
                zero_pages=(session.zero_pages.value,),
                compression=options.compression.name.lower(),
                return_path=True,
            ),
        )
        report.acks.given = session.acks
        report.describe(state)
        report.without_ram = run.without_ram
        return report
