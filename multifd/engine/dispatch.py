"""From flows to channels: draws work from the scheduler, hands it to whichever channel has room, and knows when a flow
has run dry. Loop only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from multifd.engine.sender import ChannelSender, Job, JobDone
from multifd.errors import RemoteProtocolError
from multifd.session.convergence import RateMeter
from multifd.session.scheduler import Scheduler
from multifd.slot import Slot, Work

Expand = Callable[[Work], Iterator[Slot]]


@dataclass(frozen=True, slots=True)
class _Again:
    """A slot that is sent again as it is."""

    slot: Slot

    @property
    def length(self) -> int:
        return self.slot.length


def _expand_again(work: Work) -> Iterator[Slot]:
    yield cast(_Again, work).slot


class Dispatcher:
    """All channels of a source. `senders` are in the order of their numbers, from 1."""

    def __init__(self, *, bandwidth_limit: int | None) -> None:
        self.senders: list[ChannelSender] = []
        self.meter = RateMeter()
        self._bandwidth_limit = bandwidth_limit
        self._scheduler = Scheduler(bandwidth_limit=bandwidth_limit)
        self._expand: dict[str, Expand] = {}
        self._in_channels: Counter[str] = Counter()
        self._next = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Slots sent on each channel."""
        return tuple(sender.sent_slots for sender in self.senders)

    @property
    def sent_bytes(self) -> int:
        """Payload bytes on the wire."""
        return sum(sender.sent_bytes for sender in self.senders)

    @property
    def wake_at(self) -> float | None:
        """When the bandwidth limit allows the next piece of work."""
        return self._scheduler.wake_at

    def rate(self, now: float) -> float | None:
        """Bytes of state per second, as measured; None if not known yet.

        What the bandwidth limit holds back does not make the link busy, so the measured rate is the link's: the limit
        caps it.
        """
        rate = self.meter.rate(now)
        return rate if rate is None or self._bandwidth_limit is None else min(rate, self._bandwidth_limit)

    def debt_s(self, now: float) -> float:
        """How long the bandwidth limit holds the next piece of work back for what was sent already."""
        return self._scheduler.debt_s(now)

    def add_flow(self, name: str, weight: int, expand: Expand) -> None:
        """Before any work of it."""
        self._scheduler.add_flow(name, weight)
        self._expand[name] = expand

    def put(self, flow: str, work: Iterator[Work], now: float) -> None:
        """More work for a flow, drawn from lazily."""
        self._scheduler.put(flow, work)
        self.pump(now)

    def again(self, flow: str, slot: Slot, now: float) -> None:
        """Send a slot once more, first of all that its flow has."""
        self._scheduler.push_front(flow, _Again(slot))
        self.pump(now)

    def is_dry(self, flow: str) -> bool:
        """Whether all work of a flow has left for the sockets."""
        return not self._in_channels[flow] and not self._scheduler.has_work(flow)

    @property
    def all_dry(self) -> bool:
        """Whether all work of all flows has."""
        return all(self.is_dry(flow) for flow in self._expand)

    def slot(self, channel: int, sequence: int) -> Slot:
        """An unsettled slot that RESEND names. Raises `RemoteProtocolError` for none, or one named before."""
        if 1 <= channel <= len(self.senders):
            slot = self.senders[channel - 1].ledger.take_for_resend(sequence)
            if slot is not None:
                return slot
        raise RemoteProtocolError("RESEND", "a slot that is sent and not settled, each once", (channel, sequence))

    def settle(self, counts: tuple[int, ...], now: float) -> None:
        """The destination has settled so many slots of each channel. Raises `RemoteProtocolError`."""
        if len(counts) != len(self.senders):
            raise RemoteProtocolError("SETTLED.counts", f"{len(self.senders)} counts", len(counts))
        for sender, count in zip(self.senders, counts, strict=True):
            settled_bytes = sender.ledger.settle(count)
            if settled_bytes:
                self.meter.add(settled_bytes, now)
        if counts == self.counts and not self._in_channels.total():
            self.meter.idle(now)

    def handle_done(self, done: JobDone) -> None:
        """A channel's worker has sent a job."""
        self.senders[done.channel - 1].queued -= 1
        self._in_channels[done.flow] -= 1

    def pump(self, now: float) -> None:
        """Fill the channels, the emptiest first."""
        while self.senders:
            sender = max(self._round_robin(), key=lambda each: each.room)
            if sender.room <= 0:
                return
            drawn = self._scheduler.next_work(now)
            if drawn is None:
                return
            flow, work = drawn
            expand = _expand_again if isinstance(work, _Again) else self._expand[flow]
            self._in_channels[flow] += 1
            self.meter.busy(now)
            sender.put(Job(flow, work, expand))

    def _round_robin(self) -> list[ChannelSender]:
        """The channels, beginning after the last one that was given work: equal ones take turns."""
        self._next = (self._next + 1) % len(self.senders)
        return self.senders[self._next :] + self.senders[: self._next]
