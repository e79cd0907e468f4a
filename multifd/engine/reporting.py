"""From what a run has counted to the report that a user reads, and to the exception when it did not complete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from multifd.codec import AUTO, NONE
from multifd.engine.options import SourceOptions
from multifd.errors import (
    MigrationCancelledError,
    MigrationError,
    MigrationFailedError,
    MigrationInDoubtError,
    MigrationRefusedError,
    MultifdError,
    RefusedError,
)
from multifd.memory import Block
from multifd.messages import ANY_CODEC
from multifd.session.states import DestinationState, SourceState
from multifd.slot import SlotTally
from multifd.stats import DeviceReport, Outcome, Report

if TYPE_CHECKING:
    from multifd.engine.destination_run import DestinationRun
    from multifd.engine.source_run import SourceRun

_SOURCE_OUTCOMES = {
    SourceState.COMPLETED: Outcome.COMPLETED,
    SourceState.REFUSED: Outcome.REFUSED,
    SourceState.PREFLIGHTED: Outcome.PREFLIGHTED,
    SourceState.CANCELLED: Outcome.CANCELLED,
    SourceState.IN_DOUBT: Outcome.IN_DOUBT,
}
_DESTINATION_OUTCOMES = {
    DestinationState.STARTED: Outcome.COMPLETED,
    DestinationState.REFUSED: Outcome.REFUSED,
    DestinationState.PREFLIGHTED: Outcome.PREFLIGHTED,
}
_ERRORS: dict[Outcome, type[MigrationError]] = {
    Outcome.FAILED: MigrationFailedError,
    Outcome.REFUSED: MigrationRefusedError,
    Outcome.CANCELLED: MigrationCancelledError,
    Outcome.IN_DOUBT: MigrationInDoubtError,
}


def source_report(run: SourceRun, blocks: Sequence[Block], options: SourceOptions) -> Report:
    """What a source's run came to."""
    session, downtime = run.session, run.downtime
    verdicts = session.verdict.devices if session.verdict is not None else ()
    report = Report(
        side="source",
        outcome=_SOURCE_OUTCOMES.get(session.state, Outcome.FAILED),
        session=session.plan.session.hex(),
        channels=len(run.dispatcher.senders),
        rounds=session.round,
        bytes_sent=run.dispatcher.sent_bytes,
        elapsed_s=run.now - run.began,
        transfer_s=max(0.0, (run.transfer_ended or run.now) - run.transfer_began) if run.transfer_began else 0.0,
        downtime_ms=downtime.total_ms,
        downtime_parts_ms=downtime.parts_ms,
        explicit_switchover=options.explicit_switchover,
        kinds=_sum(sender.tallies for sender in run.dispatcher.senders),
        mismatches=run.mismatches,
        corrupt_resends=session.corrupt,
        switchover_returns=session.returns,
        trackers={block.name: block.tracker.mode for block in blocks},
        codec=options.codec,
        codecs=_sum(sender.codecs for sender in run.dispatcher.senders),
        security=run.security,
        congestion_control=run.congestion_control,
    )
    for saver, verdict in zip(run.savers, verdicts, strict=False):
        status = session.statuses.get(saver.number)
        report.switchover.append(
            DeviceReport(
                name=saver.device.name,
                took_part=verdict.takes_part,
                epoch=session.gate.epochs[saver.number],
                waited_ms=round(run.surveyor.waited.get(saver.number, 0.0) * 1e3, 3),
                bytes=saver.bytes,
                chunks=saver.chunks,
                load_ms=round(status.load_s * 1e3, 3) if status is not None else 0.0,
                set_up_ms=round(status.setup_s * 1e3, 3) if status is not None else 0.0,
            )
        )
    if run.error is not None and session.decision is not None:
        report.waiting_for = session.decision.waiting_for
    _explain(report, run.error, run.trouble)
    return report


def destination_report(run: DestinationRun) -> Report:
    """What a destination's run came to."""
    session = run.session
    report = Report(
        side="destination",
        outcome=_DESTINATION_OUTCOMES.get(session.state, Outcome.FAILED),
        session=session.session.hex(),
        channels=len(run.receivers),
        bytes_sent=sum(receiver.received_bytes for receiver in run.receivers),
        elapsed_s=run.now - run.began,
        transfer_s=max(0.0, (run.transfer_ended or run.now) - run.transfer_began) if run.transfer_began else 0.0,
        kinds=_sum(receiver.tallies for receiver in run.receivers),
        populated=run.populated,
        mismatches=session.mismatches,
        corrupt_resends=session.corrupt,
        codec=AUTO if ANY_CODEC in session.features else next(iter(run.codecs), NONE),
        codecs=_sum(receiver.codecs for receiver in run.receivers),
        explicit_switchover=run.explicit,
        security=run.security,
        congestion_control=run.receivers[0].congestion_control if run.receivers else "",
    )
    for loader in run.loaders:
        report.switchover.append(
            DeviceReport(
                name=loader.device.name,
                took_part=loader.number in session.participants,
                epoch=loader.epoch,
                bytes=loader.loaded_bytes,
                chunks=loader.loaded_chunks,
                load_ms=round(loader.load_s * 1e3, 3),
                set_up_ms=round(loader.setup_s * 1e3, 3),
            )
        )
    _explain(report, run.error, run.trouble)
    return report


def finish(report: Report, error: MultifdError | None) -> Report:
    """The report, or the exception that carries it."""
    if report.outcome in _ERRORS:
        raise _ERRORS[report.outcome](report.cause, report) from error
    return report


def _explain(report: Report, error: MultifdError | None, trouble: str) -> None:
    report.cause = f"{error}{trouble}" if error is not None else ""
    if isinstance(error, RefusedError):
        report.refusals = tuple(str(refusal) for refusal in error.refusals)


def _sum(tallies: Iterable[dict[str, SlotTally]]) -> dict[str, SlotTally]:
    """Of all channels, by name."""
    total: dict[str, SlotTally] = {}
    for each in tallies:
        for name, tally in each.items():
            into = total.setdefault(name, SlotTally())
            into.slots += tally.slots
            into.bytes += tally.bytes
            into.wire_bytes += tally.wire_bytes
            into.compressed_slots += tally.compressed_slots
    return total
