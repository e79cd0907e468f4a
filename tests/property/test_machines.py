"""Whatever happens, and in whatever order: never two owners run, nothing but a typed error is raised, and it ends.

A walk is a list of numbers; each picks one of the things that can happen next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_pair import Pair, device
from machine_samples import REFUSAL, SAMPLES

from multifd import limits
from multifd import messages as m
from multifd.errors import Code, DeviceError, RemoteProtocolError
from multifd.session import actions as a
from multifd.session.states import DESTINATION_TRANSITIONS, SOURCE_TRANSITIONS, DestinationState, SourceState

S = SourceState
D = DestinationState
Move = Callable[[], object]

BOUND_S = 3 * limits.SILENCE_DEADLINE_S  # beyond all deadlines together: none of them begins more than once by itself
DEADLINE_S = 2.0
KINDS, UNWANTED, RARE, FORGED = 60, 13, 29, 37  # one move in sixty is of each, the rest goes by itself
STARTS = (S.HELLO, S.ATTACH, S.PRECOPY, S.SWITCHING, S.STOP_COPY, D.LOADING, D.LOADED, S.COMMITTED, D.STARTING)
"""Walks begin everywhere, so that as many see the end as the beginning."""
OVER = {S.ASKING, S.IN_DOUBT, *(state for state, after in SOURCE_TRANSITIONS.items() if not after)} | {
    state for state, after in DESTINATION_TRANSITIONS.items() if not after
}
"""Where an honest message can come too late."""
HELD = (a.OpenChannels, a.BeginRound, a.SaveInitial, a.Survey, a.StopOwner, a.SaveStopCopy, a.Decide, a.Prepare)
"""What an owner, a device, a feed or a disk may hang in. What is not here has a deadline of the engine's."""

FORGED_TO_DESTINATION = [message for kind, message in SAMPLES.items() if kind is not m.Commit]
FORGED_TO_SOURCE = [message for kind, message in SAMPLES.items() if kind not in (m.Aborted, m.OutcomeIs)]
"""All but the words that give the right to run, or give it back: against lies with these there is no help."""
VARIANTS: list[m.Message] = [
    m.Settled((10**6, 10**6)),
    m.Resend(7, 10**6),
    m.Credit(9, 1),
    m.DeviceStatus(9, 1, True, 0, 0.0, 0.0, ""),
    m.SyncDone("acme/log", 1),
    m.SyncDone("ram", 9),
    m.SwitchoverReady({}),
    m.SwitchoverReady({1: 1, 9: 1}),
    m.SwitchoverReady({1: 7}),
    m.Verdict(True, 64, (), ()),
    m.Verdict(False, 1, (REFUSAL,), ()),
    m.OutcomeIs(m.Fate.UNKNOWN, ""),
    m.Hello((7, 9), bytes(16), bytes(16), ("zstd", "lz4"), 1, ""),
    m.Inventory(2, 3, (), (), (), True),
    m.Inventory(1, 64, (), (device("x"), device("y"), device("z")), (), False),
    m.Sync("acme/log", 1, (0,)),
    m.Sync("ram", 1, (10**6, 10**6)),
    m.StopCopy({}),
    m.StopCopy({9: 9}),
    m.End((0,), {}, 0),
    m.End((0, 0), {}, 0),
    m.End((0, 0), {1: 0, 2: 0}, 9),
    m.End((10**6, 10**6), {1: 10**6}, 0),
]


