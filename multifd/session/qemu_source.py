"""The source's machine for a stock QEMU destination (proto/qemu.md sections 12 and 14), sans-IO: a saved machine, which
nobody runs, is sent once. To be used as `qemu_destination` is.

A QEMU notices neither a missing section nor a missing page. So completeness is looked at here, before anything is sent.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase, SyncDialect, ZeroPages
from multifd.errors import (
    CalledOffError,
    Code,
    InDoubtError,
    LocalProtocolError,
    MultifdError,
    PeerError,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from multifd.session import qemu_actions as a
from multifd.session.qemu_machine_type import machine_type
from multifd.session.qemu_sections import RAM, Describe, first_difference
from multifd.session.qemu_states import (
    QEMU_SOURCE_TRANSITIONS,
    QemuSourceState,
    check_qemu_source_message,
    check_qemu_source_move,
)
from multifd.session.qemu_waits import Waits

PING_VALUE = 1
"""Of the one PING, as QEMU's sources have it at set-up."""

_LOOK = "look at its log and at query-status before it is sent again"
"""When the destination may have the machine."""

_S = QemuSourceState
_FINAL = frozenset(state for state, after in QEMU_SOURCE_TRANSITIONS.items() if not after)


@dataclass(frozen=True, slots=True)
class SourceRules:
    """How to send."""

    channels: int
    sync: SyncDialect | None = None
    """None: by the machine type."""
    zero_pages: ZeroPages | None = None
    """None: by the machine type."""
    shut_deadline_s: float = limits.QEMU_SHUT_DEADLINE_S
    """How long the destination may take from the last byte to SHUT."""

    def check(self) -> None:
        """Raise `LocalProtocolError` if these can't be."""
        if not 1 <= self.channels <= limits.QEMU_CHANNELS_MAX:
            raise LocalProtocolError("channels", f"1 to {limits.QEMU_CHANNELS_MAX}", self.channels)
        if not 0 < self.shut_deadline_s <= limits.SECONDS_MAX:
            raise LocalProtocolError("shut deadline", f"up to {limits.SECONDS_MAX:.0f} seconds", self.shut_deadline_s)


def check_complete(state: e.MachineState, describe: Describe) -> None:
    """Raise `StorageError` if a saved machine lacks anything that can be known to be missing."""
    if state.ram.name != RAM or not state.blocks:
        raise StorageError("the saved machine has no RAM: save it again")
    if not state.sections:
        raise StorageError("the saved machine has no device sections: save it again")
    if state.description is not None:
        try:
            difference = first_difference((*state.early, *state.sections), describe(state.description))
        except RemoteProtocolError as error:
            raise StorageError(f"the saved machine's VM description can't be read: {error}") from error
        if difference:
            raise StorageError(f"the saved machine is not complete ({difference}): save it again")


