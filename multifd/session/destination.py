"""The destination's machine (proto/states.md section 2), sans-IO. Methods are sorted and named as in `source`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from multifd import limits
from multifd import messages as m
from multifd.errors import Code, CorruptError, DeadlineError, MultifdError, PeerError, RefusedError, RemoteProtocolError
from multifd.session import actions as a
from multifd.session import handshake
from multifd.session.device_messages import MessageCounts
from multifd.session.plans import DestinationPlan
from multifd.session.states import (
    DESTINATION_MESSAGES,
    DestinationState,
    check_destination_message,
    check_destination_move,
)
from multifd.session.switchover import ReadyTracker
from multifd.session.sync import DestinationBarrier


@dataclass(slots=True)
class _Load:
    """How far one device's load is."""

    chunks: int = 0
    complete: bool = False


_WAITS: dict[DestinationState, tuple[float, str]] = {
    DestinationState.HELLO: (limits.HELLO_DEADLINE_S, "the source's HELLO"),
    DestinationState.INVENTORY: (limits.HELLO_DEADLINE_S, "the source's INVENTORY"),
    DestinationState.ATTACH: (limits.ATTACH_DEADLINE_S, "the data channels to attach"),
    DestinationState.PRECOPY: (limits.SILENCE_DEADLINE_S, "the source to send anything"),
    DestinationState.STOP_COPY: (limits.SILENCE_DEADLINE_S, "the source to send anything"),
    DestinationState.LOADING: (limits.LOADED_DEADLINE_S, "devices to load and state to be made last"),
    DestinationState.LOADED: (limits.COMMIT_DEADLINE_S, "the source's COMMIT"),
}
_CAN_ABORT = frozenset(_WAITS)
_HEARD = DESTINATION_MESSAGES[m.DeviceHeard]
_FINAL = frozenset(
    {DestinationState.STARTED, DestinationState.REFUSED, DestinationState.PREFLIGHTED, DestinationState.ABORTED}
)