@dataclass(slots=True)
class Walk:
    """One pair, and the moves that are open to it."""

    pair: Pair
    hung: bool = False
    """The link takes everything and delivers nothing."""
    tape: list[int] = field(default_factory=list)

    def step(self, choice: int, *, forge: bool) -> None:
        """Make one of the moves that are possible now."""
        kind, pick = choice % KINDS, choice // KINDS
        if kind in (RARE, UNWANTED):
            moves = self.rare() if kind == RARE else self.unwanted()
            moves[pick % len(moves)]()
        elif kind == FORGED and forge:
            self.forge(pick)
        else:
            moves = self.common()
            moves[pick % len(moves)]()
        self.pair.poll()
        self.pair.tick()
        self.pair.poll()
        self.check()

    def check(self) -> None:
        """What must hold at any moment."""
        pair = self.pair
        pair.assert_one_runs()
        assert all(isinstance(error, RemoteProtocolError) for _, error in pair.errors)
        for old, new in zip(pair.source.visited, pair.source.visited[1:], strict=False):
            assert new in SOURCE_TRANSITIONS[old]
        for was, now in zip(pair.destination.visited, pair.destination.visited[1:], strict=False):
            assert now in DESTINATION_TRANSITIONS[was]

    # -- moves

    def common(self) -> list[Move]:
        """What goes on by itself."""
        pair = self.pair
        moves: list[Move] = [lambda: self.pass_time(0.01)]
        for side, jobs in (("source", pair.source_jobs), ("destination", pair.destination_jobs)):
            moves += [self.job(side, job) for job in self.in_order(jobs) if pair.can_do(job)]
        if not self.hung:
            moves += [pair.deliver_to_destination] if pair.to_destination else []
            moves += [pair.deliver_to_source] if pair.to_source else []
            moves += [pair.arrive] if pair.arriving else []
            moves += [pair.notice_eof] if pair.source_end or pair.destination_end else []
        return moves if len(moves) > 1 else [*moves, pair.pass_time]

    def rare(self) -> list[Move]:
        """What the world does, and goes on after it."""
        pair, source = self.pair, self.pair.source
        moves: list[Move] = [self.look_elsewhere, self.toggle_reachable, lambda: self.pass_time(7.0)]
        if pair.arriving and not self.hung:
            moves.append(self.spoil)
        for number in range(1, len(source.plan.devices) + 1):
            if not any(isinstance(job, a.SaveInitial) and job.device == number for job in pair.source_jobs):
                moves.append(lambda number=number: source.handle_rearm(number, pair.now))  # type: ignore[misc]
        if source.state is S.IN_DOUBT:
            moves.append(self.ask_again)
            if self.pair.destination.final:
                moves.append(lambda: source.resolve(started=pair.destination_runs, now=pair.now))
        return moves

    def unwanted(self) -> list[Move]:
        """What ends sessions."""
        pair, source, destination = self.pair, self.pair.source, self.pair.destination
        moves: list[Move] = [
            pair.cut,
            self.hang,
            lambda: self.pass_time(150.0),
            lambda: source.cancel("enough", pair.now),
            lambda: source.handle_failure(DeviceError("nic/0", "no"), pair.now),
            lambda: destination.handle_failure(DeviceError("nic/0", "no"), pair.now),
        ]
        if any(isinstance(job, a.StartOwner) for job in pair.destination_jobs):
            moves.append(pair.fail_start)
        return moves

    def in_order(self, jobs: list[Any]) -> list[Any]:
        """Jobs run side by side, but for those of one device or one class, which follow each other."""
        first: dict[tuple[type, object], Any] = {}
        for job in jobs:
            first.setdefault((type(job), getattr(job, "device", getattr(job, "class_name", None))), job)
        return list(first.values())

    def job(self, side: str, job: Any) -> Move:
        return lambda: self.pair.do(side, job)

    def pass_time(self, seconds: float) -> None:
        self.pair.now += seconds

    def hang(self) -> None:
        self.hung = True
        self.pair.hang()

    def toggle_reachable(self) -> None:
        self.pair.reachable = not self.pair.reachable

    def look_elsewhere(self) -> None:
        """More or less is dirty now, a device re-arms in the next stop, an offer will be refused."""
        pair = self.pair
        pair.pending_bytes = {name: 0 if size else 1 << 40 for name, size in pair.pending_bytes.items()}
        pair.rearm_at_stop = [] if pair.rearm_at_stop else [list(range(1, len(pair.source.plan.devices) + 1))]
        pair.dirty = dict.fromkeys(pair.dirty, 2)

    def spoil(self) -> None:
        slot = self.pair.arriving[0]
        self.pair.spoiled.add((slot.channel, slot.sequence))

    def ask_again(self) -> None:
        self.pair.source_end = None
        self.pair.source.ask_again(self.pair.now)

    def forge(self, pick: int) -> None:
        """Somebody writes what was not said."""
        if pick % 2:
            messages = FORGED_TO_DESTINATION + VARIANTS
            self.pair.tell_destination(messages[pick // 2 % len(messages)])
        else:
            messages = FORGED_TO_SOURCE + VARIANTS
            self.pair.tell_source(messages[pick // 2 % len(messages)])

    # -- the end

    def finish(self, held: set[type]) -> None:
        """Let all go its way from here: it must end, in bounded time. What is in `held` hangs for ever."""
        pair = self.pair
        if self.hung:
            pair.now += limits.STALL_DEADLINE_S  # as long as TCP's keep-alives take to notice
            pair.cut()
        pair.held = held
        began = pair.now
        pair.run()
        self.check()
        assert pair.now - began < BOUND_S
        assert pair.destination.final
        assert not SOURCE_TRANSITIONS[pair.source.state] or pair.source.state is S.IN_DOUBT
        assert pair.source.wake_at is None
        assert pair.destination.wake_at is None


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    """A pair of some make, and a tape for it."""
    devices = [device(f"d{number}", explicit=draw(st.booleans())) for number in range(draw(st.integers(0, 2)))]
    classes = ("ram", "acme/log")[: draw(st.integers(0, 2))]
    pair = Pair.of(
        devices=devices,
        classes=classes,
        channels=draw(st.integers(1, 3)),
        preflight=draw(st.integers(0, 9)) == 9,
        deadline_s=DEADLINE_S,
        switch_at_deadline=draw(st.booleans()),
        return_on_rearm=draw(st.booleans()),
        auto_converge=draw(st.booleans()),
    )
    if draw(st.integers(0, 9)) == 9:
        pair.refusals = (REFUSAL,)
    elif not pair.source.plan.preflight:
        start = draw(st.sampled_from(STARTS))
        pair.run(lambda p: start in (p.source.state, p.destination.state))
    return Walk(pair, tape=draw(st.lists(st.integers(0, 2**16), min_size=50, max_size=200)))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(walk=walks(), held=st.sets(st.sampled_from(HELD), max_size=2))
def test_exactly_one_owner_runs_in_the_end(walk: Walk, held: set[type]) -> None:
    """Two honest ends, and a world in which anything fails, hangs or is cut: one owner runs, or it is in doubt."""
    for choice in walk.tape:
        walk.step(choice, forge=False)
    walk.finish(held)
    pair = walk.pair
    assert [error for state, error in pair.errors if state not in OVER] == []
    if pair.source.state is not S.IN_DOUBT:
        assert pair.source_runs != pair.destination_runs
    assert (pair.destination.state is D.STARTED) == pair.destination_runs
    assert pair.source_runs == (pair.source.state not in (S.COMPLETED, S.IN_DOUBT))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(walk=walks())
def test_a_peer_that_says_anything_does_no_more_than_fail(walk: Walk) -> None:
    """Messages out of turn and with any numbers: typed errors alone, never two owners, and always an end."""
    for choice in walk.tape:
        walk.step(choice, forge=True)
    walk.finish(set())


def test_walks_get_somewhere() -> None:
    """With moves as they come by themselves most walks complete: the properties above are about whole sessions."""
    ends: Counter[SourceState] = Counter()
    for seed in range(20):
        walk, random = Walk(Pair.of(devices=[device("nic")])), Random(seed)
        for _ in range(400):
            walk.step(random.randrange(2**16) * KINDS, forge=False)
        ends[walk.pair.source.visited[-1]] += 1
    assert ends[S.COMPLETED] >= 10


def test_a_lie_about_running_is_beyond_help() -> None:
    """The check of the walks can fail: a forged ABORTED after COMMIT does start a second owner."""
    pair = Pair.of()
    pair.held = {a.StartOwner}
    pair.run(lambda p: p.destination.state is D.STARTING)
    pair.tell_source(m.Aborted(Code.OWNER, "a lie"))
    with pytest.raises(AssertionError):
        pair.assert_one_runs()
