"""`QemuDestination`: what a user has in hand to receive a machine from a stock QEMU (proto/qemu.md section 14)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping

from multifd.elements import ReturnMessage
from multifd.engine.progress import ProgressFeed
from multifd.engine.reporting import finish
from multifd.engine.session_run import as_ours, wait_out
from multifd.errors import CalledOffError, LocalProtocolError
from multifd.qemu.channel_receiver import QemuChannelReceiver
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.destination_reporting import destination_report
from multifd.qemu.destination_run import QemuDestinationRun
from multifd.qemu.listener import QemuListener
from multifd.qemu.report import QemuReport
from multifd.qemu.target import MachineTarget
from multifd.stats import Progress

_TICK_S = 0.1


class QemuDestination:
    """Receives one machine from a QEMU. One object is good for one `run`.

    A subclass may override `send_return`, `before_channel_read`, `before_sync` and `before_commit`, and call the
    original or not: so a test holds an acknowledgement back, says one twice, stops a channel.
    """

    def __init__(
        self,
        listener: QemuListener | str,
        target: MachineTarget,
        options: QemuDestinationOptions | None = None,
        *,
        path: str = "",
    ) -> None:
        """`listener`: an open one, which stays open, or an address (`tcp:HOST:PORT`, `unix:PATH`) to listen on for this
        one machine. `path` is where `target` puts it, for the report.
        """
        self.options = options or QemuDestinationOptions()
        if not isinstance(listener, str) and self.options.tls is not None:
            raise LocalProtocolError("QemuDestinationOptions.tls", "none beside a listener, which has its own")
        self._listener = listener
        self._target = target
        self._path = path
        self._progress = ProgressFeed()
        self._run: QemuDestinationRun | None = None
        self._digests: dict[str, str] = {}
        self._digest_s = 0.0
        self._notes: list[str] = []
        self._digested_bytes = 0
        self._enough = threading.Event()
        """No digests are wanted any more."""

    # -- for users

    async def run(self) -> QemuReport:
        """Wait for a source and receive. Returns the report when the machine is whole, in place, and given up by the
        source.

        Raises `MigrationFailedError`, `MigrationRefusedError` or `MigrationCancelledError`, with the report: nothing
        was kept, the guest runs on at the source. Raises `MigrationInDoubtError` if the machine was stored and SHUT 0
        could not be said: it is kept, and the source is to be looked at before one of the two runs. Raises
        `TransportError` and `ValueError` for an address that can't be
        listened on.

        When the task is cancelled everything is released before it ends. `report` tells whether that was too late.
        """
        if self._run is not None:
            raise LocalProtocolError("QemuDestination.run", "to be called once")
        listener = self._listener
        own = QemuListener.open(listener, self.options.tls) if isinstance(listener, str) else None
        try:
            where = own or self._open_listener()
            self._run = QemuDestinationRun(
                where, self._target, self.options, hooks=self, progress=self._progress, path=self._path
            )
            with where.hosted_by(self._run):
                await self._run.run()
            if self._run.error is None and self.options.digests:
                await self._digest(self._run)
            return self._finish(self._run)
        finally:
            self._progress.close()
            if own is not None:
                await own.close()

    def cancel(self, cause: str = "cancelled") -> bool:
        """Call it off. False if it is too late, or there is nothing to call off. Digests that are being made are given
        up too: the report has none then.
        """
        self._enough.set()
        return self._run is not None and self._run.cancel(cause)

    def progress(self) -> AsyncIterator[Progress]:
        """Snapshots, about ten a second, until all is done. May be read before `run` is called."""
        return self._progress.read()

    @property
    def report(self) -> QemuReport | None:
        """How `run` ended, or stands; None before it."""
        if self._run is None:
            return None
        report = destination_report(self._run, self._path)
        report.digests = dict(self._digests)
        report.digest_s = self._digest_s
        report.notes = (*report.notes, *self._notes)
        return report

    @property
    def channels(self) -> Mapping[int, QemuChannelReceiver]:
        """The channels that receive, by number: `channels[3].cancel()` cuts one."""
        return self._run.receivers if self._run is not None else {}

    # -- for subclasses

    def send_return(self, message: ReturnMessage) -> None:
        """*loop*: write `message` on the return path. Raises `TransportError`."""
        if self._run is None:
            raise LocalProtocolError("QemuDestination.send_return", "a session")
        self._run.write_return(message)

    def before_channel_read(self, channel: int) -> None:
        """*worker*: the channel's next packet is about to be read. What is raised here ends the session."""

    def before_sync(self, channel: int) -> None:
        """*worker*: the channel's SYNC has come, and nobody knows yet. What is raised here ends the session."""

    def before_commit(self) -> None:
        """*pool*: all has come and is verified, nothing is committed. What is raised here ends the session."""

    # -- inside

    def _open_listener(self) -> QemuListener:
        assert isinstance(self._listener, QemuListener)
        return self._listener

    def _finish(self, run: QemuDestinationRun) -> QemuReport:
        self._progress.publish(run.snapshot())
        report = self.report
        assert report is not None
        finish(report, run.error)
        return report

    async def _digest(self, run: QemuDestinationRun) -> None:
        """The source is done and the machine safe: this may take its time. Whatever fails here changes nothing."""
        began = run.now
        ticker = asyncio.ensure_future(self._tell_digest(run))
        work = asyncio.ensure_future(asyncio.to_thread(self._target.digest, self._count_digested))
        try:
            self._digests = dict(await asyncio.shield(work))
        except asyncio.CancelledError:
            self._enough.set()
            await wait_out(work)
            raise
        except CalledOffError:
            self._notes.append("the digests were not finished")
        except Exception as error:
            self._notes.append(f"no digests: {as_ours(error)}")
        finally:
            ticker.cancel()
            self._digest_s = run.now - began

    def _count_digested(self, size: int) -> None:
        """*pool*: called often."""
        if self._enough.is_set():
            raise CalledOffError("no digests are wanted any more")
        self._digested_bytes += size

    async def _tell_digest(self, run: QemuDestinationRun) -> None:
        total = sum(block.length for block in run.session.blocks)
        began = run.now
        while True:
            done = self._digested_bytes
            self._progress.publish(
                Progress(
                    state="digesting",
                    elapsed_s=run.now - run.began,
                    bytes_sent=done,
                    bytes_total=total,
                    rate=done / (run.now - began) if run.now > began else 0.0,
                )
            )
            await asyncio.sleep(_TICK_S)
