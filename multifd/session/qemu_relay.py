"""The machine of a relay between two stock QEMUs, sans-IO: who has been told what, and so where the guest may run.

The *near* end is the source, the *far* end the destination. Bytes pass by; the engine says what they were. The relay
holds one thing back: the end of the near end's stream, until everything before it has been passed on. So there is one
moment at which the far end can begin to have the machine (`Release`), and until then any failure leaves the guest to
the source. After it the far end alone decides; its SHUT is passed on as it is.

With `continues` the far end was started with -S and runs its guest only when the relay says so: after SHUT 0 was passed
on and the source has closed main. A source that is called off in that very moment closes main as well, SHUT 0 in hand:
with `asks` its own word, from its monitor, is waited for.

While the guest runs nobody is hurried. Main at a mark, and a guest that stands still, are waited for only as long as
something moves. After `Release` giving up could make two guests of one, unless the far end waits for this relay.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase, SyncDialect
from multifd.errors import (
    CalledOffError,
    Code,
    InDoubtError,
    LocalProtocolError,
    MultifdError,
    PeerError,
    RemoteProtocolError,
    TransportError,
)
from multifd.session.qemu_admission import NO_RETURN_PATH
from multifd.session.qemu_channels import ChannelRoll
from multifd.session.qemu_states import RELAY_TRANSITIONS, RelayState, check_relay_move
from multifd.session.qemu_waits import Waits

_R = RelayState
_FINAL = frozenset(state for state, after in RELAY_TRANSITIONS.items() if not after)
_SAFE = frozenset({_R.GATHERING, _R.CONNECTING, _R.LIVE, _R.STOPPED})
"""The far end can't have the machine: it lacks the end of its stream."""


# -- what the engine is asked to do ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectFar:
    """Connect main to the far end and write what came of main so far; then the channels, each with its handshake at
    once; then call `handle_far_connected`.
    """


@dataclass(frozen=True, slots=True)
class StartChannels:
    """Pass packets on, which have this page size."""

    page_size: int


@dataclass(frozen=True, slots=True)
class Release:
    """Pass on the end of main that was held back."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Write this message on the near end's return path."""

    message: e.ReturnMessage


@dataclass(frozen=True, slots=True)
class AskSource:
    """Ask the source's QEMU how its migration ended; then call `handle_source_status`."""


@dataclass(frozen=True, slots=True)
class ContinueFar:
    """Tell the far end's QEMU to let its guest run; then call `handle_continued`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The machine is in a final state; `error` is None if it ended well. Close the far end first."""

    error: MultifdError | None


RelayAction = ConnectFar | StartChannels | Release | Reply | AskSource | ContinueFar | Finished