class QemuSourceSession:
    """A saved machine on its way to a QEMU."""

    def __init__(self, state: e.MachineState, rules: SourceRules, describe: Describe) -> None:
        """`describe` parses the VM description. Raises `StorageError` if `state` is not complete, `LocalProtocolError`
        if `rules` can't be.

        A `mapped-ram` of the file that it came from is taken out of configuration and blocks.
        """
        rules.check()
        check_complete(state, describe)
        facts = machine_type(state.configuration.machine)
        self.rules = rules
        self.machine = state
        self.state = _S.NEW
        self.sync = rules.sync or facts.sync
        self.zero_pages = rules.zero_pages or facts.zero_pages
        self.notes = _notes(state, facts.assumed if rules.sync is None else "")
        """What a person should know of this run, sentences."""
        if self.zero_pages is ZeroPages.MULTIFD and facts.zero_pages is not ZeroPages.MULTIFD:
            self.notes.append(
                "zero pages go in packets, as was asked for: a QEMU before 9.0 ignores them without a word, and where "
                "its memory is not zero by itself, as a ROM's, keeps what it has"
            )
        self.pongs: list[int] = []
        self.acks = 0
        """SWITCHOVER_ACK that came; this source waits for none, since no guest runs here."""
        self._syncing = self._all_sent = False
        self._waits = Waits()
        self._actions: deque[a.QemuSourceAction] = deque()

    # -- getters

    @property
    def wake_at(self) -> float | None:
        """When `handle_timer` is to be called next, at the latest."""
        return self._waits.wake_at

    def waiting_for(self, longer_than_s: float, now: float) -> tuple[str, ...]:
        """What has been waited for longer than that, in words."""
        return self._waits.longer_than(longer_than_s, now)

    @property
    def final(self) -> bool:
        """Nothing can change any more."""
        return self.state in _FINAL

    # -- inputs: what was asked for is done

    def start(self, now: float) -> None:
        """Main is connected (under TLS: its handshake done): the header goes out, channels are opened."""
        self._move(_S.OPENING)
        self._waits.begin("open", limits.QEMU_SETUP_DEADLINE_S, lambda: "the channels to be connected", now)
        self._actions.append(a.Write((_plain(self.machine.configuration),)))
        self._actions.append(a.OpenChannels(self.rules.channels, self.machine.uuid))

    def handle_opened(self, now: float) -> None:
        """`OpenChannels` is done."""
        if self.final:
            return
        self._move(_S.START)
        self._waits.end("open")
        stall = limits.QEMU_STALL_DEADLINE_S
        self._waits.begin("stall", stall, lambda: "the destination to take more bytes", now, silence=True)
        self._write(
            e.Command(CommandNumber.OPEN_RETURN_PATH),
            e.Command(CommandNumber.PING, PING_VALUE.to_bytes(4, "big")),
            *self.machine.early,
            e.RamBegins(Phase.START, self.machine.ram),
            e.BlockList(tuple(replace(block, mapped=None) for block in self.machine.blocks)),
        )
        self._sync_channels()

    def handle_pages_sent(self, now: float) -> None:
        """`SendPages` is done."""
        if self.final:
            return
        self._move(_S.PART)
        self._waits.renew(now)
        self._sync_channels()

    def handle_sync_sent(self, now: float) -> None:
        """`SyncChannels` is done: only now the mark may go out on main, where the destination waits for them."""
        if self.final:
            return
        if not self._syncing:
            raise LocalProtocolError("sync sent", "it after SyncChannels", self.state.value)
        self._syncing = False
        self._waits.renew(now)
        mark = (e.SyncMark(),) if self.sync is SyncDialect.PER_ROUND else ()
        if self.state is _S.START:
            self._write(*mark, e.RamEnds(Phase.START), e.RamBegins(Phase.PART, self.machine.ram))
            self._move(_S.PAGES)
            self._actions.append(a.SendPages(self.zero_pages))
        elif self.state is _S.PART:
            self._write(*mark, e.RamEnds(Phase.PART))
            self._begin_end(now)
        else:
            self._finish_stream(now)

    def handle_all_sent(self, now: float) -> None:  # noqa: ARG002  every input has the time
        """The `last` of the writes has left this side: from here on the destination may have the machine and run it."""
        self._all_sent = True

    def handle_progress(self, now: float) -> None:
        """Bytes have gone out on main or a channel since the last call: the wait for a stalled destination, or for its
        SHUT, begins anew. Call it about once a second.
        """
        self._waits.renew(now)

    # -- inputs: the destination

    def handle_return(self, message: e.ReturnMessage, now: float) -> None:
        """A message of the return path. Does not raise: what is wrong fails the machine."""
        if self.final:
            return
        try:
            check_qemu_source_message(self.state, message)
            if isinstance(message, e.Pong):
                self._on_pong(message)
        except RemoteProtocolError as error:
            self.handle_failure(error, now)
            return
        if isinstance(message, e.SwitchoverAck):
            self.acks += 1
        elif isinstance(message, e.Shut) and message.status:
            cause = f"the destination refused the machine (SHUT {message.status}): see its own log"
            self._finish(_S.FAILED, PeerError(Code.REFUSED, cause))
        elif isinstance(message, e.Shut):
            self._finish(_S.COMPLETED, None)

    def handle_main_ended(self, error: MultifdError | None, now: float) -> None:
        """Main is closed or lost."""
        if self._all_sent:
            cause = (
                f"main ended before SHUT: the destination failed, or it has the machine and could not say so; {_LOOK}"
            )
        else:
            cause = "the destination ended main before everything was sent: see its own log"
        self.handle_failure(TransportError(f"{cause} ({error})" if error else cause), now)

    # -- inputs: this side

    def handle_failure(self, error: MultifdError, now: float) -> None:  # noqa: ARG002  every input has the time
        """Anything failed on this side, or a channel was lost. The first error wins."""
        if not self.final:
            self._finish(_S.FAILED, self._in_doubt(error) if self._all_sent else error)

    def cancel(self, cause: str, now: float) -> bool:  # noqa: ARG002  every input has the time
        """Call it off; False when it is too late (a final state). When all was sent it ends, but in doubt."""
        if self.final:
            return False
        if self._all_sent:
            self._finish(_S.FAILED, self._in_doubt(CalledOffError(cause)))
            return True
        self._finish(_S.CANCELLED, CalledOffError(cause))
        return True

    def handle_timer(self, now: float) -> None:
        """The clock reached `wake_at`."""
        error = self._waits.poll_expired(now)
        if error is not None:
            self.handle_failure(error, now)

    # -- outputs

    def poll_action(self) -> a.QemuSourceAction | None:
        """What to do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    # -- inside

    def _on_pong(self, pong: e.Pong) -> None:
        if pong.value != PING_VALUE or self.pongs:
            raise RemoteProtocolError("return path: PONG", f"{PING_VALUE}, once", pong.value)
        self.pongs.append(pong.value)

    def _begin_end(self, now: float) -> None:
        """All pages are there, and so is the mark behind them."""
        if self.machine.switchover_start:
            self._write(e.Command(CommandNumber.SWITCHOVER_START))
        self._write(e.RamBegins(Phase.END, self.machine.ram))
        if self.sync is SyncDialect.PER_SECTION:
            self._move(_S.END)
            self._sync_channels()  # for the end of this section, which is a mark too
        else:
            self._finish_stream(now)

    def _finish_stream(self, now: float) -> None:
        description = self.machine.description
        last = () if description is None else (e.Description(description),)
        elements = (e.RamEnds(Phase.END), *self.machine.sections, e.EndOfState(), *last)
        self._actions.append(a.Write(elements, last=True))
        self._move(_S.WAITING)
        self._waits.end("stall")
        # what was asked to be written has not gone out yet: as long as bytes move the wait begins anew
        self._waits.begin("shut", self.rules.shut_deadline_s, self._missing_shut, now, silence=True)

    def _missing_shut(self) -> str:
        hint = "is multifd-compression the same there?"
        if self.machine.description is None:
            hint = "has its machine suppress-vmdesc=on, as this one had?"
        return f"the destination's SHUT; {_LOOK} ({hint})"

    def _in_doubt(self, error: MultifdError) -> InDoubtError:
        """What an error is when the destination may have the machine."""
        told = str(error)
        doubt = InDoubtError(told if _LOOK in told else f"{told}; the destination may have the machine: {_LOOK}")
        doubt.__cause__ = error
        return doubt

    def _sync_channels(self) -> None:
        self._syncing = True
        self._actions.append(a.SyncChannels())

    def _write(self, *elements: e.StreamElement) -> None:
        self._actions.append(a.Write(elements))

    def _finish(self, state: _S, error: MultifdError | None) -> None:
        self._move(state)
        self._waits.clear()
        self._actions.clear()  # what was not begun need not be
        self._actions.append(a.Finished(error))

    def _move(self, state: _S) -> None:
        check_qemu_source_move(self.state, state)
        self.state = state


def _plain(configuration: e.Configuration) -> e.Configuration:
    """Without what it has only in a file."""
    if configuration.capabilities is None:
        return configuration
    kept = tuple(name for name in configuration.capabilities if name != "mapped-ram")
    return replace(configuration, capabilities=kept or None)


def _notes(state: e.MachineState, assumed: str) -> list[str]:
    notes = [assumed] if assumed else []
    if "x-ignore-shared" in (state.configuration.capabilities or ()):
        notes.append("the machine was saved without its main RAM (x-ignore-shared)")
    if state.description is None:
        notes.append("without a VM description: nothing tells whether all sections are there")
    return notes
