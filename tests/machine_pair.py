"""A source's and a destination's machine joined by a link in virtual time, with an engine for both.

`Pair` is what tests of the machines are made with: nothing here waits, sends or copies anything. By itself (`run`) it
does the plain thing at once: every slot arrives, every device loads, every answer comes. Tests change that with its
fields, or take over altogether (`do`, `arrive`, `deliver_*`). The owners' lives are followed: never may both run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from machine_parts import Chunk, Load, Sent

from multifd import messages as m
from multifd.errors import MultifdError, RemoteProtocolError, TransportError
from multifd.session import actions as a
from multifd.session.convergence import DeviceNeed, FeedNeed, Situation
from multifd.session.destination import DestinationSession
from multifd.session.plans import DestinationPlan, SourcePlan
from multifd.session.source import SourceSession
from multifd.session.states import DestinationState, SourceState
from multifd.wire.control import ControlReader, serialize

SESSION = b"s" * 16
SECRET = b"k" * 16
EXPLICIT = (m.EXPLICIT_SWITCHOVER,)
BLOCK = m.BlockInfo("memory", 1 << 20, 4096)
CREDIT = 1 << 20
SLOT_BYTES = 4096
RATE = 1e9
MESSAGE_S = 0.002  # how long a message takes; slots are there at once
STEPS_MAX = 20_000
_BEFORE_STATE = (DestinationState.HELLO, DestinationState.INVENTORY, DestinationState.ATTACH)


def device(name: str, *, explicit: bool = True) -> m.DeviceInfo:
    """A device for INVENTORY."""
    return m.DeviceInfo(name, 0, 1, "", explicit, None)


def source_plan(**changes: Any) -> SourcePlan:
    """One block and two channels, unless told otherwise."""
    given: dict[str, Any] = {
        "session": SESSION, "features": EXPLICIT, "channels": 2, "blocks": (BLOCK,), "kinds": (m.KindInfo("ram"),),
        "classes": ("ram",), **changes,
    }  # fmt: skip
    return SourcePlan(**given)


def destination_plan(**changes: Any) -> DestinationPlan:
    """Able to do explicit switchover, and to take eight channels."""
    given: dict[str, Any] = {"secret": SECRET, "features": EXPLICIT, "channels_max": 8, **changes}
    return DestinationPlan(**given)


@dataclass(slots=True)
class Pair:
    """Both machines, the link between them, and what their engines have to do. `wire`: messages travel as bytes."""

    source: SourceSession
    destination: DestinationSession
    wire: bool = False
    now: float = 100.0
    # what the world is like
    dirty: dict[str, int] = field(default_factory=dict)
    """Class → slots that its next round sends."""
    pending_bytes: dict[str, int] = field(default_factory=dict)
    """Class → what a survey says is dirty."""
    refusals: tuple[m.Refusal, ...] = ()
    downtime_limit_s: float = 0.3
    rearm_at_stop: list[list[int]] = field(default_factory=list)
    """For each of the next stops of the owner the devices that re-arm in it."""
    spoiled: set[tuple[int, int]] = field(default_factory=set)
    plain: bool = False
    """Slots of a round are not live."""
    """(channel, sequence) of slots that arrive changed."""
    lost: set[type] = field(default_factory=set)
    """Types of messages that never arrive."""
    held: set[type] = field(default_factory=set)
    """Types of actions that are not done by themselves."""
    reachable: bool = True
    """Whether somebody answers OUTCOME."""
    # under way
    to_destination: deque[m.Message] = field(default_factory=deque)
    to_source: deque[m.Message] = field(default_factory=deque)
    arriving: deque[Sent] = field(default_factory=deque)
    source_jobs: list[a.SourceAction] = field(default_factory=list)
    destination_jobs: list[a.DestinationAction] = field(default_factory=list)
    # what was
    source_did: list[a.SourceAction] = field(default_factory=list)
    destination_did: list[a.DestinationAction] = field(default_factory=list)
    source_end: a.Finished | None = None
    destination_end: a.Finished | None = None
    source_runs: bool = True
    destination_runs: bool = False
    """From the moment that its owner may have begun to run."""
    errors: list[tuple[SourceState | DestinationState, MultifdError]] = field(default_factory=list)
    """What machines raised at messages, and in which state."""
    # engines'
    sent: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    chunks: dict[int, int] = field(default_factory=dict)
    loads: dict[int, Load] = field(default_factory=dict)
    offered_devices: int = 0
    slots: dict[tuple[int, int], Sent] = field(default_factory=dict)
    stop_copy_saved: bool = False
    ended_for: int | None = None
    """RESENDs that the newest END has answered."""
    _eof_told: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls, *, devices: Iterable[m.DeviceInfo] = (), destination: DestinationPlan | None = None, wire: bool = False,
        **plan: Any,
    ) -> Pair:  # fmt: skip
        """Two machines and nothing under way yet. `plan` goes to `source_plan`."""
        made = source_plan(devices=tuple(devices), **plan)
        pair = cls(SourceSession(made), DestinationSession(destination or destination_plan()), wire)
        pair.dirty = dict.fromkeys(made.classes, 3)
        pair.pending_bytes = dict.fromkeys(made.classes, 0)
        pair.source.start(pair.now)
        return pair

    # -- going on

    def run(self, until: Callable[[Pair], bool] | None = None) -> Pair:
        """Go on, and let time pass when nothing else can happen, until both have ended or `until` holds."""
        for _ in range(STEPS_MAX):
            if until is not None and until(self):
                self.poll()
                return self
            if self.step():
                continue
            if self.source_end is not None and self.destination_end is not None:
                assert until is None, "it ended before what was waited for"
                return self
            assert self.pass_time(), f"stuck in {self.source.state} and {self.destination.state}"
        raise AssertionError(f"no end after {STEPS_MAX} steps: {self.source.visited}, {self.destination.visited}")

    def step(self) -> bool:
        """One thing that can happen now; False if there is none."""
        self.tick()
        self.poll()
        for side, jobs in (("source", self.source_jobs), ("destination", self.destination_jobs)):
            for job in jobs:
                if type(job) not in self.held and self.can_do(job):
                    self.do(side, job)
                    return True
        return self.arrive() or self.deliver_to_destination() or self.deliver_to_source() or self.notice_eof()

    def pass_time(self) -> bool:
        """To the next moment that a machine waits for; False if none does."""
        times = [at for at in (self.source.wake_at, self.destination.wake_at) if at is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        return True

    def tick(self) -> None:
        """Tell both machines the time, as an engine does that wakes them when they asked for it."""
        for machine in (self.source, self.destination):
            if machine.wake_at is not None and machine.wake_at <= self.now:
                machine.handle_timer(self.now)

    def poll(self) -> None:
        """Take what the machines ask for: messages go out, the rest is to be done."""
        while (action := self.source.poll_action()) is not None:
            self.source_did.append(action)
            assert self.source_end is None or isinstance(action, a.AskForOutcome | a.StartOwner | a.Finished)
            if isinstance(action, a.Send):
                self._send(self.to_destination, action.message)
            elif isinstance(action, a.Finished):
                self.source_end = action
            elif isinstance(action, a.StartOwner):
                self.source_runs = True
            else:
                self.source_jobs.append(action)
        while (todo := self.destination.poll_action()) is not None:
            self.destination_did.append(todo)
            assert self.destination_end is None, f"{todo} after the end"
            if isinstance(todo, a.Send):
                self._send(self.to_source, todo.message)
            elif isinstance(todo, a.Finished):
                self.destination_end = todo
            else:
                self.destination_runs = self.destination_runs or isinstance(todo, a.StartOwner)
                self.destination_jobs.append(todo)

    def _send(self, way: deque[m.Message], message: m.Message) -> None:
        if type(message) in self.lost:
            return
        way += ControlReader().feed(serialize(message)) if self.wire else [message]

    # -- the link

    def deliver_to_destination(self) -> bool:
        """The next message arrives there."""
        if not self.to_destination:
            return False
        self.now += MESSAGE_S
        self.tell_destination(self.to_destination.popleft())
        return True

    def deliver_to_source(self) -> bool:
        """The next message arrives there."""
        if not self.to_source:
            return False
        self.now += MESSAGE_S
        self.tell_source(self.to_source.popleft())
        return True

    def tell_destination(self, message: m.Message) -> None:
        """As its engine does: what it raises fails the session."""
        try:
            self.destination.handle_message(message, self.now)
        except MultifdError as error:
            self.errors.append((self.destination.state, error))
            self.destination.handle_failure(error, self.now)
        self.poll()

    def tell_source(self, message: m.Message) -> None:
        """As its engine does: what it raises fails the session."""
        try:
            self.source.handle_message(message, self.now)
        except MultifdError as error:
            self.errors.append((self.source.state, error))
            self.source.handle_failure(error, self.now)
        self.poll()

    def notice_eof(self) -> bool:
        """An end that is through with its session closes main: the other reads what was written, and then that."""
        if self.source_end is not None and not self.to_destination and "destination" not in self._eof_told:
            self._eof_told.add("destination")
            self.destination.handle_failure(TransportError("the source closed main"), self.now)
            return True
        if self.destination_end is not None and not self.to_source and "source" not in self._eof_told:
            self._eof_told.add("source")
            self.source.handle_failure(TransportError("the destination closed main"), self.now)
            return True
        return False

    def hang(self) -> None:
        """Main takes everything and delivers nothing from here on, not even its end."""
        self.to_destination.clear()
        self.to_source.clear()
        self.lost = set(get_args(m.Message))
        self._eof_told |= {"source", "destination"}

    def cut(self) -> None:
        """Main is lost, with all that was under way on it."""
        self.to_destination.clear()
        self.to_source.clear()
        self._eof_told |= {"source", "destination"}
        self.destination.handle_failure(TransportError("main is lost"), self.now)
        self.source.handle_failure(TransportError("main is lost"), self.now)
        self.poll()
        self.to_destination.clear()
        self.to_source.clear()

    # -- channels

    def put(self, channel: int, *, live: bool, chunk: Chunk | None = None) -> None:
        """A slot goes into a channel."""
        self.sent[channel - 1] += 1
        slot = Sent(channel, self.sent[channel - 1], live, chunk)
        self.slots[slot.channel, slot.sequence] = slot
        self.arriving.append(slot)
        self.source.handle_sent(sum(self.sent), self.now)

    def arrive(self) -> bool:
        """The oldest slot arrives, and is loaded if it is a device's."""
        if not self.arriving:
            return False
        slot = self.arriving.popleft()
        if slot.channel > self.destination.channels or self.destination.state in _BEFORE_STATE:
            return True  # nobody reads what comes on a channel that did not attach
        good = (slot.channel, slot.sequence) not in self.spoiled
        if not good:
            self.destination.handle_mismatch(slot.channel, slot.sequence, live=slot.live, now=self.now)
        self.settled[slot.channel - 1] += 1
        del self.settled[self.destination.channels :]
        self.destination.handle_settled(tuple(self.settled), self.now)
        if good and slot.chunk is not None:
            self._load(slot.chunk)
        self.poll()
        return True

    def _load(self, chunk: Chunk) -> None:
        """In index order, whatever order they come in."""
        if chunk.device > self.offered_devices:
            error = RemoteProtocolError("device-chunk owner", f"1..{self.offered_devices}", chunk.device)
            self.destination.handle_failure(error, self.now)
            return
        load = self.loads[chunk.device]
        load.waiting[chunk.index] = chunk
        while (next_ := load.waiting.pop(load.chunks, None)) is not None:
            load.chunks += 1
            load.ready = True
            load.epoch = next_.epoch
            load.complete = next_.stop_copy
            self.report(chunk.device)

    def report(self, number: int) -> None:
        """The destination's engine says how far a device is."""
        load = self.loads[number]
        status = m.DeviceStatus(number, load.epoch, load.ready, 100 * load.chunks, 0.1, 0.2, "ready")
        self.destination.handle_device_status(
            status, chunks=load.chunks, complete=load.complete, credit=CREDIT + load.chunks, now=self.now
        )

    # -- what the engines do

    def can_do(self, job: a.SourceAction | a.DestinationAction) -> bool:
        """Whether its time has come: an OUTCOME that is not decided yet must wait."""
        if isinstance(job, a.AskForOutcome) and self.reachable:
            return self.destination.state is not DestinationState.STARTING
        return True

    def do(self, side: str, job: a.SourceAction | a.DestinationAction) -> None:
        """Do one thing as the machine asked for it."""
        jobs: list[Any] = self.source_jobs if side == "source" else self.destination_jobs
        jobs.remove(job)
        _DO[type(job)](self, job)
        self._end_if_due()
        self.poll()

    def do_held(self, job_type: type) -> None:
        """Do what a test held back."""
        self.poll()
        for side, jobs in (("source", self.source_jobs), ("destination", self.destination_jobs)):
            for job in jobs:
                if type(job) is job_type:
                    self.do(side, job)
                    return
        raise AssertionError(f"nobody asked for {job_type.__name__}")

    def _end_if_due(self) -> None:
        """END once all of stop-copy is in the channels, and again after every RESEND that was answered."""
        waiting = any(isinstance(job, a.ResendSlot | a.BeginRound | a.SaveStopCopy) for job in self.source_jobs)
        if self.stop_copy_saved and not waiting and self.ended_for != self.source.resends:
            self.ended_for = self.source.resends
            self.source.handle_all_sent(tuple(self.sent), self.chunks, self.now)

    def _open_channels(self, action: a.OpenChannels) -> None:
        self.sent = [0] * action.count
        self.settled = [0] * action.count
        numbers = range(1, len(self.source.plan.devices) + 1)
        self.chunks = dict.fromkeys(numbers, 0)
        self.loads = {number: Load() for number in numbers}
        for channel in range(1, action.count + 1):
            if self.destination.may_attach(channel):
                self.destination.handle_attached(channel, self.now)

    def _begin_round(self, action: a.BeginRound) -> None:
        slots = self.dirty.get(action.class_name, 0) if action.sweep else 0
        self.dirty[action.class_name] = self.dirty.get(action.class_name, 0) - slots
        for number in range(slots):
            self.put(number % len(self.sent) + 1, live=action.live and not self.plain)
        self.source.handle_round_sent(action.class_name, tuple(self.sent), slots * SLOT_BYTES)

    def _save(self, number: int, epoch: int, *, stop_copy: bool) -> None:
        chunk = Chunk(number, epoch, self.chunks[number], stop_copy)
        self.chunks[number] += 1
        self.put(number % len(self.sent) + 1, live=False, chunk=chunk)

    def _save_initial(self, action: a.SaveInitial) -> None:
        self._save(action.device, action.epoch, stop_copy=False)

    def _save_stop_copy(self, _action: a.SaveStopCopy) -> None:
        for number in self.chunks:
            self._save(number, self.source.gate.epochs[number], stop_copy=True)
        self.stop_copy_saved = True

    def _resend(self, action: a.ResendSlot) -> None:
        slot = self.slots.get((action.channel, action.sequence))
        if slot is None:
            self.source.handle_failure(RemoteProtocolError("RESEND", "a slot that was sent"), self.now)
        elif slot.live:
            self.dirty["ram"] = self.dirty.get("ram", 0) + 1
        elif self.source.handle_corrupt("device-chunk" if slot.chunk else "ram", self.now):
            self.put(slot.channel, live=False, chunk=slot.chunk)

    def _survey(self, _action: a.Survey) -> None:
        self.source.handle_survey(self.situation(), self.now)

    def situation(self) -> Situation:
        """What a survey finds: `pending_bytes`, and nothing left of the devices."""
        source = self.source
        devices = []
        for number, info in enumerate(source.plan.devices, start=1):
            status = source.statuses.get(number)
            ready = status is not None and status.ready and status.epoch == source.gate.epochs[number]
            takes_part = source.verdict is not None and source.verdict.devices[number - 1].takes_part
            saving = any(isinstance(job, a.SaveInitial) and job.device == number for job in self.source_jobs)
            need = DeviceNeed(
                name=info.name, takes_part=takes_part, initial=0, dirty=0, stop_copy=0, load_seconds_per_byte=None,
                declared_stop_s=None, initial_sent=not saving, ready=ready, doing="", epoch=source.gate.epochs[number],
            )  # fmt: skip
            devices.append(need)
        return Situation(
            now=self.now, began=source.began, rate=RATE,
            feeds=[FeedNeed(name, "", size) for name, size in self.pending_bytes.items()], devices=devices,
            downtime_limit_s=self.downtime_limit_s, fixed_s=0.005,
            explicit=m.EXPLICIT_SWITCHOVER in source.plan.features,
        )  # fmt: skip

    def _stop_owner(self, _action: a.StopOwner) -> None:
        self.source_runs = self.source.state is not SourceState.SWITCHING and self.source_runs
        rearmed = self.rearm_at_stop.pop(0) if self.rearm_at_stop else []
        self.source.handle_owner_stopped(rearmed, self.now)

    def _ask_for_outcome(self, _action: a.AskForOutcome) -> None:
        if not self.reachable:
            self.source.handle_no_answer("nobody answers", self.now)
            return
        self.destination.handle_outcome_asked(self.now)
        fates = {DestinationState.STARTED: m.Fate.STARTED, DestinationState.ABORTED: m.Fate.ABORTED}
        fate = fates.get(self.destination.state, m.Fate.UNKNOWN)
        self.source.handle_outcome(m.OutcomeIs(fate, "as asked"), self.now)

    def _decide(self, action: a.Decide) -> None:
        self.offered_devices = len(action.devices)
        explicit = m.EXPLICIT_SWITCHOVER in self.destination.features
        verdicts = [m.DeviceVerdict(explicit and each.explicit_switchover, CREDIT) for each in action.devices]
        self.destination.handle_decision(self.refusals, verdicts, self.now)

    def _release(self, _action: a.Release) -> None:
        self.source.handle_released(self.now)

    def _deliver(self, action: a.Deliver) -> None:
        self.source.handle_heard(action.device)

    def _prepare(self, _action: a.Prepare) -> None:
        self.destination.handle_prepared({"prepare": 0.0}, self.now)

    def start_destination(self, _action: a.StartOwner | None = None) -> None:
        """Its owner runs."""
        self.destination.handle_owner_started({"start": 0.0}, self.now)

    def fail_start(self) -> None:
        """Its owner can't be started, and does not run."""
        self.destination_jobs = [job for job in self.destination_jobs if not isinstance(job, a.StartOwner)]
        self.destination_runs = False
        self.destination.handle_start_failed(MultifdError("no room to run"), self.now)
        self.poll()

    # -- what was, for tests

    @property
    def source_said(self) -> list[m.Message]:
        """All messages of the source, in order."""
        return [action.message for action in self.source_did if isinstance(action, a.Send)]

    @property
    def destination_said(self) -> list[m.Message]:
        """All messages of the destination, in order."""
        return [action.message for action in self.destination_did if isinstance(action, a.Send)]

    @property
    def source_error(self) -> MultifdError:
        """What the source ended with; it did not end well."""
        assert self.source_end is not None
        assert self.source_end.error is not None
        return self.source_end.error

    def assert_one_runs(self) -> None:
        """The promise of the whole protocol."""
        assert not (self.source_runs and self.destination_runs)


def _nothing(_pair: Pair, _action: Any) -> None:
    """Credit is counted by nobody here, and no owner is slowed down."""


_DO: dict[type, Callable[[Pair, Any], None]] = {
    a.OpenChannels: Pair._open_channels,
    a.BeginRound: Pair._begin_round,
    a.SaveInitial: Pair._save_initial,
    a.Survey: Pair._survey,
    a.Throttle: _nothing,
    a.StopOwner: Pair._stop_owner,
    a.SaveStopCopy: Pair._save_stop_copy,
    a.ResendSlot: Pair._resend,
    a.GrantCredit: _nothing,
    a.Release: Pair._release,
    a.Deliver: Pair._deliver,
    a.Heard: _nothing,
    a.AskForOutcome: Pair._ask_for_outcome,
    a.Decide: Pair._decide,
    a.Prepare: Pair._prepare,
    a.StartOwner: Pair.start_destination,
}