class QemuRelaySession:
    """One migration from one QEMU to another."""

    def __init__(self, channels: int, *, continues: bool = False, asks: bool = False) -> None:
        """Raises `LocalProtocolError` for a number of channels that can't be."""
        if not 1 <= channels <= limits.QEMU_CHANNELS_MAX:
            raise LocalProtocolError("channels", f"1 to {limits.QEMU_CHANNELS_MAX}", channels)
        self.state = _R.GATHERING
        self.roll = ChannelRoll(channels, None)
        self.continues = continues
        self.asks = asks
        self.configuration: e.Configuration | None = None
        self.blocks: tuple[e.RamBlock, ...] = ()
        self.sync: SyncDialect | None = None
        self.marks = 0
        """Sync points on main so far."""
        self.run_state = "running"
        """What the guest was doing when it was stopped, as its own state says."""
        self.return_path = self.switchover_start = self.description = False
        self.shut: int | None = None
        """What the far end said."""
        self.acks = 0
        self.notes: list[str] = []
        """What a person should know of this run, sentences."""
        self._main = self._ram_ended = self._whole = False
        self._passed: list[int] = [0] * channels
        self._waits = Waits()
        self._actions: deque[RelayAction] = deque()

    # -- getters

    @property
    def wake_at(self) -> float | None:
        """When `handle_timer` is to be called next, at the latest."""
        return self._waits.wake_at

    @property
    def final(self) -> bool:
        """Nothing can change any more."""
        return self.state in _FINAL

    @property
    def main_blocked(self) -> bool:
        """Main is at a mark whose SYNCs have not all been passed on: the far end is not to meet it before."""
        return min(self._passed) < self.marks and not self.final

    @property
    def guest(self) -> str:
        """Where the guest is, as far as this relay knows."""
        if self.state in (_R.RELEASED, _R.IN_DOUBT):
            return "in doubt"
        if self.state is _R.COMPLETED:
            return "at the far end"
        if self.state in (_R.COMMITTED, _R.CONTINUING):
            return "given up by the source" if self.state is _R.CONTINUING else "on its way to the far end"
        return "at the source, stopped" if self.state is _R.STOPPED else "at the source"

    # -- inputs: the near end

    def handle_main(self, now: float) -> None:
        """The source's main connection is there. Raises `RemoteProtocolError` if it was before."""
        if self._main or self.final:
            raise RemoteProtocolError("a main connection", "one at a time, and a migration is under way here")
        self._main = True
        self._gathered(now)

    def handle_channel(self, handshake: e.Handshake, now: float) -> None:
        """A channel is there. Raises `RemoteProtocolError` if it can't be one of this migration."""
        if self.state is not _R.GATHERING:
            raise RemoteProtocolError("a channel", f"no more than {self.roll.count}", handshake.channel)
        self.roll.handle_handshake(handshake)
        self._gathered(now)

    def handle_element(self, element: e.StreamElement, now: float) -> None:
        """An element of main, well formed and in its place. What can't be relayed fails the machine."""
        match element:
            case e.Configuration():
                self.configuration = element
                self._actions.append(StartChannels(element.page_size))
            case e.Command(number=CommandNumber.OPEN_RETURN_PATH):
                self.return_path = True
            case e.Command(number=CommandNumber.SWITCHOVER_START):
                self.switchover_start = True
                self._await_rest(now)
            case e.RamBegins(phase=Phase.START) if not self.return_path:
                self.handle_failure(TransportError(NO_RETURN_PATH), now)
            case e.RamBegins(phase=Phase.END):
                self._on_stopped(now)
            case e.BlockList():
                self.blocks = element.blocks
            case e.SyncMark():
                self.sync = SyncDialect.PER_ROUND
                self._on_mark(now)
            case e.RamEnds():
                self._ram_ended = element.phase is Phase.END
                self.sync = self.sync or SyncDialect.PER_SECTION
                if self.sync is SyncDialect.PER_SECTION:
                    self._on_mark(now)
            case e.Section(header=e.SectionHeader(name="globalstate")):
                self.run_state = element.body[4:].partition(b"\0")[0].decode("ascii", "replace")
            case e.Description():
                self.description = True
            case _:
                pass

    def handle_main_whole(self, now: float) -> None:
        """All of main has come, and everything but its end is passed on."""
        self._whole = True
        self._release(now)

    def handle_syncs_passed(self, channel: int, count: int, now: float) -> None:
        """A channel has passed on so many SYNCs in all, and everything before the last."""
        self._passed[channel] = count
        if not self.main_blocked:
            self._waits.end("sync")
        self._release(now)

    def handle_near_ended(self, error: MultifdError | None, now: float) -> None:
        """The source has closed main (None), or it was lost."""
        if self.final:
            return
        if self.state in _SAFE:
            self.handle_failure(
                error or TransportError("the source ended main: its migration failed or was called off"), now
            )
        elif self.state is _R.RELEASED:
            self._doubt("the source ended main before the far end's SHUT, so its guest runs on", error)
        elif self.state is _R.COMMITTED and self.asks:
            self._waits.begin("close", limits.QEMU_DONE_DEADLINE_S, lambda: "the source's own word", now)
            self._actions.append(AskSource())
        elif self.state is _R.COMMITTED and error is not None:
            self._doubt("main to the source was lost just after SHUT 0: it may have taken it or not", error)
        elif self.state is _R.COMMITTED:
            self._source_done(now)

    def handle_source_status(self, status: str, now: float) -> None:
        """How its migration ended, as query-migrate has it."""
        if self.state is not _R.COMMITTED:
            return
        if status == "completed":
            self._source_done(now)
        elif self.continues:
            cause = f"the source's migration is {status}, after SHUT 0: its guest runs on"
            self._finish(_R.FAILED, TransportError(f"{cause}; the far end holds a copy, stopped: end that QEMU"))
        else:
            self._doubt(f"the source's migration is {status}, after SHUT 0: its guest runs on", None)

    # -- inputs: the far end

    def handle_far_connected(self, now: float) -> None:  # noqa: ARG002  every input has the time
        """`ConnectFar` is done."""
        if not self.final:
            self._waits.end("connect")
            self._move(_R.LIVE)

    def handle_return(self, message: e.ReturnMessage, now: float) -> None:
        """A message of the far end's return path: passed on, unless it can't be."""
        if self.final or self.state in (_R.COMMITTED, _R.CONTINUING):
            return
        if isinstance(message, e.Shut):
            self._on_shut(message, now)
            return
        self.acks += isinstance(message, e.SwitchoverAck)
        if not self.return_path:
            name = type(message).__name__
            self.handle_failure(
                RemoteProtocolError("the far end's return path", "nothing before it is opened", name), now
            )
        else:
            self._actions.append(Reply(message))

    def handle_far_ended(
        self, error: MultifdError | None, now: float, *, gone: bool = True  # noqa: ARG002  every input has the time
    ) -> None:  # fmt: skip
        """The far end has closed main (None), or it was lost. `gone`: by the far end's own doing, so that whatever it
        would have said has come; else the link may have swallowed its SHUT.
        """
        if self.final or self.state in (_R.COMMITTED, _R.CONTINUING):
            return  # it closes after SHUT 0
        cause = "the far end ended main without SHUT: it has refused the machine or died; its stderr says why"
        if self.state is _R.RELEASED and not gone:
            self._doubt("main to the far end was lost before its SHUT", error)
        else:
            self._fail(TransportError(f"{cause} ({error})" if error is not None else cause))

    def handle_far_unreached(self, error: MultifdError, now: float) -> None:  # noqa: ARG002  every input has the time
        """The way to the far end failed, and it is certain that it never had the end of the stream."""
        if self.state in _SAFE or self.state is _R.RELEASED:
            self._fail(error)

    def handle_continued(self, now: float) -> None:  # noqa: ARG002  every input has the time
        """`ContinueFar` is done: the guest runs."""
        if self.state is _R.CONTINUING:
            self._finish(_R.COMPLETED, None)

    # -- inputs: both, and this side

    def handle_channel_ended(self, error: MultifdError, now: float) -> None:
        """A channel was closed or lost, at either end. Nothing follows from it once the far end has all it needs: main
        tells.
        """
        if self.state in _SAFE:
            self.handle_failure(error, now)

    def handle_progress(self, now: float) -> None:
        """Something has moved on."""
        self._waits.renew(now)

    def handle_failure(self, error: MultifdError, now: float) -> None:  # noqa: ARG002  every input has the time
        """Anything failed. The first error wins."""
        if self.final:
            return
        if self.state in _SAFE:
            self._fail(error)
        else:
            self._doubt(str(error), None)

    def cancel(self, cause: str, now: float) -> bool:  # noqa: ARG002  every input has the time
        """Call it off; False when it is too late: the far end may have the machine."""
        if self.state not in _SAFE:
            return False
        self._refuse()
        self._finish(_R.CANCELLED, CalledOffError(cause))
        return True

    def handle_timer(self, now: float) -> None:
        """The clock reached `wake_at`."""
        error = self._waits.poll_expired(now)
        if error is not None:
            self._waits.clear()
            if self.state is _R.COMMITTED and not self.continues:
                self.notes.append(str(error))
                self._finish(_R.COMPLETED, None)
            else:
                self.handle_failure(error, now)

    # -- outputs

    def poll_action(self) -> RelayAction | None:
        """What to do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    # -- inside

    def _gathered(self, now: float) -> None:
        if not self._waits.wake_at:
            self._waits.begin("gather", limits.QEMU_SETUP_DEADLINE_S, self._missing, now)
        if self._main and self.roll.complete:
            self._waits.end("gather")
            self._waits.begin("connect", limits.QEMU_SETUP_DEADLINE_S, lambda: "the far end to be connected", now)
            self._move(_R.CONNECTING)
            self._actions.append(ConnectFar())

    def _missing(self) -> str:
        return self.roll.missing() + (f"; {self.roll.dropped}" if self.roll.dropped else "")

    def _on_mark(self, now: float) -> None:
        self.marks += 1
        if self.main_blocked:
            self._waits.begin("sync", limits.QEMU_SYNC_DEADLINE_S, self._missing_syncs, now, silence=True)

    def _missing_syncs(self) -> str:
        late = ", ".join(str(channel) for channel, count in enumerate(self._passed) if count < self.marks)
        return f"SYNC on channel {late} to be passed on, at mark {self.marks} of main"

    def _on_stopped(self, now: float) -> None:
        if self.state is _R.LIVE:
            self._move(_R.STOPPED)
            self._await_rest(now)
        else:
            self.handle_failure(RemoteProtocolError("main: END of ram", "it once, after START", self.state.value), now)

    def _await_rest(self, now: float) -> None:
        self._waits.begin("stop", limits.QEMU_STOP_SILENCE_S, self._missing_rest, now, silence=True)

    def _missing_rest(self) -> str:
        what = "the rest of a machine that stands still to be passed on"
        if self.main_blocked:
            return f"{what}: {self._missing_syncs()}"
        if self._ram_ended and not self._whole:
            what += " (one with suppress-vmdesc=on sends no VM description, and is relayed with --no-vmdesc)"
        return what

    def _release(self, now: float) -> None:
        """The far end gets the end of main when the channels have passed on what belongs before it."""
        if self._whole and self.state is _R.STOPPED and not self.main_blocked:
            self._move(_R.RELEASED)
            self._waits.end("stop")
            if self.continues:  # else the far end may run its guest whenever it has loaded it: only its word counts
                self._waits.begin("shut", limits.QEMU_SHUT_DEADLINE_S, lambda: "the far end's SHUT", now, silence=True)
            self._actions.append(Release())

    def _on_shut(self, shut: e.Shut, now: float) -> None:
        self.shut = shut.status
        if shut.status:
            cause = f"the far end refused the machine (SHUT {shut.status}): its stderr says why"
            self._fail(PeerError(Code.REFUSED, cause))
        elif self.state is not _R.RELEASED:
            where = self.state.value
            self._fail(RemoteProtocolError("the far end's SHUT 0", "it after the end of main", where))
        else:
            self._move(_R.COMMITTED)
            self._waits.end("shut")
            self._actions.append(Reply(shut))
            self._waits.begin(
                "close", limits.QEMU_DONE_DEADLINE_S, lambda: "the source to close main after SHUT 0", now
            )

    def _source_done(self, now: float) -> None:
        self._waits.clear()
        if not self.continues:
            self._finish(_R.COMPLETED, None)
        elif self.run_state != "running":
            self.notes.append(f"the guest was {self.run_state} at the source: the far end was not continued")
            self._finish(_R.COMPLETED, None)
        else:
            self._move(_R.CONTINUING)
            self._waits.begin("continue", limits.QEMU_CONTINUE_DEADLINE_S, lambda: "the far end to go on", now)
            self._actions.append(ContinueFar())

    def _refuse(self) -> None:
        """Tell the source, if it listens, so that its guest goes on at once."""
        if self.return_path:
            self._actions.append(Reply(e.Shut(1)))

    def _fail(self, error: MultifdError) -> None:
        """The far end has not got the guest, or will never be told to run it."""
        self._refuse()
        self._finish(_R.FAILED, error)

    def _doubt(self, cause: str, error: MultifdError | None) -> None:
        """The far end has all of the machine."""
        told = f"{cause} ({error})" if error is not None else cause
        if self.state is _R.RELEASED and self.continues:
            self._fail(TransportError(f"{told}; the far end may hold the guest, stopped: end that QEMU"))
        elif self.state is _R.CONTINUING:
            self._finish(_R.IN_DOUBT, InDoubtError(f"{told}; the guest is at the far end, stopped: give it `cont`"))
        elif self.continues:
            advice = "the far end's guest stands still: `cont` it only if query-migrate at the source says completed"
            self._finish(_R.IN_DOUBT, InDoubtError(f"{told}; {advice}"))
        else:
            advice = "the guest may run at the far end as well: compare query-status at both, and stop one of them"
            self._finish(_R.IN_DOUBT, InDoubtError(f"{told}; {advice}"))

    def _finish(self, state: _R, error: MultifdError | None) -> None:
        self._move(state)
        self._waits.clear()
        kept = [action for action in self._actions if isinstance(action, Reply)]  # the rest need not be begun
        self._actions = deque([*kept, Finished(error)])

    def _move(self, state: _R) -> None:
        check_relay_move(self.state, state)
        self.state = state
