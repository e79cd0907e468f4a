"""Whether it is time to switch over, how fast the link is, and how much to slow the owner down. Pure arithmetic.

Knows nothing of messages, the scheduler or who measures what. Sizes in bytes, times in seconds, `now` is the caller's
clock. Called by `session.source`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from multifd import limits

RATE_WINDOW_S = 0.4  # of busy time: long against a slot, and about one sparse round: that is what the stop will send
RATE_SPACING_S = 0.02  # between two marks in it
RATE_BUSY_MIN_S = 0.001  # below this a rate says more about the timer than about the link
THROTTLE_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)  # never 1: the owner must live
THROTTLE_ROUNDS = 2  # bad rounds in a row before the next level: one alone can be a burst


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """What one device still needs. `initial`, `dirty` and `stop_copy` are unsent bytes, None where it can't say.

    `declared_stop_s`, or else `load_seconds_per_byte` times all that is still to be loaded, is its time in the stop.
    `initial_sent`: the initial phase of its newest epoch is out; `ready`: READY is accepted for it; `doing`: its last
    status, in words.
    """

    name: str
    takes_part: bool
    initial: int | None
    dirty: int | None
    stop_copy: int | None
    load_seconds_per_byte: float | None
    declared_stop_s: float | None
    initial_sent: bool
    ready: bool
    doing: str
    epoch: int = 1
    unloaded: int = 0
    """Bytes that were sent and are not loaded yet: no load on the link, but a stop now would wait for them."""

    @property
    def bytes(self) -> int:
        """What a stop now would send; the unknown counts as nothing."""
        return (self.initial or 0) + (self.dirty or 0) + (self.stop_copy or 0)

    @property
    def stop_s(self) -> float:
        """Time in the stop that its bytes on the link do not explain: declared, or learned, or nothing."""
        if self.declared_stop_s is not None:
            return self.declared_stop_s
        return (self.load_seconds_per_byte or 0.0) * (self.unloaded + self.bytes)


@dataclass(frozen=True, slots=True)
class FeedNeed:
    """What one feed still needs. `description` is the feed's own words for it, or empty."""

    name: str
    description: str
    pending_bytes: int


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision rests on. `rate` in bytes per second over all channels, as measured; None if not known yet.

    `fixed_s`: stop and start of the owner and round trips, learned or a default. `explicit`: explicit switchover is in
    use; if not, nobody takes part.
    """

    now: float
    began: float
    rate: float | None
    feeds: Sequence[FeedNeed]
    devices: Sequence[DeviceNeed]
    downtime_limit_s: float
    fixed_s: float
    explicit: bool
    held_back_s: float = 0.0
    """How long the bandwidth limit would hold the stop back for what was sent already."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`expected_downtime_s`: None while the rate is needed and not known. `waiting_for`: empty if `switch` is true."""

    switch: bool
    expected_downtime_s: float | None
    waiting_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Need:
    """One feed's or device's part of the downtime."""

    bytes: int
    stop_s: float
    text: str


def decide(situation: Situation, *, force: bool = False) -> Decision:
    """Whether to switch over now. `force` ignores the downtime limit, but never a device that is not ready."""
    needs = _needs(situation)
    expected = _expected(situation, needs)
    waiting = [] if force else _over_limit(situation, needs, expected)
    for device in situation.devices:
        waiting += _unfinished(device, takes_part=situation.explicit and device.takes_part)
    return Decision(not waiting, expected, tuple(waiting))


def _needs(situation: Situation) -> list[_Need]:
    needs = []
    for feed in situation.feeds:
        text = feed.description or f"{feed.name}: {_bytes(feed.pending_bytes)} dirty"
        needs.append(_Need(feed.pending_bytes, 0.0, f"{text} need"))
    for device in situation.devices:
        parts = {
            "initial data": device.initial,
            "dirty": device.dirty,
            "stop-copy": device.stop_copy,
            "unloaded": device.unloaded if device.load_seconds_per_byte else 0,
        }
        shown = ", ".join(f"{what} of {_bytes(size)}" for what, size in parts.items() if size)
        text = f"device {device.name}: {shown or 'its stop'} needs"
        needs.append(_Need(device.bytes, device.stop_s, text))
    return needs


def _expected(situation: Situation, needs: Sequence[_Need]) -> float | None:
    """Bytes over rate, plus the fixed part, plus the slowest device: devices load at the same time."""
    total = sum(need.bytes for need in needs)
    if total and not situation.rate:
        return None
    on_link = total / situation.rate if situation.rate else 0.0
    return on_link + situation.fixed_s + situation.held_back_s + max((need.stop_s for need in needs), default=0.0)