@dataclass(slots=True)
class DestinationSession:
    """One session, seen from the destination."""

    plan: DestinationPlan
    state: DestinationState = DestinationState.HELLO
    hello: m.Hello | None = None
    features: tuple[str, ...] = ()
    channels: int = 0
    version: int = 0
    """Of the protocol, as chosen at HELLO."""
    readiness: ReadyTracker = field(default_factory=lambda: ReadyTracker(()))
    participants: frozenset[int] = frozenset()
    mismatches: int = 0
    corrupt: int = 0
    visited: list[DestinationState] = field(default_factory=lambda: [DestinationState.HELLO])
    _actions: deque[a.DestinationAction] = field(default_factory=deque)
    _inventory: handshake.InventoryBuilder = field(default_factory=handshake.InventoryBuilder)
    _barrier: DestinationBarrier | None = None
    _attached: set[int] = field(default_factory=set)
    _settled: list[int] = field(default_factory=list)
    _reported: tuple[int, ...] = ()
    _report_at: float | None = None
    _loads: dict[int, _Load] = field(default_factory=dict)
    _resends: int = 0
    _messages: MessageCounts = field(default_factory=lambda: MessageCounts((), 0))
    _end: m.End | None = None
    _preparing: bool = False
    _deadline: tuple[float, str, float] | None = None

    # -- getters

    @property
    def session(self) -> bytes:
        """The session's id, once HELLO is there."""
        return self.hello.session if self.hello else b""

    @property
    def wake_at(self) -> float | None:
        """When `handle_timer` is to be called next, at the latest."""
        times = [self._deadline[0]] if self._deadline else []
        if self._report_at is not None:
            times.append(self._report_at)
        return min(times, default=None)

    @property
    def awaits_counts(self) -> bool:
        """Whether the source waits for slots to be settled: a SYNC is open, or END is there."""
        return self._end is not None or (self._barrier is not None and self._barrier.open)

    @property
    def final(self) -> bool:
        """Nothing can change any more."""
        return self.state in _FINAL

    # -- inputs: set-up

    def handle_message(self, message: m.Message, now: float) -> None:
        """A message from the source. Raises `RemoteProtocolError`."""
        check_destination_message(self.state, message)
        self._touch(now)
        self._HANDLERS[type(message)](self, message, now)

    def handle_decision(self, refusals: Sequence[m.Refusal], devices: Sequence[m.DeviceVerdict], now: float) -> None:
        """Whether the offer can be taken. Answers VERDICT."""
        if self.state is not DestinationState.INVENTORY:
            return
        assert self.hello is not None
        self.channels = min(self.hello.channels, self.plan.channels_max)
        self._send(m.Verdict(not refusals, self.channels, handshake.fit_refusals(refusals), tuple(devices)))
        if refusals:
            self._finish(DestinationState.REFUSED, RefusedError(tuple(refusals)), now)
        elif self._inventory.preflight:
            self._finish(DestinationState.PREFLIGHTED, None, now)
        else:
            self.participants = frozenset(n for n, each in enumerate(devices, start=1) if each.takes_part)
            self.readiness = ReadyTracker(self.participants)
            self._loads = {number: _Load() for number in range(1, len(devices) + 1)}
            self._messages = MessageCounts(self.features, len(devices))
            self._settled = [0] * self.channels
            self._barrier = DestinationBarrier(self.channels, None)
            self._move(DestinationState.ATTACH, now)

    def may_attach(self, channel: int) -> bool:
        """Whether a data channel of this number is awaited."""
        return self.state is DestinationState.ATTACH and 1 <= channel <= self.channels and channel not in self._attached

    def handle_attached(self, channel: int, now: float) -> None:
        """A data channel is there. The last one opens the gates."""
        assert self.may_attach(channel)
        self._attached.add(channel)
        if len(self._attached) == self.channels:
            self._move(DestinationState.PRECOPY, now)
            self._send(m.Attached(self.channels))

    # -- inputs: state

    def handle_mismatch(self, channel: int, sequence: int, *, live: bool, now: float) -> None:
        """A slot did not match its checksum."""
        if self.final:
            return
        self._resends += 1
        self._send(m.Resend(channel, sequence))
        if live and self.state is DestinationState.PRECOPY:
            self.mismatches += 1
            return
        self.corrupt += 1
        if self.corrupt > limits.CORRUPT_RESENDS_MAX:
            self.handle_failure(CorruptError(f"{self.corrupt} slots were corrupted on their way"), now)

    def handle_settled(self, counts: Sequence[int], now: float) -> None:
        """So many slots of each channel are settled. Mismatches among them must have been handed in before."""
        if self.final or list(counts) == self._settled:
            return
        self._settled = list(counts)
        self._touch(now)
        if self._report_at is None:
            self._report_at = now + limits.SETTLED_DELAY_S
        self._answer_syncs()
        self._check_loaded(now)

    def handle_device_status(
        self, status: m.DeviceStatus, *, chunks: int, complete: bool, credit: int, now: float
    ) -> None:
        """A device's worker got on: `chunks` loaded in all; `complete` when LAST of stop-copy is; `credit` granted in
        all.
        """
        if self.final:
            return
        self._touch(now)
        self._loads[status.device] = _Load(chunks, complete)
        self._send(m.Credit(status.device, credit))
        self._send(status)
        if status.device in self.participants:
            self.readiness.handle_epoch(status.device, status.epoch)
            if status.ready:
                self.readiness.handle_device_ready(status.device, status.epoch)
        ready = self.readiness.poll_ready()
        if ready is not None:
            self._send(m.SwitchoverReady(ready))
        self._check_loaded(now)

    def handle_said(self, device: int, data: bytes) -> None:
        """A device says something to its counterpart. Raises `LocalProtocolError` without the feature, or if too much
        of it is unheard. From COMMIT on nobody listens.
        """
        self._messages.say(device)
        if self.state in _HEARD:
            self._send(m.DeviceMessage(device, data))

    def handle_prepared(self, parts: Mapping[str, float], now: float) -> None:
        """The owner's state is safe: LOADED."""
        if self.state is DestinationState.LOADING:
            self._move(DestinationState.LOADED, now)
            self._send(m.Loaded(parts))

    def handle_owner_started(self, parts: Mapping[str, float], now: float) -> None:
        """The owner runs here."""
        check_destination_move(self.state, DestinationState.STARTED)
        self._send(m.Started(parts))
        self._finish(DestinationState.STARTED, None, now)

    # -- inputs: trouble

    def handle_failure(self, error: MultifdError, now: float) -> None:
        """Anything failed on this side, or the source did wrong, or main is gone: the source is told, if it can be.

        After COMMIT it changes nothing: the owner is being started, and only that may fail.
        """
        if self.state in _CAN_ABORT:
            self._abort(error, now)

    def handle_start_failed(self, error: MultifdError, now: float) -> None:
        """After COMMIT: the owner could not be started, and does not run here."""
        if self.state is DestinationState.STARTING:
            self._abort(error, now)

    def handle_outcome_asked(self, now: float) -> None:
        """The source asks on another connection what became of its COMMIT: if it never came, it never will."""
        self.handle_failure(PeerError(Code.TRANSPORT, "the source asked for the outcome before COMMIT arrived"), now)

    def handle_timer(self, now: float) -> None:
        """The clock reached `wake_at`."""
        if self._report_at is not None and now >= self._report_at:
            self._report()
        if self._deadline and now >= self._deadline[0]:
            _, what, seconds = self._deadline
            self._deadline = None
            self.handle_failure(DeadlineError(what, seconds), now)

    # -- outputs

    def poll_action(self) -> a.DestinationAction | None:
        """What to do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    # -- messages

    def _on_hello(self, hello: m.Hello, now: float) -> None:
        self.hello = hello
        try:
            self.version = handshake.choose_version(self.plan.versions, hello.versions)
            handshake.check_features(hello.features, self.plan.features)
        except RefusedError as error:
            self._send(m.Aborted(error.refusals[0].code, handshake.fit_text(str(error))))
            self._finish(DestinationState.REFUSED, error, now)
            return
        self.features = hello.features
        plan = self.plan
        self._send(m.Hello(plan.versions, hello.session, plan.secret, plan.features, plan.channels_max, plan.software))
        self._move(DestinationState.INVENTORY, now)

    def _on_inventory(self, page: m.Inventory, now: float) -> None:
        if self._inventory.handle_page(page):
            self._deadline = (
                now + limits.VERDICT_DEADLINE_S,
                "the decision on what is offered",
                limits.VERDICT_DEADLINE_S,
            )
            blocks, devices, kinds = self._inventory.hand_over()
            self._actions.append(a.Decide(blocks, devices, kinds, self._inventory.preflight))

    def _on_sync(self, sync: m.Sync, _now: float) -> None:
        assert self._barrier is not None
        self._barrier.handle_sync(sync)
        self._answer_syncs()

    def _on_stop_copy(self, stop_copy: m.StopCopy, now: float) -> None:
        if set(stop_copy.epochs) != set(self.participants):
            raise RemoteProtocolError("STOP_COPY.epochs", f"the devices {sorted(self.participants)}")
        self._move(DestinationState.STOP_COPY, now)

    def _on_end(self, end: m.End, now: float) -> None:
        if len(end.counts) != self.channels:
            raise RemoteProtocolError("END.counts", f"{self.channels} counts", len(end.counts))
        if set(end.chunks) != set(self._loads):
            raise RemoteProtocolError("END.chunks", f"the devices {sorted(self._loads)}", sorted(end.chunks))
        if end.resends > self._resends:
            raise RemoteProtocolError("END.resends", f"at most {self._resends}", end.resends)
        if self._preparing:
            raise RemoteProtocolError("END", "nothing after the one whose counts were met", end.counts)
        if self._end is not None and any(new < old for new, old in zip(end.counts, self._end.counts, strict=True)):
            raise RemoteProtocolError("END.counts", f"nothing below {self._end.counts}", end.counts)
        self._end = end
        if self.state is DestinationState.STOP_COPY:
            self._move(DestinationState.LOADING, now)
        self._check_loaded(now)

    def _on_heard(self, heard: m.DeviceHeard, _now: float) -> None:
        self._messages.handle_heard(heard.device, heard.count)
        self._actions.append(a.Heard(heard.device, heard.count))

    def _on_commit(self, _commit: m.Commit, now: float) -> None:
        self._move(DestinationState.STARTING, now)
        self._actions.append(a.StartOwner())

    def _on_cancel(self, cancel: m.Cancel, now: float) -> None:
        self._finish(DestinationState.ABORTED, PeerError(cancel.code, cancel.cause), now)

    _HANDLERS: ClassVar[dict[type, Callable[[Any, Any, float], None]]] = {
        m.Hello: _on_hello,
        m.Inventory: _on_inventory,
        m.Sync: _on_sync,
        m.StopCopy: _on_stop_copy,
        m.End: _on_end,
        m.DeviceHeard: _on_heard,
        m.Commit: _on_commit,
        m.Cancel: _on_cancel,
    }

    # -- inside

    def _check_loaded(self, now: float) -> None:
        """Whether every count is met: then the owner may prepare, and no further slot may come."""
        end = self._end
        if end is None or end.resends < self._resends:
            return  # it was written before the source saw the last RESEND: another END follows
        if any(have > said for have, said in zip(self._settled, end.counts, strict=True)):
            self.handle_failure(RemoteProtocolError("END.counts", f"at least {self._settled}", end.counts), now)
            return
        if self._preparing or tuple(self._settled) != end.counts:
            return
        if all(load.complete and load.chunks == end.chunks[number] for number, load in self._loads.items()):
            self._preparing = True
            self._report()
            self._actions.append(a.Prepare())

    def _answer_syncs(self) -> None:
        assert self._barrier is not None
        done = self._barrier.poll_done(self._settled)
        if done:
            self._report()
            for each in done:
                self._send(each)

    def _report(self) -> None:
        self._report_at = None
        counts = tuple(self._settled)
        if counts != self._reported:
            self._reported = counts
            self._send(m.Settled(counts))

    def _abort(self, error: MultifdError, now: float) -> None:
        self._send(m.Aborted(error.code, handshake.fit_text(str(error))))
        self._finish(DestinationState.ABORTED, error, now)

    def _finish(self, state: DestinationState, error: MultifdError | None, now: float) -> None:
        self._move(state, now)
        self._report_at = None
        self._inventory = handshake.InventoryBuilder()  # pages that a stranger left behind
        self._actions.append(a.Finished(error))

    def _move(self, state: DestinationState, now: float) -> None:
        check_destination_move(self.state, state)
        self.state = state
        self.visited.append(state)
        seconds, what = _WAITS.get(state, (0.0, ""))
        self._deadline = (now + seconds, what, seconds) if what else None

    def _touch(self, now: float) -> None:
        """Something came: silence begins anew."""
        if self.state in (DestinationState.PRECOPY, DestinationState.STOP_COPY) and self._deadline:
            _, what, seconds = self._deadline
            self._deadline = (now + seconds, what, seconds)

    def _send(self, message: m.Message) -> None:
        self._actions.append(a.Send(message))
