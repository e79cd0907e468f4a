"""The source's machine (proto/states.md section 1), sans-IO.

Four kinds of methods: getters; commands (`start`, `cancel`, ...); `handle_*` for what the network, the engine or the
clock report; and `poll_action` for what the engine is to do next. Legality of messages and transitions is looked up in
`states`; the pieces with a rule of their own are `switchover`, `sync` and `convergence`. The engine calls everything on
its loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from multifd import limits
from multifd import messages as m
from multifd.errors import (
    CalledOffError,
    Code,
    ConvergenceError,
    CorruptError,
    DeadlineError,
    InDoubtError,
    LocalProtocolError,
    MultifdError,
    PeerError,
    RearmError,
    RefusedError,
    RemoteProtocolError,
)
from multifd.session import actions as a
from multifd.session import handshake, states
from multifd.session.convergence import Decision, Situation, decide
from multifd.session.device_messages import MessageCounts
from multifd.session.plans import SourcePlan
from multifd.session.rounds import Rounds
from multifd.session.stall import StallWatch
from multifd.session.states import SourceState
from multifd.session.switchover import ReadyGate

_WAITS = states.SOURCE_WAITS
_REFUSALS = frozenset({Code.VERSION, Code.FEATURE, Code.REFUSED, Code.BUSY})


@dataclass(slots=True)
class SourceSession:
    """One session, seen from the source."""

    plan: SourcePlan
    state: SourceState = SourceState.HELLO
    verdict: m.Verdict | None = None
    secret: bytes = b""
    version: int = 0
    """Of the protocol, as chosen at HELLO."""
    gate: ReadyGate = field(init=False)
    statuses: dict[int, m.DeviceStatus] = field(default_factory=dict)
    decision: Decision | None = None
    returns: int = 0
    corrupt: int = 0
    resends: int = 0
    loaded: m.Loaded | None = None
    started: m.Started | None = None
    began: float = 0.0
    """When precopy began."""
    able: tuple[str, ...] = ()
    """Features that the destination is able to use."""
    visited: list[SourceState] = field(default_factory=lambda: [SourceState.HELLO])
    _actions: deque[a.SourceAction] = field(default_factory=deque)
    _rounds: Rounds = field(init=False)
    _stall: StallWatch = field(default_factory=StallWatch)
    _messages: MessageCounts = field(init=False)
    _deadline: tuple[float, str, float] | None = None
    _survey_at: float | None = None
    _surveying: bool = False
    _forced: bool = False
    _forced_back: bool = False
    """It had switched over by force, and came back since a device re-armed."""
    _owner_stopped: bool = False

    def __post_init__(self) -> None:
        self.gate = ReadyGate(range(1, len(self.plan.devices) + 1), ())
        self._rounds = Rounds(self.plan.classes)
        self._messages = MessageCounts(self.plan.features, len(self.plan.devices))

    # -- getters

    @property
    def wake_at(self) -> float | None:
        """When `handle_timer` is to be called next, at the latest."""
        times = [self._deadline[0]] if self._deadline else []
        if self._survey_at is not None and not self._surveying:
            times.append(self._survey_at)
        if self.state in states.SOURCE_FLOWING and self._stall.due_at is not None:
            times.append(self._stall.due_at)
        return min(times, default=None)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What stands in the way, in words."""
        if self.state is SourceState.PRECOPY and self.decision is not None:
            return self.decision.waiting_for
        return (self._deadline[1],) if self._deadline and self.state is not SourceState.PRECOPY else ()

    @property
    def round(self) -> int:
        """Rounds begun by the class that has begun most."""
        return self._rounds.begun

    # -- commands

    def start(self, now: float) -> None:
        """Send HELLO."""
        plan = self.plan
        self._send(
            m.Hello(plan.versions, plan.session, bytes(16), plan.features, plan.channels, plan.software),
        )
        self._set_deadline(now)

    def cancel(self, cause: str, now: float) -> bool:
        """Call it off; False if it is too late for that (COMMIT is sent, or it has ended)."""
        if self.state not in states.SOURCE_CAN_GO_ON:
            return False
        self._call_off(SourceState.CANCELLED, CalledOffError(cause), now)
        return True

    def ask_again(self, now: float) -> None:
        """In doubt: ask OUTCOME once more. Raises `LocalProtocolError` in any other state."""
        self._check_in_doubt("ask_again")
        self._move(SourceState.ASKING, now)
        self._actions.append(a.AskForOutcome())

    def resolve(self, *, started: bool, now: float) -> None:
        """In doubt: the operator's word on whether the destination runs. Raises `LocalProtocolError` in any other
        state.
        """
        self._check_in_doubt("resolve")
        if started:
            self._complete(now)
        else:
            self._resume_and_fail(InDoubtError("the operator says that the destination does not run"), now)

    # -- inputs

    def handle_message(self, message: m.Message, now: float) -> None:
        """A message from the return path. Raises `RemoteProtocolError`."""
        states.check_source_message(self.state, message)
        self._HANDLERS[type(message)](self, message, now)

    def handle_round_sent(self, class_name: str, counts: tuple[int, ...], sent_bytes: int) -> None:
        """The last slot of a class's round is in a channel; `counts` are all slots sent on each channel so far."""
        if self.state in (SourceState.PRECOPY, SourceState.STOP_COPY):
            self._send(self._rounds.sent(class_name, counts, sent_bytes))

    def handle_sent(self, slots: int, now: float) -> None:
        """So many slots were sent over all channels since the start."""
        self._stall.handle_sent(slots, now)

    def handle_survey(self, situation: Situation, now: float) -> None:
        """What is dirty and pending now: switch over, begin rounds, or look again later."""
        self._surveying = False
        if self.state is not SourceState.PRECOPY:
            return
        decision = decide(situation, force=self._forced)
        waiting = decision.waiting_for
        if decision.switch and not self.gate.open:
            waiting += ("SWITCHOVER_READY",)
        if decision.switch:
            waiting += tuple(f"{name}: a round is under way" for name in self._rounds.running)
        self.decision = Decision(not waiting, decision.expected_downtime_s, waiting)
        if self.decision.switch:
            self._switch_over(now)
            return
        if self._forced and not decision.switch and not self._forced_back:
            self._give_up(now)
            return
        if decision.switch:  # begin nothing new: what is under way ends, and that calls for the next look
            self._survey_at = now + limits.SURVEY_BUSY_PAUSE_S
            return
        pending = {feed.name: feed.pending_bytes for feed in situation.feeds}
        self._next_rounds(pending, fits=self._fits(situation), now=now)
        busy = len(self._rounds.running) == len(self._rounds.names) > 0
        self._survey_at = now + (limits.SURVEY_BUSY_PAUSE_S if busy else limits.SURVEY_PAUSE_S)

    def handle_rearm(self, device: int, now: float) -> None:
        """A device has new initial data."""
        if self.state is SourceState.PRECOPY:
            self._actions.append(a.SaveInitial(device, self.gate.rearm(device)))
            self._survey_at = now
        elif self.state in (SourceState.STOP_COPY, SourceState.LOADING):
            name = self.plan.devices[device - 1].name
            self.handle_failure(RearmError(f"device {name} re-armed after stop-copy had begun"), now)

    def handle_owner_stopped(self, rearmed: Sequence[int], now: float) -> None:
        """The owner is stopped; `rearmed` are the devices that have new initial data all the same."""
        if self.state is not SourceState.SWITCHING:
            return
        if not rearmed:
            self._move(SourceState.STOP_COPY, now)
            self._send(m.StopCopy(self.gate.current()))
            self._actions.append(a.SaveStopCopy())
            for name in self._rounds.names:
                self._begin_round(name, live=False, now=now)
            return
        names = ", ".join(self.plan.devices[device - 1].name for device in rearmed)
        if not self.plan.return_on_rearm or self.returns >= limits.SWITCHOVER_RETURNS_MAX:
            why = f"after {self.returns} returns" if self.plan.return_on_rearm else "and the policy is to fail"
            self.handle_failure(RearmError(f"device {names} re-armed after the decision to switch over, {why}"), now)
            return
        self.returns += 1
        self._forced_back = self._forced
        self._owner_stopped = False
        self._actions.append(a.StartOwner())
        self._move(SourceState.PRECOPY, now)
        for device in rearmed:
            self._actions.append(a.SaveInitial(device, self.gate.rearm(device)))
        self._survey_at = now

    def handle_all_sent(self, counts: tuple[int, ...], chunks: Mapping[int, int], now: float) -> None:
        """All of stop-copy, and all that had to be sent again, is in the channels."""
        if self.state is SourceState.STOP_COPY:
            self._move(SourceState.LOADING, now)
        if self.state is SourceState.LOADING:
            self._send(m.End(counts, dict(chunks), self.resends))

    def handle_released(self, now: float) -> None:
        """The owner has given up the right to run: COMMIT."""
        if self.state is SourceState.RELEASING:
            self._commit(now)

    def handle_heard(self, device: int) -> None:
        """A device has dealt with the next message of its counterpart."""
        count = self._messages.hear(device)
        if self.state in states.SOURCE_CAN_GO_ON:
            self._send(m.DeviceHeard(device, count))

    def handle_corrupt(self, class_name: str, now: float) -> bool:
        """A slot that nobody could have been writing did not match: it is to be sent again. False if that was once too
        often: the session has failed.
        """
        self.corrupt += 1
        if self.corrupt <= limits.CORRUPT_RESENDS_MAX:
            self._rounds.handle_again(class_name)
            return True
        self.handle_failure(CorruptError(f"{self.corrupt} slots were corrupted on their way"), now)
        return False

    def handle_failure(self, error: MultifdError, now: float) -> None:
        """Anything failed on this side, a connection among them. After COMMIT it only means that we have to ask."""
        if self.state in states.SOURCE_CAN_GO_ON:
            self._call_off(SourceState.FAILED, error, now)
        elif self.state is SourceState.COMMITTED:
            self._move(SourceState.ASKING, now)
            self._actions.append(a.AskForOutcome())

    def handle_outcome(self, answer: m.OutcomeIs, now: float) -> None:
        """The destination's answer to OUTCOME."""
        if self.state is not SourceState.ASKING:
            return
        if answer.outcome is m.Fate.STARTED:
            self._complete(now)
        elif answer.outcome is m.Fate.ABORTED:
            self._resume_and_fail(PeerError(Code.INTERNAL, answer.cause), now)
        else:
            self.handle_no_answer("the destination does not know the session: " + answer.cause, now)

    def handle_no_answer(self, cause: str, now: float) -> None:
        """Nobody could say what became of COMMIT."""
        if self.state is SourceState.ASKING:
            self._move(SourceState.IN_DOUBT, now)
            self._actions.append(a.Finished(InDoubtError(f"in doubt whether the destination runs: {cause}")))

    def handle_timer(self, now: float) -> None:
        """The clock reached `wake_at`."""
        stall_at = self._stall.due_at
        if self.state in states.SOURCE_FLOWING and stall_at is not None and now >= stall_at:
            waited_for = f"the destination to settle {self._stall.behind} slots"
            self.handle_failure(DeadlineError(waited_for, now - self._stall.moved_at), now)
            return
        if self._deadline and now >= self._deadline[0]:
            self._deadline_passed(now)
        if self._survey_at is not None and now >= self._survey_at and not self._surveying:
            self._survey_at = None
            self._surveying = True
            self._actions.append(a.Survey())

    # -- outputs

    def poll_action(self) -> a.SourceAction | None:
        """What to do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    # -- messages

    def _on_hello(self, hello: m.Hello, now: float) -> None:
        try:
            self.version = handshake.choose_version(self.plan.versions, hello.versions)
            handshake.check_features(self.plan.features, hello.features)
        except RefusedError as error:
            self._call_off(SourceState.REFUSED, error, now)
            return
        if hello.session != self.plan.session:
            raise RemoteProtocolError("HELLO.session", "the session id of the source's HELLO")
        self.secret = hello.secret
        self.able = hello.features
        self._move(SourceState.INVENTORY, now)
        plan = self.plan
        for page in handshake.paginate(plan.blocks, plan.devices, plan.kinds, preflight=plan.preflight):
            self._send(page)

    def _on_verdict(self, verdict: m.Verdict, now: float) -> None:
        self.verdict = verdict
        if verdict.refusals or not verdict.accepted:
            self._finish(SourceState.REFUSED, RefusedError(verdict.refusals), now)
            return
        if len(verdict.devices) != len(self.plan.devices):
            raise RemoteProtocolError("VERDICT.devices", f"{len(self.plan.devices)} of them", len(verdict.devices))
        if self.plan.preflight:
            self._finish(SourceState.PREFLIGHTED, None, now)
            return
        if not 1 <= verdict.channels <= self.plan.channels:
            raise RemoteProtocolError("VERDICT.channels", f"1..{self.plan.channels}", verdict.channels)
        numbers = range(1, len(self.plan.devices) + 1)
        taking_part = [number for number in numbers if verdict.devices[number - 1].takes_part]
        self.gate = ReadyGate(numbers, taking_part)
        self._move(SourceState.ATTACH, now)
        self._actions.append(a.OpenChannels(verdict.channels, self.plan.session, self.secret))

    def _on_attached(self, _attached: m.Attached, now: float) -> None:
        assert self.verdict is not None
        self.began = now
        self._move(SourceState.PRECOPY, now)
        for number, verdict in enumerate(self.verdict.devices, start=1):
            self._actions.append(a.GrantCredit(number, verdict.credit))
            self._actions.append(a.SaveInitial(number, self.gate.epochs[number]))
        for name in self._rounds.names:
            self._begin_round(name, live=True, now=now)
        self._survey_at = now + limits.SURVEY_PAUSE_S

    def _on_settled(self, settled: m.Settled, now: float) -> None:
        self._stall.handle_settled(sum(settled.counts), now)

    def _on_resend(self, resend: m.Resend, _now: float) -> None:
        if self.state in (SourceState.RELEASING, SourceState.COMMITTED):
            return  # LOADED said that nothing was left to be sent again
        self.resends += 1
        self._actions.append(a.ResendSlot(resend.channel, resend.sequence))

    def _on_credit(self, credit: m.Credit, _now: float) -> None:
        if not 1 <= credit.device <= len(self.plan.devices):
            raise RemoteProtocolError("CREDIT.device", f"1..{len(self.plan.devices)}", credit.device)
        self._actions.append(a.GrantCredit(credit.device, credit.bytes))

    def _on_device_status(self, status: m.DeviceStatus, _now: float) -> None:
        if not 1 <= status.device <= len(self.plan.devices):
            raise RemoteProtocolError("DEVICE_STATUS.device", f"1..{len(self.plan.devices)}", status.device)
        self.statuses[status.device] = status

    def _on_sync_done(self, done: m.SyncDone, now: float) -> None:
        self._rounds.handle_done(done)
        if self.state is not SourceState.PRECOPY:
            return
        self._survey_at = now
        if self._rounds.take_repeat(done.class_name):
            self._begin_round(done.class_name, live=True, sweep=False, now=now)

    def _on_ready(self, ready: m.SwitchoverReady, now: float) -> None:
        if self.gate.handle_ready(ready.epochs) and self.state is SourceState.PRECOPY:
            self._survey_at = now

    def _on_loaded(self, loaded: m.Loaded, now: float) -> None:
        self.loaded = loaded
        if self.plan.releases:
            self._move(SourceState.RELEASING, now)
            self._actions.append(a.Release())
        else:
            self._commit(now)

    def _on_device_message(self, message: m.DeviceMessage, _now: float) -> None:
        self._messages.take(message.device)
        self._actions.append(a.Deliver(message.device, message.data))

    def _on_started(self, started: m.Started, now: float) -> None:
        self.started = started
        self._complete(now)

    def _on_aborted(self, aborted: m.Aborted, now: float) -> None:
        error = PeerError(aborted.code, aborted.cause)
        if self.state in (SourceState.HELLO, SourceState.INVENTORY) and aborted.code in _REFUSALS:
            refusal = m.Refusal(m.What.SESSION, "destination", aborted.code, aborted.cause)
            self._finish(SourceState.REFUSED, RefusedError((refusal,), aborted.cause), now)
        else:
            self._resume_and_fail(error, now)

    _HANDLERS: ClassVar[dict[type, Callable[[Any, Any, float], None]]] = {
        m.Hello: _on_hello,
        m.Verdict: _on_verdict,
        m.Attached: _on_attached,
        m.Settled: _on_settled,
        m.Resend: _on_resend,
        m.Credit: _on_credit,
        m.DeviceStatus: _on_device_status,
        m.SyncDone: _on_sync_done,
        m.SwitchoverReady: _on_ready,
        m.Loaded: _on_loaded,
        m.DeviceMessage: _on_device_message,
        m.Started: _on_started,
        m.Aborted: _on_aborted,
        m.OutcomeIs: handle_outcome,
    }

    # -- inside

    def _check_in_doubt(self, command: str) -> None:
        if self.state is not SourceState.IN_DOUBT:
            raise LocalProtocolError(command, "a session that is in doubt", self.state.value)

    def _next_rounds(self, pending: Mapping[str, int], *, fits: bool, now: float) -> None:
        if self.plan.auto_converge:
            level = self._rounds.throttle_level(pending)
            if level is not None:
                self._actions.append(a.Throttle(level))
        for name in self._rounds.due(pending, fits=fits, now=now):
            self._begin_round(name, live=True, now=now)

    def _fits(self, situation: Situation) -> bool:
        expected = self.decision.expected_downtime_s if self.decision else None
        return expected is not None and expected <= situation.downtime_limit_s

    def _begin_round(self, name: str, *, live: bool, now: float, sweep: bool = True) -> None:
        self._rounds.begin(name, now)
        self._actions.append(a.BeginRound(name, live, sweep))

    def _switch_over(self, now: float) -> None:
        self._survey_at = None
        self._owner_stopped = True
        self._move(SourceState.SWITCHING, now)
        self._actions.append(a.StopOwner())

    def _deadline_passed(self, now: float) -> None:
        assert self._deadline is not None
        _, waited_for, seconds = self._deadline
        if self.state is not SourceState.PRECOPY:
            self._deadline = None
            self.handle_failure(DeadlineError(waited_for, seconds), now)
        elif self.plan.switch_at_deadline and not self._forced:
            self._forced = True
            self._deadline = (now + limits.STALL_DEADLINE_S, waited_for, seconds + limits.STALL_DEADLINE_S)
            self._survey_at = now
        else:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        waiting = "; ".join(self.waiting_for) or "the first look at what is dirty"
        cause = f"no switchover after {now - self.began:.3g} s, waiting for {waiting}"
        self.handle_failure(ConvergenceError(cause), now)

    def _call_off(self, state: SourceState, error: MultifdError, now: float) -> None:
        """Before COMMIT: tell the destination, and go on here."""
        self._send(m.Cancel(error.code, handshake.fit_text(str(error))))
        if self._owner_stopped:
            self._actions.append(a.StartOwner())
        self._finish(state, error, now)

    def _resume_and_fail(self, error: MultifdError, now: float) -> None:
        """The destination says that it does not run: go on here."""
        if self._owner_stopped:
            self._actions.append(a.StartOwner())
        self._finish(SourceState.FAILED, error, now)

    def _commit(self, now: float) -> None:
        self._move(SourceState.COMMITTED, now)
        self._send(m.Commit())

    def _complete(self, now: float) -> None:
        self._finish(SourceState.COMPLETED, None, now)

    def _finish(self, state: SourceState, error: MultifdError | None, now: float) -> None:
        self._move(state, now)
        self._survey_at = None
        self._actions.append(a.Finished(error))

    def _move(self, state: SourceState, now: float) -> None:
        states.check_source_move(self.state, state)
        self.state = state
        self.visited.append(state)
        self._set_deadline(now)

    def _set_deadline(self, now: float) -> None:
        if self.state is SourceState.PRECOPY:
            # forced already: it is back because a device re-armed, which has to get the time to be ready once more
            seconds = now - self.began + limits.STALL_DEADLINE_S if self._forced else self.plan.deadline_s
            self._deadline = (self.began + seconds, "convergence", seconds)
            return
        seconds, what = _WAITS.get(self.state, (0.0, ""))
        self._deadline = (now + seconds, what, seconds) if what else None

    def _send(self, message: m.Message) -> None:
        self._actions.append(a.Send(message))