def _over_limit(situation: Situation, needs: Sequence[_Need], expected: float | None) -> list[str]:
    """What is too much: the largest needs, as many as would have to go for the rest to fit."""
    limit = situation.downtime_limit_s
    if expected is None:
        return ["rate of the channels: not measured yet"]
    if expected <= limit:
        return []
    the_limit = f" (the limit is {_seconds(limit)})"
    hopeless = situation.fixed_s > limit  # then say so, and measure the needs against all of the limit
    fixed_s = situation.held_back_s + (0.0 if hopeless else situation.fixed_s)
    rate = situation.rate or float("inf")  # without a rate there are no bytes

    def alone(need: _Need) -> float:
        return need.bytes / rate + need.stop_s

    named = []
    fitting_bytes, fitting_s = 0, 0.0
    for need in sorted(needs, key=alone):
        fitting_bytes += need.bytes
        fitting_s = max(fitting_s, need.stop_s)
        if fitting_bytes / rate + fixed_s + fitting_s > limit:
            at_rate = f" at {rate / 1e9:.2f} GB/s" if need.bytes else ""
            together = "" if alone(need) > limit else f", {_seconds(expected)} with all else"
            named.append(f"{need.text} {_seconds(alone(need))}{at_rate}{together}{the_limit}")
    if hopeless:
        named.append(f"owner: stop, start and round trips need {_seconds(situation.fixed_s)}{the_limit}")
    if situation.held_back_s > limit / 2:
        named.append(f"bandwidth limit: what was sent is {_seconds(situation.held_back_s)} ahead of it{the_limit}")
    return named[::-1]


def _unfinished(device: DeviceNeed, *, takes_part: bool) -> list[str]:
    """What a switch waits for whatever the limit: initial data that is not out, and a READY that is not there."""
    unsent = []
    if not device.initial_sent or (takes_part and device.initial):
        size = "of unknown size" if device.initial is None else f"of {_bytes(device.initial)}"
        unsent.append(f"device {device.name}: initial data {size} to be sent")
    if takes_part and not device.ready:
        doing = f" ({device.doing})" if device.doing else ""
        unsent.append(f"device {device.name}: READY of epoch {device.epoch}{doing}")
    return unsent


def _bytes(size: int) -> str:
    if size < limits.KIB:
        return f"{size} bytes"
    return f"{size / limits.MIB:.1f} MiB" if size >= limits.MIB else f"{size / limits.KIB:.1f} KiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def rate_share(rounds: int, dirty_bytes: int) -> float:
    """Of the rate measured in so many rounds, what a stop is expected to reach that sends what is dirty now.

    As long as only the first sweep was measured, lone pages are expected to be slower; where what is dirty does not fit
    at that rate, a round of it begins, and is measured.
    """
    is_only_dense = rounds <= 1 and dirty_bytes > 0
    return limits.FIRST_SWEEP_RATE_SHARE if is_only_dense else limits.SWITCHOVER_RATE_SHARE


class RateMeter:
    """Bytes per second while busy, over about the last `RATE_WINDOW_S` of busy time. Idle until told `busy`.

    Idle gaps (a barrier, nothing dirty) do not count, so that a link is not called slow for lack of work.
    """

    def __init__(self) -> None:
        self._busy_s = 0.0  # up to the last `idle`
        self._busy_since: float | None = None
        self._bytes = 0
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)])  # (busy time, bytes until then), spaced and pruned

    def busy(self, now: float) -> None:
        """Work is under way from now on. No effect if it was already."""
        if self._busy_since is None:
            self._busy_since = now

    def idle(self, now: float) -> None:
        """Nothing is under way from now on. No effect if it was so already."""
        self._busy_s = self._busy_time(now)
        self._busy_since = None

    def add(self, size: int, now: float) -> None:
        """`size` more bytes went, at `now` or just before."""
        self._mark(now)
        self._bytes += size

    def rate(self, now: float) -> float | None:
        """Bytes per second; None while too little busy time has been seen."""
        busy_s = self._mark(now)
        begin_s, begin_bytes = self._marks[0]
        if busy_s - begin_s < RATE_BUSY_MIN_S:
            return None
        return (self._bytes - begin_bytes) / (busy_s - begin_s)

    def _busy_time(self, now: float) -> float:
        return self._busy_s + (0.0 if self._busy_since is None else max(now - self._busy_since, 0.0))

    def _mark(self, now: float) -> float:
        """Keep marks `RATE_SPACING_S` apart or more over the window, at most 22; the busy time."""
        busy_s = self._busy_time(now)
        if busy_s - self._marks[-1][0] >= RATE_SPACING_S:
            self._marks.append((busy_s, self._bytes))
        while len(self._marks) > 1 and self._marks[1][0] <= busy_s - RATE_WINDOW_S:
            self._marks.popleft()
        return busy_s


class Throttle:
    """How much to slow down an owner that writes faster than the channels send (the idea of QEMU's auto-converge)."""

    def __init__(self) -> None:
        self._step = 0
        self._bad_rounds = 0

    def next_level(self, round_dirty_bytes: int, round_sent_bytes: int) -> float:
        """The level after a round that sent and during which got dirty so many bytes: 0 is full speed. Never falls.

        One step up when two rounds in a row dirtied more than half of what they sent. A round that sent nothing says
        nothing.
        """
        if round_sent_bytes > 0:
            self._bad_rounds = self._bad_rounds + 1 if 2 * round_dirty_bytes > round_sent_bytes else 0
        if self._bad_rounds >= THROTTLE_ROUNDS:
            self._bad_rounds = 0
            self._step = min(self._step + 1, len(THROTTLE_LEVELS) - 1)
        return THROTTLE_LEVELS[self._step]
