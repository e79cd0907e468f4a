"""Whatever the order of events: shares are fair and no work is lost, no old READY opens the gate, rounds pair up."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from multifd.messages import Sync, SyncDone
from multifd.session.scheduler import EMPTY_COST_BYTES, QUANTUM_BYTES, Scheduler
from multifd.session.switchover import ReadyGate, ReadyTracker
from multifd.session.sync import DestinationBarrier, SourceBarrier

LENGTH_MAX = 4 << 20


@dataclass(frozen=True)
class Piece:
    length: int
    number: int


@given(
    flows=st.lists(
        st.tuples(st.integers(1, 8), st.lists(st.integers(0, LENGTH_MAX), min_size=1, max_size=5)),
        min_size=2,
        max_size=4,
    ),
    pieces=st.integers(1, 200),
)
def test_shares_are_within_a_turn_and_a_piece(flows: list[tuple[int, list[int]]], pieces: int) -> None:
    """At any moment flows with work differ in bytes per weight by no more than a turn and the largest piece."""
    scheduler = Scheduler(bandwidth_limit=None)

    def endless(lengths: list[int]) -> Iterator[Piece]:
        return (Piece(lengths[number % len(lengths)], number) for number in count())

    for index, (weight, lengths) in enumerate(flows):
        scheduler.add_flow(str(index), weight)
        scheduler.put(str(index), endless(lengths))
    cost = [0] * len(flows)
    for _ in range(pieces):
        found = scheduler.next_work(0.0)
        assert found is not None
        name, piece = found
        cost[int(name)] += piece.length or EMPTY_COST_BYTES
    shares = [spent / weight for spent, (weight, _) in zip(cost, flows, strict=True)]
    assert max(shares) - min(shares) <= QUANTUM_BYTES + LENGTH_MAX


scheduler_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 2), st.lists(st.integers(0, LENGTH_MAX), max_size=4)),
        st.tuples(st.just("front"), st.integers(0, 2), st.lists(st.integers(0, LENGTH_MAX), min_size=1, max_size=1)),
        st.tuples(st.just("next"), st.integers(0, 2), st.just([])),
        st.tuples(st.just("has"), st.integers(0, 2), st.just([])),
        st.tuples(st.just("clear"), st.integers(0, 2), st.just([])),
    ),
    max_size=60,
)


@given(steps=scheduler_steps, limit=st.one_of(st.none(), st.integers(1, 1 << 30)))
def test_no_work_is_lost_doubled_or_out_of_order(steps: list[tuple[str, int, list[int]]], limit: int | None) -> None:
    """Against a model of plain queues: what comes out is the head of its flow's queue, and all of it comes out."""
    scheduler = Scheduler(bandwidth_limit=limit)
    model: list[deque[Piece]] = [deque() for _ in range(3)]
    for flow in range(3):
        scheduler.add_flow(str(flow), flow + 1)
    numbers = count()
    now = 0.0

    def take() -> bool:
        nonlocal now
        found = scheduler.next_work(now)
        if found is None and scheduler.wake_at is not None:
            assert scheduler.wake_at > now
            now = scheduler.wake_at
            found = scheduler.next_work(now)
        if found is None:
            assert scheduler.wake_at is None
            return False
        assert found[1] is model[int(found[0])].popleft()
        return True

    for step, flow, lengths in steps:
        work = [Piece(length, next(numbers)) for length in lengths]
        if step == "put":
            scheduler.put(str(flow), iter(work))
            model[flow].extend(work)
        elif step == "front":
            scheduler.push_front(str(flow), work[0])
            model[flow].appendleft(work[0])
        elif step == "has":
            assert scheduler.has_work(str(flow)) == bool(model[flow])
        else:
            expected = any(model)
            assert take() == expected
    while take():
        pass
    assert not any(model)


DEVICES = (1, 2, 3)
GATE_EVENTS = ("rearm", "arrive", "set-up", "late set-up", "poll", "deliver")


