"""Drives the machine of one session with a QEMU source: feeds it what happens, and does what it asks for. Everything
here is on the loop.

The machine decides (`session.qemu_destination`), a worker for each channel receives pages, the pool does what blocks;
this file connects them and owns their lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from multifd import elements as e
from multifd import limits
from multifd.engine.connection import Connection
from multifd.engine.events import EventQueue
from multifd.engine.progress import ProgressFeed
from multifd.engine.session_run import SessionRun, as_ours, to_its_end
from multifd.engine.transport import SocketOptions
from multifd.errors import InDoubtError, MultifdError, RemoteProtocolError, TransportError
from multifd.qemu.channel_receiver import (
    DeviceStateCame,
    QemuChannelReceiver,
    ReceiveEnded,
    ReceiveEvent,
    ReceiveHooks,
    Synced,
)
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.destination_reporting import destination_progress
from multifd.qemu.early_flush import EarlyFlush
from multifd.qemu.listener import QemuListener
from multifd.qemu.main_reader import MainReader
from multifd.qemu.report import ChannelTally
from multifd.qemu.target import BlockTarget, MachineTarget
from multifd.qemu.target_calls import TargetCalls
from multifd.session import qemu_actions as a
from multifd.session.convergence import RateMeter
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_states import QemuDestinationState
from multifd.stats import Progress
from multifd.wire.qemu_description import described_sections
from multifd.wire.qemu_return import serialize_return

_LIVE = frozenset({QemuDestinationState.LIVE, QemuDestinationState.PART})
"""The guest still runs at the source, and pages come."""


class Hooks(ReceiveHooks, Protocol):
    """What `QemuDestination` lets a subclass do on the way."""

    def send_return(self, message: e.ReturnMessage) -> None:
        """*loop*: a message for the return path."""

    def before_commit(self) -> None:
        """*pool*: all has arrived and is verified."""


class QemuDestinationRun(SessionRun):
    """One session of a destination, from the first connection to the last."""

    def __init__(
        self,
        listener: QemuListener,
        target: MachineTarget,
        options: QemuDestinationOptions,
        *,
        hooks: Hooks,
        progress: ProgressFeed,
        path: str = "",
    ) -> None:
        """`path` is where `target` puts the machine, for texts."""
        rules = DestinationRules(
            channels=options.channels,
            ack=options.switchover_ack,
            hold_ack_s=options.hold_ack_s,
            allow_ignore_shared=options.allow_ignore_shared,
            description=options.description,
        )
        self.session = QemuDestinationSession(rules, described_sections)
        super().__init__(self.session, progress)
        self.listener = listener
        self.options = options
        self.receivers: dict[int, QemuChannelReceiver] = {}
        self.began = self.now
        self.connected_at = self.prepared_at = self.received_at = self.shut_at = self.ended_at = 0.0
        """When something had connected, the blocks were there, all had come, SHUT 0 was written, all was released; 0
        before.
        """
        self.security = ""
        self.syncs = 0
        """Sync points passed."""
        self.meter = RateMeter()
        self.reader = MainReader(
            description=options.description,
            take=self._take,
            is_blocked=lambda: self.session.main_blocked or self._zeroing,
            is_over=lambda: self.session.final,
        )
        self.state: e.MachineState | None = None
        """The machine's, when all of it has come."""
        self._hooks = hooks
        self._target = target
        self._calls = TargetCalls(target)
        self.flush = EarlyFlush(target, self._calls)
        self._main: Connection | None = None
        self._waiting: dict[int, Connection] = {}
        """Channels whose workers have not begun."""
        self._blocks: Mapping[str, BlockTarget] = {}
        self._events: EventQueue[ReceiveEvent] = EventQueue(self._loop, self._handle_events, self.fail)
        self._zeroing = False
        self._open: set[str] = set()
        """Connections whose ends have not come."""
        self._all_gone = asyncio.Event()
        self._seen_bytes = 0
        self._path = path
        self._unsaid: MultifdError | None = None
        """SHUT 0 could not be written."""
        self._leaving = False
        """The system did not take all of SHUT 0 at once."""

    # -- life

    async def run(self) -> None:
        """Until the machine is in a final state and everything is released."""
        ticker = self._loop.create_task(self._tick())
        try:
            await self._ended.wait()
            if self.error is None:
                await self._source_closes()
        except BaseException:
            self.cancel("the task that ran the destination was cancelled")
            raise
        finally:
            ticker.cancel()
            await to_its_end(self._release())
            self.ended_at = self.now

    def cancel(self, cause: str) -> bool:
        """Call it off; False if it is too late."""
        done = self.session.cancel(cause, self.now)
        self._act()
        return done

    def write_return(self, message: e.ReturnMessage) -> None:
        """Write on the return path. Raises `TransportError`."""
        if self._main is None:
            raise TransportError("the main connection is not there")
        if self._main.backlog > limits.MAIN_BACKLOG_BYTES_MAX:
            raise TransportError("the source does not read its return path")
        self._main.write(serialize_return(message))

    async def _source_closes(self) -> None:
        """After SHUT 0: let the source close first, for a channel that is cut too early is a failure to some."""
        assert self._main is not None
        try:
            async with asyncio.timeout(limits.QEMU_GONE_DEADLINE_S):
                await self._main.drain(0)
                await self._all_gone.wait()
        except TransportError as error:
            if not self._leaving:  # the system had taken it all
                self.session.notes.append(f"{error}, after SHUT 0: ask query-migrate at the source before you end it")
        except TimeoutError:
            pass

    def _check_said(self) -> None:
        """Whether the system took all of SHUT 0."""
        main = self._main
        if self._leaving and main is not None and (main.is_lost or main.backlog):
            self.error = self._in_doubt("main was lost or stood still before the system took all of it")

    def _in_doubt(self, why: object) -> InDoubtError:
        """SHUT 0 was not said, or not all of it, and what became of the source nobody here knows: if it crashed the
        machine that is stored is the only one.
        """
        where = self._path or "the machine"
        return InDoubtError(
            f"SHUT 0 could not be said: {where} is whole and kept; ask query-migrate at the source before one of the "
            f"two runs ({why})"
        )

    async def _release(self) -> None:
        self._check_said()
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._events.close()
        if self._main is not None:
            await self._main.close()  # whatever was said last is read before any channel is cut
        for connection in self._waiting.values():
            connection.abort()
        for number, receiver in self.receivers.items():
            receiver.cancel(orderly=_name(number) not in self._open)
        await self._join({_name(number): receiver.join for number, receiver in self.receivers.items()})
        if self.error is not None and not isinstance(self.error, InDoubtError):
            trouble = await self._calls.abort()
            if trouble:
                self._tell_trouble(trouble)

    # -- for the listener

    def take_main(self, connection: Connection, first: bytes) -> None:
        """Main is there. Raises `RemoteProtocolError` if it was before."""
        if self._main is not None or self.session.final:
            raise RemoteProtocolError("a main connection", "one at a time, and a migration is under way here")
        connection.name = "main"
        self._main = connection
        self.security = connection.security
        self._connected("main")
        self.meter.busy(self.now)
        self._spawn(self._read_main(connection, first))

    def take_channel(self, connection: Connection, handshake: e.Handshake) -> None:
        """A channel is there. Raises `RemoteProtocolError` if it can't be."""
        for number in self.session.handle_channel(handshake, self.now):
            self._waiting.pop(number).abort()
            self._open.discard(_name(number))
        self._waiting[handshake.channel] = connection
        self._connected(_name(handshake.channel))
        self._act()

    def _connected(self, name: str) -> None:
        self._open.add(name)
        self.connected_at = self.connected_at or self.now
        self.session.handle_connected(self.now)

    def _gone(self, name: str) -> None:
        self._open.discard(name)
        if not self._open:
            self._all_gone.set()

    # -- main

    async def _read_main(self, main: Connection, first: bytes) -> None:
        lost: TransportError | None = None
        try:
            await self.reader.run(main, first)
        except TransportError as error:
            lost = error
        except RemoteProtocolError as error:
            self.session.handle_failure(error, self.now)
        self._gone("main")
        self.session.handle_main_ended(lost, self.now)
        self._act()

    def _take(self, element: e.StreamElement, offset: int) -> None:
        self.session.handle_element(element, self.now, offset=offset)
        self._act()

    # -- channels

    def _handle_events(self) -> None:
        now = self.now
        for event in self._events.take():
            if isinstance(event, Synced):
                self.session.handle_synced(event.channel, now, offset=event.offset)
            elif isinstance(event, DeviceStateCame):
                self.session.handle_device_packet(event.channel, event.packet, now, offset=event.offset)
            else:
                self._channel_ended(event)
        self._act()

    def _channel_ended(self, event: ReceiveEnded) -> None:
        """A channel is gone. If it was closed or lost, main may be about to say why: it gets a moment."""
        self._gone(_name(event.channel))
        if event.error is None or isinstance(event.error, TransportError):
            self._loop.call_later(limits.LAST_WORDS_S, self._channel_lost, event)
        else:
            self.session.handle_channel_ended(event.channel, event.error, self.now)

    def _channel_lost(self, event: ReceiveEnded) -> None:
        self.session.handle_channel_ended(event.channel, event.error, self.now)
        self._act()

    @property
    def tally(self) -> ChannelTally:
        """Of all channels."""
        return ChannelTally.total([receiver.tally for receiver in self.receivers.values()])

    # -- what is looked at

    @property
    def received_bytes(self) -> int:
        """On all connections."""
        return self.tally.wire_bytes + self.reader.counts.bytes

    def _look(self) -> None:
        received = self.received_bytes
        if received != self._seen_bytes:
            self.meter.add(received - self._seen_bytes, self.now)
            self._seen_bytes = received
            self.session.handle_progress(self.now)
        if self.session.state in _LIVE and self.flush.is_due(syncs=self.syncs, received=received, now=self.now):
            self._spawn(self.flush.run())

    def snapshot(self) -> Progress:
        """How it stands."""
        return destination_progress(self)

    # -- what to do

    def _act(self) -> None:
        super()._act()
        self.reader.look_again()

    def _finished(self, action: a.Finished) -> None:
        self.error = action.error or self._unsaid
        self._ended.set()

    def _reply(self, action: a.Reply) -> None:
        is_commit = action.message == e.Shut(0)
        try:
            self._hooks.send_return(action.message)
        except MultifdError as error:
            if is_commit:  # the machine takes it for said
                self._unsaid = self._in_doubt(error)
            else:
                self.session.handle_failure(error, self.now)
        else:
            if is_commit and self._main is not None and self._main.is_lost:
                self._unsaid = self._in_doubt("main was lost")
            elif is_commit:
                self._leaving = self._main is not None and self._main.backlog > 0
                self.shut_at = self.now

    def _prepare_blocks(self, action: a.PrepareBlocks) -> None:
        self._spawn(self._prepared(action))

    async def _prepared(self, action: a.PrepareBlocks) -> None:
        what = (action.configuration, action.ram, action.blocks)
        self._blocks = await self._calls.call("can't make room for the blocks", self._target.begin, *what)
        self.prepared_at = self.now
        self.session.handle_prepared(self.now)
        self._act()

    def _start_channels(self, _action: a.StartChannels) -> None:
        assert self.session.configuration is not None
        options = SocketOptions(self.options.congestion_control, self.options.socket_buffer)
        while self._waiting:
            number = min(self._waiting)
            socket = self._waiting.pop(number).detach()
            try:
                socket.tune(options)
            except OSError as error:
                socket.close()
                self.session.handle_failure(as_ours(error, f"options of channel {number}: "), self.now)
                return
            self.receivers[number] = receiver = QemuChannelReceiver(
                number,
                socket,
                blocks=self._blocks,
                page_size=self.session.configuration.page_size,
                compression=self.options.compression,
                hooks=self._hooks,
                events=self._events,
            )
            receiver.start()

    def _zero_ram(self, action: a.ZeroRam) -> None:
        target = self._blocks[action.block]
        if len(action.offsets) <= limits.QEMU_ZERO_NOW_PAGES_MAX:
            target.zero(action.offsets)
            return
        self._zeroing = True
        self._spawn(self._zeroed(target, action.offsets))

    async def _zeroed(self, target: BlockTarget, offsets: e.Offsets) -> None:
        await self._calls.call("can't write zeros", target.zero, offsets)
        self._zeroing = False
        self._act()

    def _write_ram(self, action: a.WriteRam) -> None:
        position = 0
        for view in self._blocks[action.block].place(np.array([action.offset], dtype=np.int64)):
            view[:] = action.data[position : position + len(view)]
            position += len(view)

    def _release_channels(self, action: a.Release) -> None:
        if not action.final:
            self.syncs += 1
            for receiver in self.receivers.values():
                receiver.release()
            return
        for number, receiver in self.receivers.items():
            late = receiver.finish()
            if late is not None:
                self.session.handle_channel_ended(number, late, self.now)

    def _store(self, action: a.Store) -> None:
        self.received_at = self.now
        self.state = action.state
        self._spawn(self._stored(action.state))

    async def _stored(self, state: e.MachineState) -> None:
        await self._calls.call("can't store the machine", self._commit, state)
        self.session.handle_stored(self.now)
        self._act()

    def _commit(self, state: e.MachineState) -> None:
        self._hooks.before_commit()
        self._target.commit(state)

    _DO: ClassVar[dict[type, Callable[[QemuDestinationRun, Any], None]]] = {
        a.PrepareBlocks: _prepare_blocks,
        a.StartChannels: _start_channels,
        a.ZeroRam: _zero_ram,
        a.WriteRam: _write_ram,
        a.Release: _release_channels,
        a.Reply: _reply,
        a.Store: _store,
        a.Finished: _finished,
    }


def _name(channel: int) -> str:
    return f"channel {channel}"
