"""The destination's machine for a stock QEMU source (proto/qemu.md section 14), sans-IO.

The engine calls `handle_*` with what happened, `handle_timer` at `wake_at`, and after each of these `poll_action` until
it gives None. But for `handle_channel` nothing here raises for what the source does: the machine fails by itself.
Elements are well formed and fit the block list, which their reader has seen to; their order is looked at here.

Who may run the guest is settled by one message: SHUT 0. Until it is sent every failure leaves the guest to the source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase
from multifd.errors import (
    CalledOffError,
    LocalProtocolError,
    MultifdError,
    RefusedError,
    RemoteProtocolError,
    TransportError,
)
from multifd.session import qemu_actions as a
from multifd.session.qemu_ack import CHOICES, AckKeeper, choose_ack_mode
from multifd.session.qemu_admission import IGNORE_SHARED, NO_RETURN_PATH, device_packet_refusal, refusal_of
from multifd.session.qemu_channels import ChannelRoll
from multifd.session.qemu_machine_type import machine_type
from multifd.session.qemu_sections import Describe, SectionLog, first_difference
from multifd.session.qemu_states import (
    QEMU_DESTINATION_TRANSITIONS,
    QemuDestinationState,
    check_qemu_destination_move,
    check_qemu_element,
)
from multifd.session.qemu_sync import SyncBarrier
from multifd.session.qemu_waits import Waits

_D = QemuDestinationState
_RAM_STATES = {Phase.START: _D.BLOCKS, Phase.PART: _D.PART, Phase.END: _D.END}
_FINAL = frozenset(state for state, after in QEMU_DESTINATION_TRANSITIONS.items() if not after)
_STOPPED = frozenset({_D.SWITCHOVER, _D.END, _D.DEVICES, _D.DESCRIPTION})
"""The source's guest is stopped, and the source has nothing to do but to send."""
_POSTCOPY_NOTE = "postcopy-ram is on at the source: with it and multifd QEMU 11.1 was seen to lose pages, turn it off"


@dataclass(frozen=True, slots=True)
class DestinationRules:
    """What the wire does not tell a destination."""

    channels: int
    ack: str = "off"
    """off, on (the mode follows the machine type), legacy or counted."""
    hold_ack_s: float = 0.0
    allow_ignore_shared: bool = False
    require_return_path: bool = True
    """Only who looks at a recorded stream can do without."""
    description: bool = True
    """Whether a VM description is expected."""
    uuid: bytes | None = None
    """What channels must say; None takes what the first one says."""

    def check(self) -> None:
        """Raise `LocalProtocolError` if these can't be."""
        if not 1 <= self.channels <= limits.QEMU_CHANNELS_MAX:
            raise LocalProtocolError("channels", f"1 to {limits.QEMU_CHANNELS_MAX}", self.channels)
        if self.ack not in CHOICES:
            raise LocalProtocolError("switchover-ack", f"one of {', '.join(CHOICES)}", self.ack)
        if not 0 <= self.hold_ack_s <= limits.SECONDS_MAX:
            raise LocalProtocolError("hold-ack", f"0 to {limits.SECONDS_MAX:.0f} seconds", self.hold_ack_s)
        if self.uuid is not None and len(self.uuid) != 16:
            raise LocalProtocolError("uuid", "16 bytes", self.uuid)