class Pair:
    """A gate and a tracker, and all that is under way between them, in both directions."""

    def __init__(self, participants: set[int]) -> None:
        self.participants = participants
        self.gate = ReadyGate(DEVICES, participants)
        self.tracker = ReadyTracker(participants)
        self.chunks: dict[int, deque[int]] = {device: deque([1]) for device in DEVICES}
        self.return_path: deque[dict[int, int]] = deque()
        self.arrived = dict.fromkeys(DEVICES, 0)  # newest epoch that arrived
        self.ready = dict.fromkeys(DEVICES, 0)  # newest epoch whose set-up has ended
        self.accepted: dict[int, int] | None = None

    def step(self, event: str, device: int) -> None:
        if event == "rearm":
            self.chunks[device].append(self.gate.rearm(device))
        elif event == "arrive" and self.chunks[device]:
            self.arrived[device] = self.chunks[device].popleft()
            self.tracker.handle_epoch(device, self.arrived[device])
        elif event == "set-up" and self.arrived[device]:
            self.ready[device] = self.arrived[device]
            self.tracker.handle_device_ready(device, self.ready[device])
        elif event == "late set-up" and self.arrived[device] > 1:
            self.tracker.handle_device_ready(device, self.arrived[device] - 1)
        elif event == "poll":
            due = self.tracker.poll_ready()
            if due is not None:
                self.return_path.append(due)
        elif event == "deliver" and self.return_path:
            epochs = self.return_path.popleft()
            if self.gate.handle_ready(epochs):
                self.accepted = epochs


@given(
    steps=st.lists(st.integers(0, len(GATE_EVENTS) * len(DEVICES) - 1), max_size=40),
    participants=st.sets(st.sampled_from(DEVICES)),
)
def test_gate_opens_for_the_newest_epochs_only(steps: list[int], participants: set[int]) -> None:
    """Under random re-arms, loads and delays the gate is open only while all are ready for their newest epoch.

    No message of an honest peer is called a fault, and once all is delivered the gate opens.
    """
    pair = Pair(participants)
    for step in steps:
        event, device = divmod(step, len(DEVICES))
        pair.step(GATE_EVENTS[event], DEVICES[device])
        assert pair.gate.open == (not participants or pair.accepted == pair.gate.current())
        if pair.gate.open:
            assert all(pair.ready[device] == pair.gate.epochs[device] for device in participants)
    for device in DEVICES:
        while pair.chunks[device]:
            pair.step("arrive", device)
        pair.step("set-up", device)
    pair.step("poll", 1)
    while pair.return_path:
        pair.step("deliver", 1)
    assert pair.gate.open
    assert pair.gate.waiting_for() == ()


CLASSES = "abc"
BARRIER_EVENTS = ("send", "settle", "sync", "forth", "back")


class Barriers:
    """Both ends of the barrier, two channels, and the messages under way."""

    def __init__(self) -> None:
        self.source = SourceBarrier()
        self.destination = DestinationBarrier(2, None)
        self.sent = [0, 0]
        self.settled = [0, 0]
        self.forth: deque[Sync] = deque()
        self.back: deque[SyncDone] = deque()
        self.counts: dict[SyncDone, tuple[int, ...]] = {}
        self.done = dict.fromkeys(CLASSES, 0)

    def step(self, event: str, name: str, channel: int) -> None:
        if event == "send":
            self.sent[channel] += 1
        elif event == "settle":
            self.settled[channel] += self.settled[channel] < self.sent[channel]
        elif event == "sync" and self.source.is_done(name):
            number = self.source.begin(name)
            self.forth.append(self.source.sent(name, tuple(self.sent)))
            self.counts[SyncDone(name, number)] = tuple(self.sent)
        elif event == "forth" and self.forth:
            self.destination.handle_sync(self.forth.popleft())
        elif event == "back" and self.back:
            answer = self.back.popleft()
            self.source.handle_done(answer)
            self.done[answer.class_name] += 1
        for answer in self.destination.poll_done(self.settled):
            assert all(here >= needed for here, needed in zip(self.settled, self.counts[answer], strict=True))
            self.back.append(answer)


@given(steps=st.lists(st.integers(0, len(BARRIER_EVENTS) * len(CLASSES) * 2 - 1), max_size=60))
def test_barrier_pairs_every_round_once(steps: list[int]) -> None:
    """Rounds of three classes over random progress: no message is a fault, no SYNC_DONE is early or missing."""
    pair = Barriers()
    for step in steps:
        rest, channel = divmod(step, 2)
        event, name = divmod(rest, len(CLASSES))
        pair.step(BARRIER_EVENTS[event], CLASSES[name], channel)
    pair.settled = list(pair.sent)
    pair.step("back", "a", 0)  # lets the destination answer what is settled now
    while pair.forth or pair.back:
        pair.step("forth", "a", 0)
        pair.step("back", "a", 0)
    assert pair.done == {name: pair.source.round_of(name) for name in CLASSES}
    assert all(pair.source.is_done(name) for name in CLASSES)
