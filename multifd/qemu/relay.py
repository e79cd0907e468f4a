"""`QemuRelay`: what a user has in hand to stand between two stock QEMUs while a guest moves from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from multifd.engine.progress import ProgressFeed
from multifd.engine.reporting import finish
from multifd.engine.transport import Address
from multifd.errors import LocalProtocolError, MultifdError
from multifd.qemu.listener import QemuListener
from multifd.qemu.qmp import WAITS, Monitor
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.qemu.relay_report import RelayReport
from multifd.qemu.relay_run import Monitors, QemuRelayRun
from multifd.qemu.report import Dialect
from multifd.session.qemu_relay import RelayAction
from multifd.session.qemu_states import RelayState
from multifd.stats import Outcome, Progress

_OUTCOMES = {
    RelayState.COMPLETED: Outcome.COMPLETED,
    RelayState.CANCELLED: Outcome.CANCELLED,
    RelayState.IN_DOUBT: Outcome.IN_DOUBT,
    # the task that ran it was cancelled when only the far end could tell any more
    RelayState.RELEASED: Outcome.IN_DOUBT,
    RelayState.COMMITTED: Outcome.IN_DOUBT,
    RelayState.CONTINUING: Outcome.IN_DOUBT,
}


class QemuRelay:
    """Passes one migration on: from the QEMU that connects to `listener` to the one that waits at `to`.

    Whatever fails before the far end has the end of the stream leaves the guest running at the source. One object is
    good for one `run`.
    """

    def __init__(self, listener: QemuListener | str, to: str, options: QemuRelayOptions | None = None) -> None:
        """`listener`: an open one, which stays open, or an address to listen on for this one migration. `to` is where
        the far end's QEMU waits. Raises `ValueError` for an address that is none.
        """
        self.options = options or QemuRelayOptions()
        if not isinstance(listener, str) and self.options.tls is not None:
            raise LocalProtocolError("QemuRelayOptions.tls", "none beside a listener, which has its own")
        self._listener = listener
        self._to = Address.parse(to)
        named = (self.options.in_qmp, self.options.out_qmp)
        self._monitors = tuple(None if each is None else Address.parse(each) for each in named)
        self._progress = ProgressFeed()
        self._preparing = False
        self._called_off = ""
        """Why, if that was asked for before there was a session."""
        self._opening: asyncio.Task[Monitors] | None = None
        self._run: QemuRelayRun | None = None

    async def run(self) -> RelayReport:
        """Wait for a source and pass its migration on. Returns the report when the guest is at the far end; with
        `out_qmp`, when it runs there.

        Raises `MigrationFailedError` or `MigrationCancelledError` (the guest runs on at the source), or
        `MigrationInDoubtError` (the text says what may be so, and what to do), each with the report. With nothing begun
        `TransportError` and `MultifdError`, for an address that can't be listened on or a monitor whose QEMU does not
        wait for a migration.

        When the task is cancelled everything is released before it ends. `report` tells whether that was too late.
        """
        if self._preparing or self._run is not None:
            raise LocalProtocolError("QemuRelay.run", "to be called once")
        self._preparing = True
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._progress.close)
            monitors = await self._opened_monitors(stack)
            listener = self._listener
            if isinstance(listener, str):
                listener = QemuListener.open(listener, self.options.tls)
                stack.push_async_callback(listener.close)
            self._run = self._make_run(monitors)
            if self._called_off:
                self._run.cancel(self._called_off)
            with listener.hosted_by(self._run):
                await self._run.run()
            self._progress.publish(self._run.snapshot())
            report = self._report(self._run)
            finish(report, self._run.error)
            return report

    def cancel(self, cause: str = "cancelled") -> bool:
        """Call it off. False if it is too late: the far end may have the guest; or if there is nothing to call off."""
        if self._run is None and self._preparing:
            self._called_off = cause  # monitors are being connected
            if self._opening is not None:
                self._opening.cancel()
            return True
        return self._run is not None and self._run.cancel(cause)

    def progress(self) -> AsyncIterator[Progress]:
        """Snapshots, about ten a second, until all is done. May be read before `run` is called."""
        return self._progress.read()

    @property
    def report(self) -> RelayReport | None:
        """How `run` ended, or stands; None before it."""
        return self._report(self._run) if self._run is not None else None

    # -- for subclasses

    def before(self, action: RelayAction) -> None:
        """*loop*: this is about to be done: so a test can end a relay at any step. Nothing may be raised here."""

    # -- inside

    def _make_run(self, monitors: Monitors) -> QemuRelayRun:
        return QemuRelayRun(self._to, self.options, monitors, self, self._progress)

    async def _opened_monitors(self, stack: contextlib.AsyncExitStack) -> Monitors:
        """None if it is called off meanwhile: whoever does that does not wait for a monitor that never answers."""
        if self._called_off:
            return None, None
        self._opening = asyncio.create_task(self._open_monitors(stack))
        try:
            return await self._opening
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._called_off or (task is not None and task.cancelling()):
                raise
            return None, None

    async def _open_monitors(self, stack: contextlib.AsyncExitStack) -> Monitors:
        source, far = [await self._open_monitor(each, stack) for each in self._monitors]
        if far is not None and (state := await far.run_state()) != WAITS:
            raise MultifdError(f"the QEMU at {self._monitors[1]} is {state}: start it with -incoming and -S")
        return source, far

    @staticmethod
    async def _open_monitor(address: Address | None, stack: contextlib.AsyncExitStack) -> Monitor | None:
        if address is None:
            return None
        monitor = await Monitor.open(address)
        stack.push_async_callback(monitor.close)
        return monitor

    def _report(self, run: QemuRelayRun) -> RelayReport:
        session, options, came = run.session, self.options, run.came
        report = RelayReport(
            side="relay",
            outcome=_OUTCOMES.get(session.state, Outcome.FAILED),
            cause=f"{run.error}{run.trouble}" if run.error is not None else "",
            to=str(self._to),
            channels=len(run.channels),
            bytes_sent=came.wire_bytes,
            elapsed_s=run.now - run.began,
            waited_s=(run.connected_at or run.now) - run.began,
            transfer_s=max(0.0, (run.released_at or run.now) - run.live_at) if run.live_at else 0.0,
            security=run.security,
            congestion_control=run.congestion_control,
            uuid=(session.roll.uuid or b"").hex(),
            packets=came,
            out_packets=run.passed,
            out_compression=options.far_compression.name.lower(),
            out_security=run.out_security,
            main_bytes=run.gate.came_bytes,
            zero_records=run.zero_records,
            parts=run.parts,
            syncs=session.marks,
            sections=run.sections,
            blocks={block.name: block.length for block in session.blocks},
            notes=tuple(session.notes),
            guest=session.guest,
            shut=session.shut,
            run_state=session.run_state,
        )
        report.acks.given = session.acks
        if session.configuration is not None:
            report.machine = session.configuration.machine
            report.page_size = session.configuration.page_size
        report.dialect = Dialect(
            sync=session.sync.value if session.sync is not None else "",
            zero_pages=tuple(
                word for word, seen in (("multifd", came.zero_pages), ("legacy", run.zero_records)) if seen
            ),
            compression=options.compression.name.lower(),
            return_path=session.return_path,
            switchover_start=session.switchover_start,
            description=session.description,
        )
        _add_times(report, run)
        return report


def _add_times(report: RelayReport, run: QemuRelayRun) -> None:
    if run.session.continues:
        report.continued = bool(run.continued_at)
    if not run.stopped_at:
        return
    if run.released_at:
        report.released_s = run.released_at - run.stopped_at
    if run.shut_at:
        report.decided_s = run.shut_at - run.released_at
        report.stop_s = (run.continued_at or run.shut_at) - run.stopped_at
