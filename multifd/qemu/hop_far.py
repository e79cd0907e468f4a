"""`FarRelay`: the second of two relays back to back, beside the QEMU that takes the machine (proto/qemu.md section
16). It looks at nothing that it passes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from multifd import limits
from multifd.device import Device
from multifd.engine.destination import Destination
from multifd.engine.listener import Listener
from multifd.engine.options import DestinationOptions
from multifd.engine.reporting import finish
from multifd.engine.transport import Address, SocketOptions
from multifd.errors import Code, MigrationError, MultifdError, RefusedError
from multifd.messages import DeviceInfo, Refusal, What
from multifd.qemu.hop_far_devices import FarChannel, FarMain
from multifd.qemu.hop_far_end import FarEnd, FarStep
from multifd.qemu.hop_report import FarReport, Hop
from multifd.qemu.qmp import WAITS, Monitor
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.stats import Outcome, Progress
from multifd.wire.qemu_hop import CHANNEL, MAIN

_HOLDS = "the guest stands still here: `cont` it only if query-migrate at the source says completed, else end this QEMU"
_MAY_HOLD = "the guest stays at the source; the QEMU here may hold it as well, stopped: end it"
_BOTH = "the guest may run at both ends: compare query-status at both, and stop one of them"


class FarRelay:
    """Takes one migration from a near relay and gives it to the QEMU that waits at `to`. One object is good for one
    `run`.
    """

    def __init__(self, listener: Listener, to: str, options: QemuRelayOptions | None = None) -> None:
        """On the loop. `listener`: for near relays (`multifd.listen`); it stays open. Of the options those count that
        are for the far end. Raises `ValueError` for an address that is none.
        """
        self.options = options or QemuRelayOptions()
        self._to = Address.parse(to)
        self._monitor_at = None if self.options.out_qmp is None else Address.parse(self.options.out_qmp)
        self._end = FarEnd(self._to, self.options, fail=self.cancel, before=self.before)
        self._destination = Destination(
            listener,
            devices=self._devices,
            owner=self._end,
            options=DestinationOptions(
                channels_max=limits.CHANNELS_MAX,
                explicit_switchover=False,
                device_credit=limits.QEMU_HOP_CREDIT_BYTES,
                congestion_control=self.options.congestion_control,
                socket_buffer=self.options.socket_buffer,
            ),
        )
        self._completed = False

    async def run(self) -> FarReport:
        """Wait for a near relay and pass its migration on. Returns the report when the guest is at this end; with
        `out_qmp`, when it runs here.

        Raises `MigrationFailedError` (the guest runs on at the source), or `MigrationInDoubtError` (the text says what
        may be so, and what to do), each with the report. With nothing begun `TransportError` and `MultifdError`, for a
        monitor whose QEMU does not wait for a migration.
        """
        async with contextlib.AsyncExitStack() as stack:
            self._end.monitor = await self._open_monitor(stack)
            stack.push_async_callback(self._close_end)
            try:
                await self._destination.run()
                self._completed = True
            except MigrationError as error:
                report = self._report(error)
                finish(report, self._end.error or error)
        return self._report(None)

    def cancel(self, cause: str = "cancelled") -> bool:
        """Call it off. False if there is nothing to call off, or it is too late: the source has given the guest up."""
        return self._destination.cancel(cause)

    def progress(self) -> AsyncIterator[Progress]:
        """Snapshots, about ten a second, until all is done. May be read before `run` is called."""
        return self._destination.progress()

    @property
    def report(self) -> FarReport:
        """How it stands."""
        return self._report(None)

    # -- for subclasses

    def before(self, step: FarStep) -> None:
        """*loop*: this is about to be done: so a test can end a relay at any step. Nothing may be raised here."""

    # -- inside

    async def _open_monitor(self, stack: contextlib.AsyncExitStack) -> Monitor | None:
        if self._monitor_at is None:
            return None
        monitor = await Monitor.open(self._monitor_at)
        stack.push_async_callback(monitor.close)
        if (state := await monitor.run_state()) != WAITS:
            raise MultifdError(f"the QEMU at {self._monitor_at} is {state}: start it with -incoming and -S")
        return monitor

    async def _close_end(self) -> None:
        await self._end.close(completed=self._completed)

    def _devices(self, offered: Sequence[DeviceInfo]) -> Sequence[Device]:
        """*pool*: those of a near relay, whatever the number of its channels."""
        names = [(each.id, each.instance) for each in offered]
        count = len(names) - 1
        if not 1 <= count <= limits.QEMU_CHANNELS_MAX or names != [(MAIN, 0), *((CHANNEL, n) for n in range(count))]:
            cause = (
                f"what is offered is not from a relay: {MAIN}, and {CHANNEL} 0 to at most {limits.QEMU_CHANNELS_MAX}"
            )
            raise RefusedError((Refusal(What.SESSION, "", Code.REFUSED, cause),), cause)
        options = SocketOptions(self.options.congestion_control, self.options.socket_buffer)
        end = self._end
        channels = tuple(
            FarChannel(n, end, end.home, to=self._to, options=options, tls=self.options.out_tls) for n in range(count)
        )
        return [FarMain(end, end.home, channels), *channels]

    def _report(self, error: MigrationError | None) -> FarReport:
        end, native = self._end, self._destination.report
        channels = end.device.channels if end.device is not None else ()
        report = FarReport(
            side="far relay",
            to=str(self._to),
            machine=end.machine,
            main_bytes=end.main_bytes,
            channel_bytes=sum(channel.passed_bytes for channel in channels),
            out_channels=len(channels),
            out_security=end.security,
            shut=end.shut,
            continued=end.continued if end.continues else None,
            hop=Hop.of(native),
            notes=tuple(end.notes),
        )
        if native is not None:
            report.elapsed_s, report.transfer_s = native.elapsed_s, native.transfer_s
            report.security, report.refusals = native.security, native.refusals
        report.outcome, advice = self._outcome(error)
        report.guest = {
            Outcome.COMPLETED: "at this end",
            Outcome.IN_DOUBT: "in doubt",
        }.get(report.outcome, "at the source")
        if error is not None:
            report.cause = "; ".join(filter(None, (str(end.error or error), advice)))
        return report

    def _outcome(self, error: MigrationError | None) -> tuple[Outcome, str]:
        """And what a person should know, or do."""
        end = self._end
        if self._completed:
            return Outcome.COMPLETED, ""
        if end.shut == 0:
            return Outcome.IN_DOUBT, _HOLDS if end.continues else _BOTH
        failed = error.report.outcome if error is not None else Outcome.FAILED
        if not end.released or end.shut is not None or end.gone:
            return failed, ""
        return (failed, _MAY_HOLD) if end.continues else (Outcome.IN_DOUBT, _BOTH)
