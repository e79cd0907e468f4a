"""From flows to channels: nothing is lost, nobody gets more than there is room for, and the end is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from multifd import limits
from multifd.engine.dispatch import Dispatcher
from multifd.engine.sender import Job, JobDone, Ledger
from multifd.errors import RemoteProtocolError
from multifd.slot import Slot, Work

ROOM = limits.CHANNEL_QUEUE_ITEMS_MAX


def slot(number: int, length: int = 100) -> Slot:
    return Slot("ram", 1, number.to_bytes(4, "big"), (), length)


@dataclass
class FakeSender:
    """A channel that sends when the test says so."""

    number: int
    jobs: list[Job] = field(default_factory=list)
    queued: int = 0
    sent: list[Slot] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def room(self) -> int:
        return ROOM - self.queued

    @property
    def sent_slots(self) -> int:
        return len(self.sent)

    @property
    def sent_bytes(self) -> int:
        return sum(each.length for each in self.sent)

    def put(self, job: Job) -> None:
        assert self.room > 0, "more than there is room for"
        self.queued += 1
        self.jobs.append(job)

    def work(self) -> JobDone:
        """Send the oldest job, as the channel's worker would."""
        job = self.jobs.pop(0)
        for each in job.expand(job.work):
            self.ledger.append(each)
            self.sent.append(each)
        return JobDone(self.number, job.flow)


class Dispatching:
    """A dispatcher of some fake channels."""

    def __init__(self, channels: int, *, bandwidth_limit: int | None = None) -> None:
        self.dispatcher = Dispatcher(bandwidth_limit=bandwidth_limit)
        self.senders = [FakeSender(number) for number in range(1, channels + 1)]
        self.dispatcher.senders = self.senders  # type: ignore[assignment]

    def add(self, *names: str) -> None:
        for name in names:
            self.dispatcher.add_flow(name, 1, expand)

    def work_off(self, now: float = 0.0) -> None:
        """All channels send until there is nothing left."""
        while any(sender.jobs for sender in self.senders):
            for sender in self.senders:
                if sender.jobs:
                    self.dispatcher.handle_done(sender.work())
                    self.dispatcher.pump(now)

    @property
    def sent(self) -> list[Slot]:
        return [each for sender in self.senders for each in sender.sent]


def expand(work: Work) -> Iterator[Slot]:
    assert isinstance(work, Slot)
    yield work


def test_no_work_is_lost() -> None:
    """Every piece of every flow is sent once, and all channels have their share."""
    test = Dispatching(3)
    test.add("a", "b")
    pieces = [slot(number) for number in range(100)]
    test.dispatcher.put("a", iter(pieces[:70]), 0.0)
    test.dispatcher.put("b", iter(pieces[70:]), 0.0)
    test.work_off()
    assert sorted(each.meta for each in test.sent) == [each.meta for each in pieces]
    assert min(len(sender.sent) for sender in test.senders) >= 25
    assert test.dispatcher.counts == tuple(len(sender.sent) for sender in test.senders)
    assert test.dispatcher.sent_bytes == 10_000


def test_channels_are_filled_and_no_more() -> None:
    """As much as there is room for; the rest stays with the flow, not yet drawn."""
    test = Dispatching(2)
    test.add("a")
    drawn: list[int] = []

    def lazily() -> Iterator[Slot]:
        for number in range(100):
            drawn.append(number)
            yield slot(number)

    test.dispatcher.put("a", lazily(), 0.0)
    assert [len(sender.jobs) for sender in test.senders] == [ROOM, ROOM]
    assert len(drawn) <= 2 * ROOM + 1
    test.dispatcher.handle_done(test.senders[0].work())
    test.dispatcher.pump(0.0)
    assert [len(sender.jobs) for sender in test.senders] == [ROOM, ROOM]


def test_the_emptiest_channel_comes_first() -> None:
    """A slow one gets no more while others have room."""
    test = Dispatching(2)
    test.add("a")
    test.dispatcher.put("a", (slot(number) for number in range(50)), 0.0)
    quick = test.senders[1]
    for _ in range(30):
        test.dispatcher.handle_done(quick.work())
        test.dispatcher.pump(0.0)
    assert len(test.senders[0].jobs) == ROOM
    assert len(quick.sent) == 30


def test_without_channels_nothing_happens() -> None:
    """Work that comes before they are open waits."""
    test = Dispatching(0)
    test.add("a")
    test.dispatcher.put("a", iter([slot(1)]), 0.0)
    assert not test.dispatcher.is_dry("a")
    assert not test.dispatcher.all_dry


def test_a_flow_is_dry_when_its_last_piece_is_sent() -> None:
    """Not when it was drawn, and not while a channel has it; other flows do not count."""
    test = Dispatching(1)
    test.add("a", "b")
    assert test.dispatcher.all_dry
    test.dispatcher.put("a", iter([slot(1)]), 0.0)
    assert not test.dispatcher.is_dry("a")
    assert test.dispatcher.is_dry("b")
    done = test.senders[0].work()
    assert not test.dispatcher.is_dry("a")
    test.dispatcher.handle_done(done)
    assert test.dispatcher.is_dry("a")
    assert test.dispatcher.all_dry