class QemuDestinationSession:
    """One migration from a QEMU, seen from the destination."""

    def __init__(self, rules: DestinationRules, describe: Describe) -> None:
        """`describe` parses the VM description (`wire.qemu_description.described_sections`)."""
        rules.check()
        self.rules = rules
        self.state = _D.CONFIGURATION
        self.configuration: e.Configuration | None = None
        self.blocks: tuple[e.RamBlock, ...] = ()
        self.roll = ChannelRoll(rules.channels, rules.uuid)
        self.acks = AckKeeper(e.AckMode.OFF, 0.0)
        self.sections = SectionLog()
        self.without_ram = False
        """x-ignore-shared is on at the source: main memory was not sent."""
        self.notes: list[str] = []
        """What a person should know of this stream, sentences."""
        self._describe = describe
        self._ram: e.SectionHeader | None = None
        self._switchover_start = False
        self._connected = False
        self._return_path = False
        self._main_open = True
        self._prepared = False
        self._refusal: RefusedError | None = None  # held back until the return path is open, so that it can be said
        self._barrier = SyncBarrier(rules.channels)
        self._waits = Waits()
        self._actions: deque[a.QemuDestinationAction] = deque()

    # -- getters

    @property
    def main_blocked(self) -> bool:
        """No element may be handed in: blocks are being prepared, channels are missing, or a mark waits for them."""
        return self._barrier.blocked or self.state is _D.PREPARING

    @property
    def sync(self) -> e.SyncDialect | None:
        """The dialect, once RAM's START has told it."""
        return self._barrier.dialect

    @property
    def marks(self) -> int:
        """Sync points that main has reached."""
        return self._barrier.marks

    @property
    def uuid(self) -> bytes:
        """The machine's, as far as anybody has said it; else zeros."""
        return self.roll.uuid or bytes(16)

    @property
    def wake_at(self) -> float | None:
        """When `handle_timer` is to be called next, at the latest."""
        times = [at for at in (self._waits.wake_at, self.acks.wake_at) if at is not None]
        return None if self.final else min(times, default=None)

    @property
    def final(self) -> bool:
        """Nothing can change any more."""
        return self.state in _FINAL

    # -- inputs: connections

    def handle_connected(self, now: float) -> None:
        """Main or a channel has connected: the time begins within which all must come. More calls change nothing."""
        if not self._connected:
            self._connected = True
            self._waits.begin("connections", limits.QEMU_SETUP_DEADLINE_S, self.roll.missing, now)

    def handle_channel(self, handshake: e.Handshake, now: float) -> frozenset[int]:
        """A channel is there. Raises `RemoteProtocolError` if it can't be: the caller drops that connection only.

        Returns the channels to be dropped for it: one that came before main's CONFIGURATION may be a stranger's. The
        time for all to come begins anew then.
        """
        if self.final:
            raise RemoteProtocolError("handshake", f"no channel in state {self.state.value}", handshake.channel)
        forgotten = self.roll.handle_handshake(handshake, early=self.configuration is None)
        self._connected = self._connected and not forgotten
        self.handle_connected(now)  # a stranger's does not count
        self._check_connected()
        self._start_channels(now)
        return forgotten

    def handle_channel_ended(self, channel: int, error: MultifdError | None, now: float) -> None:
        """A channel is at its end: None between two packets, else what went wrong, at either side."""
        if error is None:
            if self.state in (_D.DESCRIPTION, _D.STORING):
                return  # all that it had to say is there
            error = TransportError(
                f"channel {channel} ended before the state did: the source has cancelled or died; the guest stays there"
            )
        self.handle_failure(error, now)

    def handle_main_ended(self, error: MultifdError | None, now: float) -> None:
        """Main is closed or lost; `error` of the connection, or of the reader (`StreamReader.end`)."""
        self._main_open = False
        cause = f"main ended in state {self.state.value}"
        if isinstance(error, RemoteProtocolError):
            cause += f" ({error.where}: {error.expected} was missing)"
        elif error is not None:
            cause += f" ({error})"
        cause += ": the source has cancelled or died; the guest stays there"
        self.handle_failure(TransportError(f"{cause} ({self.roll.dropped})" if self.roll.dropped else cause), now)

    # -- inputs: the streams

    def handle_element(self, element: e.StreamElement, now: float, *, offset: int = 0) -> None:
        """The next element of main; `offset` is where it ends (`StreamReader.offset`), for texts.

        Raises `LocalProtocolError` while `main_blocked`; never anything else. No effect in a final state.
        """
        if self.final:
            return
        if self.main_blocked:
            raise LocalProtocolError(f"main at {offset}", "no element while main is blocked", type(element).__name__)
        try:
            check_qemu_element(self.state, element, offset)
            self._HANDLERS[type(element)](self, element, offset, now)
            if self._refusal is not None and not isinstance(element, e.Configuration):
                raise self._refusal
        except (RemoteProtocolError, RefusedError) as error:
            self.handle_failure(error, now)
        else:
            self._waits.renew(now)

    def handle_prepared(self, now: float) -> None:
        """`PrepareBlocks` is done."""
        if self.state is _D.PREPARING and not self._prepared:
            self._prepared = True
            self._waits.end("prepare")
            self._start_channels(now)

    def handle_synced(self, channel: int, now: float, *, offset: int = 0) -> None:
        """A channel has delivered its next SYNC, its pages are in place, and its worker has stopped reading."""
        if self.final:
            return
        try:
            self._barrier.handle_synced(channel, offset)
        except RemoteProtocolError as error:
            self.handle_failure(error, now)
            return
        self._waits.renew(now)
        self._release()

    def handle_device_packet(self, channel: int, packet: e.DevicePacket, now: float, *, offset: int = 0) -> None:
        """A piece of a device's state came on a channel: refused, since a saved machine has no place for it."""
        self.handle_failure(device_packet_refusal(channel, packet, offset), now)

    def handle_progress(self, now: float) -> None:
        """Bytes have arrived on main or a channel since the last call: waits for silence begin anew. Call it about once
        a second; without it a slow but living source is given up.
        """
        self._waits.renew(now)

    # -- inputs: this side

    def handle_stored(self, now: float) -> None:
        """`Store` is done: SHUT 0."""
        if self.state is not _D.STORING:
            return
        self._actions.append(a.Reply(e.Shut(0)))
        self._finish(_D.COMPLETED, None, now)

    def handle_failure(self, error: MultifdError, now: float) -> None:
        """Anything failed on this side, or a stream is wrong: SHUT 1 if it can be said. The first error wins."""
        if not self.final:
            self._call_off(_D.FAILED, self._refusal or error, now)

    def cancel(self, cause: str, now: float) -> bool:
        """Call it off; False when it is too late (a final state)."""
        if self.final:
            return False
        self._call_off(_D.CANCELLED, CalledOffError(cause), now)
        return True

    def handle_timer(self, now: float) -> None:
        """The clock reached `wake_at`."""
        if self.final:
            return
        self._give_acks(now)
        error = self._waits.poll_expired(now)
        if error is not None:
            self.handle_failure(error, now)

    # -- outputs

    def poll_action(self) -> a.QemuDestinationAction | None:
        """What to do next; None when there is nothing."""
        return self._actions.popleft() if self._actions else None

    # -- elements

    def _on_configuration(self, configuration: e.Configuration, _offset: int, now: float) -> None:
        self.handle_connected(now)
        self.configuration = configuration
        self._move(_D.SETUP, now)
        self._refusal = refusal_of(configuration, self.roll.uuid, allow_ignore_shared=self.rules.allow_ignore_shared)
        self.without_ram = IGNORE_SHARED in (configuration.capabilities or ())
        if self.without_ram:
            self.notes.append("x-ignore-shared is on at the source: its main memory was not sent")
        if configuration.uuid is not None and self._refusal is None:
            self.roll.expect(configuration.uuid)
        try:
            mode = choose_ack_mode(self.rules.ack, machine_type(configuration.machine))
            self.acks = AckKeeper(mode, self.rules.hold_ack_s)
        except RefusedError as refusal:
            self._refusal = self._refusal or refusal
        self._check_connected()

    def _on_command(self, command: e.Command, offset: int, now: float) -> None:
        if command.number is CommandNumber.OPEN_RETURN_PATH:
            self._return_path = True
            if self._refusal is None:
                self.acks.handle_return_path(now)
                self._give_acks(now)  # before the PONG, as a QEMU does
        elif command.number is CommandNumber.PING:
            if not self._return_path:
                raise RemoteProtocolError(f"main at {offset}: PING", "OPEN_RETURN_PATH before it")
            self._actions.append(a.Reply(e.Pong(int.from_bytes(command.payload, "big"))))
        elif command.number is CommandNumber.POSTCOPY_ADVISE:
            if _POSTCOPY_NOTE not in self.notes:  # it may come any number of times
                self.notes.append(_POSTCOPY_NOTE)
        else:
            self._switchover_start = True
            self._move(_D.SWITCHOVER, now)

    def _on_section(self, section: e.Section, offset: int, now: float) -> None:
        self.sections.handle_section(section, offset)
        self.acks.handle_section(section, offset, now)
        self._give_acks(now)

    def _on_ram_begins(self, begins: e.RamBegins, _offset: int, now: float) -> None:
        if begins.phase is Phase.START and self.rules.require_return_path and not self._return_path:
            raise RefusedError((), NO_RETURN_PATH)
        self._ram = begins.section
        self._move(_RAM_STATES[begins.phase], now)

    def _on_block_list(self, block_list: e.BlockList, _offset: int, now: float) -> None:
        assert self.configuration is not None
        assert self._ram is not None
        self.blocks = block_list.blocks
        self._move(_D.PREPARING, now)
        self._waits.begin("prepare", limits.QEMU_PREPARE_DEADLINE_S, lambda: "room for the blocks at this side", now)
        self._actions.append(a.PrepareBlocks(self.configuration, self._ram, self.blocks))

    def _on_sync_mark(self, _mark: e.SyncMark, offset: int, now: float) -> None:
        self._barrier.handle_sync_mark(offset)
        self._await_syncs(now)

    def _on_ram_ends(self, ends: e.RamEnds, _offset: int, now: float) -> None:
        self._barrier.handle_ram_ends(ends.phase)
        if ends.phase is Phase.END:
            self.sections.handle_ram_ended()
        self._move(_D.DEVICES if ends.phase is Phase.END else _D.LIVE, now)
        if self._barrier.blocked:
            self._await_syncs(now)

    def _on_zero_records(self, records: e.ZeroRecords, _offset: int, _now: float) -> None:
        self._actions.append(a.ZeroRam(records.block, records.offsets))

    def _on_page_record(self, record: e.PageRecord, _offset: int, _now: float) -> None:
        self._actions.append(a.WriteRam(record.block, record.offset, record.data))

    def _on_end_of_state(self, _end: e.EndOfState, offset: int, now: float) -> None:
        self.sections.check_ended(offset)
        self._barrier.finish()
        self._actions.append(a.Release(final=True))
        if self.rules.description:
            self._move(_D.DESCRIPTION, now)
        else:
            self.notes.append("without a VM description: nothing tells whether all sections came")
            self._store(None, now)

    def _on_description(self, description: e.Description, offset: int, now: float) -> None:
        try:
            described = self._describe(description.text)
        except RemoteProtocolError as error:  # it was read apart from its stream
            where = f"main at {offset}: {error.where.removeprefix('main: ')}"
            raise RemoteProtocolError(where, error.expected, error.got) from None
        difference = first_difference(self.sections.in_order, described)
        if difference:
            raise RemoteProtocolError(f"main at {offset}: {difference}", "sections as the VM description has them")
        self._store(description.text, now)

    _HANDLERS: ClassVar[dict[type, Callable[[Any, Any, int, float], None]]] = {
        e.Configuration: _on_configuration,
        e.Command: _on_command,
        e.Section: _on_section,
        e.RamBegins: _on_ram_begins,
        e.BlockList: _on_block_list,
        e.SyncMark: _on_sync_mark,
        e.ZeroRecords: _on_zero_records,
        e.PageRecord: _on_page_record,
        e.RamEnds: _on_ram_ends,
        e.EndOfState: _on_end_of_state,
        e.Description: _on_description,
    }

    # -- inside

    def _check_connected(self) -> None:
        if self.configuration is not None and self._refusal is None and self.roll.complete:
            self._waits.end("connections")
            self.roll.settle()

    def _start_channels(self, now: float) -> None:
        if self._prepared and self.state is _D.PREPARING and self.roll.complete:
            self._move(_D.START, now)
            self._actions.append(a.StartChannels())

    def _await_syncs(self, now: float) -> None:
        """A mark was reached: go on at once if all channels are there, else wait for them."""
        self._waits.begin("sync", limits.QEMU_SYNC_DEADLINE_S, self._missing_syncs, now, silence=True)
        self._release()

    def _missing_syncs(self) -> str:
        late = ", ".join(map(str, self._barrier.missing))
        return f"SYNC on channel {late} at mark {self._barrier.marks} of main; is the source stopped in a debugger?"

    def _release(self) -> None:
        if self._barrier.poll_release():
            self._waits.end("sync")
            self._actions.append(a.Release())

    def _give_acks(self, now: float) -> None:
        while self.acks.poll_ack(now):
            self._actions.append(a.Reply(e.SwitchoverAck()))

    def _silence(self) -> str:
        what = "more of the stream after the guest was stopped"
        if self.rules.description and self.state in (_D.DEVICES, _D.DESCRIPTION):
            what += "; a machine with suppress-vmdesc=on sends no VM description: receive it with --no-vmdesc"
        return what

    def _store(self, description: bytes | None, now: float) -> None:
        assert self.configuration is not None
        assert self._ram is not None
        self._move(_D.STORING, now)
        self._waits.begin("store", limits.QEMU_STORE_DEADLINE_S, lambda: "the state to be stored at this side", now)
        state = e.MachineState(
            self.configuration, tuple(self.sections.early), self._ram, self.blocks, self._switchover_start,
            tuple(self.sections.late), description, self.uuid,
        )  # fmt: skip
        self._actions.append(a.Store(state))

    def _call_off(self, state: _D, error: MultifdError, now: float) -> None:
        self._actions = deque(action for action in self._actions if isinstance(action, a.Reply))
        if self._return_path and self._main_open:
            self._actions.append(a.Reply(e.Shut(1)))
        self._finish(state, error, now)

    def _finish(self, state: _D, error: MultifdError | None, now: float) -> None:
        self._move(state, now)
        self._actions.append(a.Finished(error))

    def _move(self, state: _D, now: float) -> None:
        check_qemu_destination_move(self.state, state)
        stopped_before = self.state in _STOPPED
        self.state = state
        if state in _STOPPED and not stopped_before:
            self._waits.begin("stop", limits.QEMU_STOP_SILENCE_S, self._silence, now, silence=True)
        elif stopped_before and state not in _STOPPED:
            self._waits.end("stop")
