"""What a destination of a QEMU tells: progress while it runs, its report at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multifd.elements import AckMode, ZeroPages
from multifd.errors import InDoubtError, RefusedError
from multifd.qemu.report import Acks, Dialect, QemuReport
from multifd.session.qemu_states import QemuDestinationState
from multifd.stats import Outcome, Progress

if TYPE_CHECKING:
    from multifd.qemu.destination_run import QemuDestinationRun

_BLOCKED_S = 1.0
"""A wait at a mark that is longer than this is worth a word."""
_MANY_TIMES = 4
"""When so many times the RAM have come, something keeps the source from its end."""


def destination_progress(run: QemuDestinationRun) -> Progress:
    """How it stands."""
    return Progress(
        state=run.session.state.value if run.connected_at else "listening",
        elapsed_s=run.now - run.began,
        round=run.syncs,
        bytes_sent=run.received_bytes,
        bytes_total=sum(block.length for block in run.session.blocks),
        rate=run.meter.rate(run.now) or 0.0,
        waiting_for=_waits(run),
    )


def _waits(run: QemuDestinationRun) -> tuple[str, ...]:
    session, now = run.session, run.now
    if session.final:
        return ()
    if not run.connected_at:
        dropped, why = run.listener.dropped, run.listener.last_dropped
        return (f"a QEMU source to connect{f' ({dropped} dropped, the last: {why})' if dropped else ''}",)
    waits = []
    if session.configuration is None or not session.roll.complete:
        waits.append(session.roll.missing())
    elif session.state is QemuDestinationState.PREPARING:
        waits.append("room for the blocks")
    elif run.reader.blocked_at and now - run.reader.blocked_at > _BLOCKED_S:
        waits.append("all channels to reach main's mark")
    if session.acks.wake_at is not None:
        left_s = max(0.0, session.acks.wake_at - now)
        waits.append(f"the acknowledgement, which is held back for {left_s:.1f} s more")
    ram_bytes = sum(block.length for block in session.blocks)
    if session.acks.mode is AckMode.OFF and run.received_bytes > _MANY_TIMES * ram_bytes > 0:
        waits.append("the source to switch over; if its capability switchover-ack is on, it waits for an ack")
    if session.state is QemuDestinationState.STORING:
        waits.append("all of it to be on the disk")
    return tuple(waits)


def destination_report(run: QemuDestinationRun, path: str) -> QemuReport:
    """What a destination's run came to, or how it stands."""
    session, tally, main = run.session, run.tally, run.reader.counts
    now = run.ended_at or run.now
    report = QemuReport(
        side="destination",
        outcome=_outcome(run),
        cause=f"{run.error}{run.trouble}" if run.error is not None else "",
        channels=len(session.roll.there),
        bytes_sent=tally.wire_bytes,
        elapsed_s=now - run.began,
        transfer_s=(run.received_at or now) - run.prepared_at if run.prepared_at else 0.0,
        security=run.security,
        path=path,
        uuid=session.uuid.hex(),
        packets=tally,
        main_bytes=main.bytes,
        zero_records=main.zero_records,
        page_records=main.page_records,
        parts=main.parts,
        syncs=run.syncs,
        waited_s=(run.connected_at or now) - run.began,
        without_ram=session.without_ram,
        early_flushes=run.flush.count,
        notes=tuple(session.notes),
        acks=_acks(run),
        dialect=_dialect(run),
    )
    if run.receivers:
        report.congestion_control = next(iter(run.receivers.values())).congestion_control
    if session.configuration is not None:
        report.machine = session.configuration.machine
        report.page_size = session.configuration.page_size
    report.blocks = {block.name: block.length for block in session.blocks}
    if run.state is not None:
        report.describe(run.state)
    if run.shut_at:
        report.stop_s = run.shut_at - main.stopped_at
        report.commit_s = run.shut_at - run.received_at
    if run.error is not None:
        report.waiting_for = _waits(run)
    return report


def _outcome(run: QemuDestinationRun) -> Outcome:
    if isinstance(run.error, InDoubtError):
        return Outcome.IN_DOUBT
    if run.session.state is QemuDestinationState.CANCELLED:
        return Outcome.CANCELLED
    if isinstance(run.error, RefusedError) and not run.prepared_at:
        return Outcome.REFUSED
    completed = run.session.state is QemuDestinationState.COMPLETED and run.error is None
    return Outcome.COMPLETED if completed else Outcome.FAILED


def _acks(run: QemuDestinationRun) -> Acks:
    """The first one's hold is what held the source."""
    acks = run.session.acks
    at = {kind: next((event.at for event in acks.log if event.kind == kind), None) for kind in ("owed", "given")}
    owed, given = at["owed"], at["given"]
    held_s = round(given - owed, 4) if owed is not None and given is not None else 0.0
    return Acks(owed=acks.owed, given=acks.given, held_s=held_s)


def _dialect(run: QemuDestinationRun) -> Dialect:
    session = run.session
    seen = (
        (ZeroPages.MULTIFD, run.tally.zero_pages),
        (ZeroPages.LEGACY, run.reader.counts.zero_records),
    )
    return Dialect(
        sync=session.sync.value if session.sync is not None else "",
        ack=session.acks.mode.value,
        zero_pages=tuple(how.value for how, pages in seen if pages),
        compression=run.options.compression.name.lower(),
        return_path=run.reader.counts.return_path,
    )