def test_what_goes_again_goes_first_and_as_it_is() -> None:
    """Before all else of its flow, and not through the flow's own way of making slots."""
    test = Dispatching(1)
    test.dispatcher.add_flow("a", 1, lambda _work: iter([slot(999)]))
    test.dispatcher.put("a", (slot(number) for number in range(20)), 0.0)
    test.dispatcher.again("a", slot(7), 0.0)
    test.work_off()
    numbers = [int.from_bytes(each.meta, "big") for each in test.sent]
    assert numbers[:ROOM] == [999] * ROOM
    assert numbers.index(7) <= ROOM + 1  # after what the channel had, and one that was drawn already
    assert numbers.count(999) == 20


def test_the_bandwidth_limit_holds_work_back() -> None:
    """Nothing more goes before the time that `wake_at` names."""
    test = Dispatching(1, bandwidth_limit=100_000)
    test.add("a")
    test.dispatcher.put("a", (slot(number, 10_000) for number in range(5)), 100.0)
    begun = len(test.senders[0].jobs)
    assert begun < ROOM
    at = test.dispatcher.wake_at
    assert at is not None
    assert at > 100.0
    test.dispatcher.pump(at - 0.001)
    assert len(test.senders[0].jobs) == begun
    test.dispatcher.pump(at)
    assert len(test.senders[0].jobs) == begun + 1


def test_the_debt_to_the_limit_runs_off() -> None:
    """What went ahead of the limit holds the next piece back for so long; without a limit there is none."""
    test = Dispatching(1, bandwidth_limit=100_000)
    test.add("a")
    assert test.dispatcher.debt_s(100.0) == 0.0
    test.dispatcher.put("a", iter([slot(1, 50_000)]), 100.0)
    debt_s = test.dispatcher.debt_s(100.0)
    assert 0.4 < debt_s <= 0.5
    assert test.dispatcher.debt_s(100.2) == pytest.approx(debt_s - 0.2)
    assert test.dispatcher.debt_s(101.0) == 0.0
    free = Dispatching(1)
    free.add("a")
    free.dispatcher.put("a", iter([slot(1, 50_000)]), 100.0)
    assert free.dispatcher.debt_s(100.0) == 0.0


def test_settled_slots_are_forgotten_and_measured() -> None:
    """Their bytes make the rate, while there is anything under way."""
    test = Dispatching(2)
    test.add("a")
    test.dispatcher.put("a", (slot(number, 1000) for number in range(8)), 10.0)
    test.work_off(10.0)
    assert test.dispatcher.counts == (4, 4)
    test.dispatcher.settle((3, 1), 10.1)
    test.dispatcher.settle((4, 4), 10.2)
    assert test.dispatcher.rate(10.2) == pytest.approx(40_000.0)
    assert test.dispatcher.rate(50.0) == pytest.approx(40_000.0)  # idle: no slower for it
    with pytest.raises(RemoteProtocolError):
        test.dispatcher.slot(1, 4)


def test_the_rate_is_at_most_the_limit() -> None:
    """What is asked for can't be had faster than it may go."""
    test = Dispatching(1, bandwidth_limit=3000)
    test.add("a")
    assert test.dispatcher.rate(0.0) is None
    test.dispatcher.put("a", iter([slot(1, 4000)]), 0.0)
    test.work_off()
    test.dispatcher.settle((1,), 1.0)
    assert test.dispatcher.rate(1.0) == 3000


@pytest.mark.parametrize("counts", [(1,), (0, 0, 0), (2, 0), (0, 3)])
def test_counts_that_can_not_be_are_protocol_errors(counts: tuple[int, ...]) -> None:
    """Of other channels, or of slots that were never sent."""
    test = Dispatching(2)
    test.add("a")
    test.dispatcher.put("a", iter([slot(1), slot(2)]), 0.0)
    test.work_off()
    with pytest.raises(RemoteProtocolError, match=r"SETTLED\.counts"):
        test.dispatcher.settle(counts, 0.0)


def test_counts_never_go_back() -> None:
    """What was settled stays so."""
    test = Dispatching(1)
    test.add("a")
    test.dispatcher.put("a", iter([slot(1), slot(2)]), 0.0)
    test.work_off()
    test.dispatcher.settle((2,), 0.0)
    with pytest.raises(RemoteProtocolError, match=r"SETTLED\.counts"):
        test.dispatcher.settle((1,), 0.0)


@pytest.mark.parametrize("place", [(0, 1), (3, 1), (1, 0), (1, 2), (2, 3), (1, 1)])
def test_a_resend_of_nothing_is_a_protocol_error(place: tuple[int, int]) -> None:
    """No such channel, never sent, settled already, or named by an earlier one."""
    test = Dispatching(2)
    test.add("a")
    test.dispatcher.put("a", iter([slot(1), slot(2)]), 0.0)
    test.work_off()
    assert test.dispatcher.slot(1, 1).kind == "ram"
    with pytest.raises(RemoteProtocolError, match="RESEND"):
        test.dispatcher.slot(*place)
