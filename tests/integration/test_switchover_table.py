"""Explicit switchover and the end of a migration, as one table: what each side is like, and what comes of it.

Every row is a migration between two processes over real sockets, with somebody in between (harness/proxy.py) who does
what the row needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import end_scripts as end
from harness import ready_scripts as ready
from harness.migration import Setup, migration
from harness.proxy import cut_after, cut_before, cut_off_after, cut_off_before, drop, twice
from harness.ready_scripts import READY_OF, Script, device, run_through
from harness.remote import DestinationHost

from multifd import GiveUp, OnRearm, Outcome, SourceOptions, limits
from multifd import messages as m
from multifd.device.emulated_options import Step
from multifd.errors import Code
from multifd.session import source as machine
from multifd.session.states import SourceState

pytestmark = pytest.mark.usefixtures("nothing_left")
ROW_DEADLINE_S = 20.0
X = device()
PLAIN = device(explicit_switchover=False)
COMPLETED, FAILED, REFUSED = Outcome.COMPLETED, Outcome.FAILED, Outcome.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`source` and `destination` in words, `then` what comes of it."""

    source: str
    destination: str
    then: str
    setup: Setup
    script: Script = run_through
    outcome: Outcome = COMPLETED
    cause: tuple[str, ...] = ()
    """Words of the source's cause."""
    there: tuple[str, ...] | None = None
    """Words of the destination's cause; None if it does not fail, or was killed."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """States of the source, by value, and how long it may be in them."""

    @property
    def parameter(self) -> Any:
        """For pytest. Rows that wait for a deadline are slow."""
        slow = bool(self.waits) or self.setup.options.deadline_s < 1
        name = f"{self.source} | {self.destination} | {self.then}"
        return pytest.param(self, id=name, marks=[pytest.mark.slow] if slow else [])


def options(**others: object) -> SourceOptions:
    """Of a source, with two channels."""
    return SourceOptions(channels=2, **others)  # type: ignore[arg-type]


NEGOTIATION = [
    Row(
        source="X explicit", destination="X explicit", then="waits for READY of X, its set-up is before the stop",
        setup=Setup(here={"x": device(setup_s=0.1)}), script=ready.ready_is_waited_for,
    ),
    Row(
        source="X and Y, only X explicit", destination="both explicit", then="X takes part and Y does not",
        setup=Setup(here={"x": X, "y": PLAIN}, there={"x": X, "y": X}), script=ready.only_x_takes_part,
    ),
    Row(
        source="X and Y, only X explicit", destination="Y's set-up hangs", then="switches, and LOADED never comes",
        setup=Setup(here={"x": X, "y": PLAIN}, there={"x": X, "y": device(hang_at=Step.SET_UP)}),
        script=ready.only_x_takes_part, outcome=FAILED, cause=("finish loading",), there=("finish loading",),
        waits={"loading": 0.3},
    ),
    Row(
        source="X and Y explicit", destination="only X explicit", then="refused before data, naming Y",
        setup=Setup(here={"x": X, "y": X}, there={"x": X, "y": PLAIN}), script=ready.refused_before_data,
        outcome=REFUSED, cause=("device y/0", "explicit switchover at the source, but not at the destination"),
    ),
    Row(
        source="none explicit", destination="X explicit", then="completes and waits for nobody",
        setup=Setup(here={"x": PLAIN}, there={"x": X}), script=ready.no_ready_is_sent,
    ),
    Row(
        source="feature on", destination="feature unable", then="refused at HELLO",
        setup=Setup(here={"x": X}, options_there={"explicit_switchover": False}), script=ready.refused_before_data,
        outcome=REFUSED, cause=("explicit-switchover", "lacks it"),
    ),
    Row(
        source="feature off", destination="feature on", then="not used",
        setup=Setup(here={"x": X}, options=options(explicit_switchover=False)), script=ready.no_ready_is_sent,
    ),
    Row(
        source="no device", destination="no device", then="no READY is sent or waited for",
        setup=Setup(), script=ready.no_ready_is_sent,
    ),
    Row(
        source="no device and no memory", destination="the same", then="completes",
        setup=Setup(memory_bytes=0), script=ready.no_ready_is_sent,
    ),
]  # fmt: skip

NEVER_READY = [
    Row(
        source="X explicit", destination=f"X hangs at {step.value}", then="ends at the deadline, waiting for X",
        setup=Setup(here={"x": X}, there={"x": device(hang_at=step)}, options=options(deadline_s=0.4, give_up=give_up)),
        outcome=FAILED, cause=("waiting for", f"device x/0: {READY_OF} 1"), there=(f"device x/0: {READY_OF} 1",),
    )
    for step, give_up in [
        (Step.LOAD_INITIAL, GiveUp.FAIL), (Step.SET_UP, GiveUp.FAIL), (Step.SET_UP, GiveUp.SWITCH),
    ]
]  # fmt: skip

REARMS = [
    Row(
        source="X re-arms while READY is under way", destination="", then="the old READY counts for nothing",
        setup=Setup(here={"x": X}), script=ready.rearmed_with_ready_under_way,
    ),
    Row(
        source="X re-arms after READY, before the decision", destination="", then="waits for READY of the new epoch",
        setup=Setup(here={"x": X, "z": PLAIN}), script=ready.rearmed_after_ready,
    ),
    Row(
        source="X re-arms in the stop", destination="", then="goes back to precopy once and completes",
        setup=Setup(here={"x": device(rearm_at_stop=1)}), script=ready.returned_once,
    ),
    Row(
        source="X re-arms in the stop, Y gets dirty", destination="", then="Y has live passes after the return",
        setup=Setup(here={"x": device(rearm_at_stop=1), "y": device(dirty_bytes_per_s=1e6)}),
        script=ready.others_go_on_after_a_return,
    ),
    Row(
        source="X, not explicit, re-arms in the stop", destination="", then="goes back to precopy, waits for nobody",
        setup=Setup(here={"x": device(rearm_at_stop=1, explicit_switchover=False)}), script=ready.no_ready_is_sent,
    ),
    Row(
        source="X re-arms in stop-copy", destination="", then="fails",
        setup=Setup(here={"x": X}), script=ready.rearmed_in_stop_copy, outcome=FAILED,
        cause=("device x/0 re-armed after stop-copy",), there=("x/0 re-armed",),
    ),
    Row(
        source="X re-arms in every stop", destination="", then="goes back so many times and no more",
        setup=Setup(here={"x": device(rearm_at_stop=99)}), outcome=FAILED,
        cause=("device x/0 re-armed", f"after {limits.SWITCHOVER_RETURNS_MAX} returns"), there=("x/0 re-armed",),
    ),
    Row(
        source="X re-arms in the stop, policy fail", destination="", then="fails",
        setup=Setup(here={"x": device(rearm_at_stop=1)}, options=options(on_rearm=OnRearm.FAIL)), outcome=FAILED,
        cause=("device x/0 re-armed", "the policy is to fail"), there=("x/0 re-armed",),
    ),
]  # fmt: skip

ODD_READY = [
    *(
        Row(
            source="X explicit", destination=f"READY {what}", then="a protocol error",
            setup=Setup(here={"x": X, "y": PLAIN}), script=ready.injected(epochs), outcome=FAILED,
            cause=("SWITCHOVER_READY", *words), there=("SWITCHOVER_READY", *words),
        )
        for what, epochs, words in [
            ("for an unknown device", {1: 1, 7: 1}, ("devices that take part", "7")),
            ("for a device that does not take part", {1: 1, 2: 1}, ("devices that take part", "2")),
            ("without a device that takes part", {}, ("device 1",)),
            ("of a future epoch", {1: 2}, ("epoch", "2")),
        ]
    ),
    Row(
        source="feature off", destination="READY all the same", then="a protocol error",
        setup=Setup(here={"x": X}, options=options(explicit_switchover=False)), script=ready.injected_where_unused,
        outcome=FAILED, cause=("SWITCHOVER_READY",), there=("SWITCHOVER_READY",),
    ),
    Row(
        source="X explicit", destination="READY twice, and again after the decision", then="no effect",
        setup=Setup(here={"x": X}), script=ready.ready_twice,
    ),
]  # fmt: skip

ASKS = {"committed": 0.2}


def behind(message: m.Message) -> tuple[m.Message, ...]:
    """CANCEL comes right behind it."""
    return (message, m.Cancel(Code.CANCELLED, "too late"))


ENDS = [
    Row(
        source="COMMIT is lost", destination=how, then="asks, is told ABORTED, goes on",
        setup=Setup(here={"x": X}), script=end.lost(m.Commit, rule), waits=ASKS, outcome=FAILED, cause=(), there=(),
    )
    for how, rule in [("main lives", drop), ("main is cut", cut_before)]
] + [
    Row(
        source="STARTED is lost", destination=how, then="asks, is told STARTED",
        setup=Setup(here={"x": X}), script=end.lost(m.Started, rule), waits=ASKS,
    )
    for how, rule in [("main lives", drop), ("main is cut", cut_before)]
] + [
    Row(
        source="COMMIT and the answer are lost", destination="main lives", then="ABORTED on main is enough",
        setup=Setup(here={"x": X}), script=end.answered_on_main_alone, waits=ASKS, outcome=FAILED, there=("COMMIT",),
    ),
    Row(
        source="COMMIT is late", destination="", then="asks, is told ABORTED, and COMMIT starts nothing any more",
        setup=Setup(here={"x": X}), script=end.late_commit, waits=ASKS, outcome=FAILED, there=("COMMIT",),
    ),
    Row(
        source="asks early", destination="the owner is slow to start", then="is told STARTED when it is known",
        setup=Setup(here={"x": X}, owner_there="waits"), script=end.slow_to_start, waits=ASKS,
    ),
    Row(
        source="main is cut after COMMIT", destination="its owner can't start", then="asks, is told ABORTED, goes on",
        setup=Setup(here={"x": X}, owner_there="fails"), script=end.lost(m.Commit, cut_after), waits=ASKS,
        outcome=FAILED, cause=("told to fail",), there=("told to fail",),
    ),
    *(
        Row(
            source=what, destination="", then="completes all the same", waits=ASKS,
            setup=Setup(here={"x": X}), script=end.disturbed(message_type, rule),
        )
        for what, message_type, rule in [
            ("COMMIT comes twice", m.Commit, twice), ("CANCEL comes behind COMMIT", m.Commit, behind),
            ("LOADED comes twice", m.Loaded, twice), ("STARTED comes twice", m.Started, twice),
        ]
    ),
    Row(
        source="all links are lost with COMMIT", destination="", then="in doubt until it can ask; ABORTED",
        setup=Setup(here={"x": X}), script=end.cut_off(m.Commit, cut_off_before), waits=ASKS, outcome=FAILED, there=(),
    ),
    Row(
        source="all links are lost after COMMIT", destination="", then="in doubt until it can ask; STARTED",
        setup=Setup(here={"x": X}), script=end.cut_off(m.Commit, cut_off_after), waits=ASKS,
    ),
    Row(
        source="", destination="killed after COMMIT", then="in doubt; the operator says that it does not run",
        setup=Setup(here={"x": X}), script=end.killed_after_commit(started=False), waits=ASKS, outcome=FAILED,
        cause=("operator",),
    ),
    Row(
        source="", destination="killed after COMMIT", then="in doubt; the operator says that it runs",
        setup=Setup(here={"x": X}), script=end.killed_after_commit(started=True), waits=ASKS,
    ),
    Row(
        source="STARTED is lost", destination="answers that it does not know", then="in doubt until somebody knows",
        setup=Setup(here={"x": X}), script=end.unknown_there, waits=ASKS,
    ),
]  # fmt: skip

TABLE = [*NEGOTIATION, *NEVER_READY, *REARMS, *ODD_READY, *ENDS]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the source's questions, so that nobody who does not answer holds up the suite."""
    monkeypatch.setattr(limits, "OUTCOME_DEADLINE_S", 0.5)
    monkeypatch.setattr(limits, "OUTCOME_PAUSE_S", 0.02)


@pytest.mark.parametrize("row", [row.parameter for row in TABLE])
async def test_switchover(row: Row, host: DestinationHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of a row is what it says, exactly one side runs at its end, and at no time did both."""
    for state, seconds in row.waits.items():
        key = SourceState(state)
        monkeypatch.setitem(machine._WAITS, key, (seconds, machine._WAITS[key][1]))
    async with asyncio.timeout(ROW_DEADLINE_S), migration(host, row.setup) as it:
        report = await row.script(it)
        assert report.outcome is row.outcome, report.cause
        assert all(word in report.cause for word in row.cause), report.cause
        if row.there is not None:
            await it.check_aborted_there(*row.there)
        if row.outcome is COMPLETED and not it.destination.gone:
            there = await it.check_completed()
            in_use = row.setup.options.explicit_switchover
            assert (report.explicit_switchover, there.report["explicit_switchover"]) == (in_use, in_use)
        elif row.outcome is COMPLETED:
            assert not it.owner.spells.running
        else:
            await it.check_runs_on()
