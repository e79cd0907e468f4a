"""Drives one relay: feeds its machine what happens, and does what it asks for. Everything here is on the loop.

The machine decides (`session.qemu_relay`), `MainGate` says what of main may go on, a worker for each channel passes
packets on; this file connects them and owns their lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from multifd import elements as e
from multifd import limits
from multifd.elements import Handshake
from multifd.engine.connection import Connection
from multifd.engine.events import EventQueue
from multifd.engine.progress import ProgressFeed
from multifd.engine.session_run import SessionRun, to_its_end
from multifd.engine.transport import Address, SocketOptions
from multifd.errors import MultifdError, RemoteProtocolError, TransportError
from multifd.qemu.qmp import Monitor
from multifd.qemu.relay_channel import RelayChannel, RelayChannelEnded
from multifd.qemu.relay_far_end import FarChannel, FarMain
from multifd.qemu.relay_gate import MainGate
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.qemu.report import ChannelTally
from multifd.session import qemu_relay as r
from multifd.session.convergence import RateMeter
from multifd.session.qemu_relay import QemuRelaySession
from multifd.session.qemu_states import RelayState
from multifd.stats import Progress
from multifd.wire.qemu_packet import serialize_handshake
from multifd.wire.qemu_return import ReturnReader, serialize_return

_READ_BYTES = 256 * limits.KIB


Monitors = tuple[Monitor | None, Monitor | None]
"""The source's and the far end's, as far as they are known."""


class Hooks(Protocol):
    """What `QemuRelay` lets a subclass do on the way."""

    def before(self, action: r.RelayAction) -> None:
        """*loop*: this is about to be done."""


class QemuRelayRun(SessionRun):
    """One migration, from the source's first connection to the end at both ends."""

    def __init__(
        self, to: Address, options: QemuRelayOptions, monitors: Monitors, hooks: Hooks, progress: ProgressFeed
    ) -> None:
        self._source, self._far_monitor = monitors
        self.session = QemuRelaySession(
            options.channels, continues=self._far_monitor is not None, asks=self._source is not None
        )
        super().__init__(self.session, progress)
        self.began = self.now
        self.connected_at = self.live_at = self.stopped_at = self.released_at = self.shut_at = self.continued_at = 0.0
        """When the first connection came; the far end was connected; the guest was seen stopped; the far end had
        everything; its SHUT 0 was passed on; the far end's guest ran."""
        self.security = self.out_security = ""
        self.congestion_control = ""
        self.channels: list[RelayChannel] = []
        self.gate = MainGate(description=options.description)
        self.sections: list[tuple[str, int, int]] = []
        self.parts = self.zero_records = 0
        self._to = to
        self._options = options
        self._hooks = hooks
        self._near: Connection | None = None
        self._far: FarMain | None = None
        self._first = b""
        self._handshakes: dict[int, Handshake] = {}
        self._near_channels: dict[int, Connection] = {}
        """Before their workers begin."""
        self._far_channels: dict[int, FarChannel] = {}
        self._events: EventQueue[RelayChannelEnded] = EventQueue(self._loop, self._handle_events, self.fail)
        self._ended_channels: set[int] = set()
        self._all_gone = asyncio.Event()
        self._unblocked = asyncio.Event()
        self.meter = RateMeter()
        self._moved_bytes = 0
        self._moved_on: object = None

    # -- life

    async def run(self) -> None:
        """Until the machine is in a final state and everything is released."""
        ticker = self._loop.create_task(self._tick())
        try:
            await self._ended.wait()
        except BaseException:
            self.cancel("the task that ran the relay was cancelled")
            raise
        finally:
            ticker.cancel()
            await to_its_end(self._release())

    def cancel(self, cause: str) -> bool:
        """Call it off; False if it is too late."""
        done = self.session.cancel(cause, self.now)
        self._act()
        return done

    async def _release(self) -> None:
        """A far end that is not to have the guest goes first: it must not run when the source's does."""
        self._timer.cancel()
        completed = self.session.state is RelayState.COMPLETED
        if self._far is not None and not completed:
            self._far.abort()
        if completed:
            await self._source_closes()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._events.close()
        if self._near is not None:
            await self._near.close()  # whatever was said last is read before any channel is cut
        for connection in self._near_channels.values():
            connection.abort()
        for socket in self._far_channels.values():
            socket.shut()
            socket.close()
        for channel in self.channels:
            channel.cancel(orderly=completed and channel.number in self._ended_channels)
        await self._join({f"channel {channel.number}": channel.join for channel in self.channels})
        if self._far is not None:
            await self._far.close()

    async def _source_closes(self) -> None:
        """Its channels too: one that is cut too early is a failure to some."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.QEMU_GONE_DEADLINE_S):
                await self._all_gone.wait()

    # -- for the listener

    def take_main(self, connection: Connection, first: bytes) -> None:
        """The source's main is there. Raises `RemoteProtocolError` if it was before."""
        self.session.handle_main(self.now)
        connection.name = "the source's main connection"
        self.connected_at = self.connected_at or self.now
        self._near, self._first = connection, first
        self.security = connection.security
        self._act()

    def take_channel(self, connection: Connection, handshake: Handshake) -> None:
        """A channel is there. Raises `RemoteProtocolError` if it can't be."""
        self.session.handle_channel(handshake, self.now)
        self.connected_at = self.connected_at or self.now
        self._near_channels[handshake.channel] = connection
        self._handshakes[handshake.channel] = handshake
        self._act()

    # -- what to do

    def _finished(self, action: r.Finished) -> None:
        self.error = action.error
        self._ended.set()

    def _connect_far(self, action: r.ConnectFar) -> None:
        self._hooks.before(action)
        self._spawn(self._far_connected())

    async def _far_connected(self) -> None:
        """Main first, with bytes at once, then one channel after another: a QEMU may stand still between a connection
        and its first bytes.
        """
        assert self._near is not None
        far = self._far = await self._open_far()
        for element in self.gate.feed(self._first):
            self.session.handle_element(element, self.now)
        far.write(self.gate.take())
        await far.drain(0)
        for number, handshake in sorted(self._handshakes.items()):
            self._far_channels[number] = await self._open_far_channel(number, handshake)
        self.live_at = self.now
        self.session.handle_far_connected(self.now)
        self._spawn(self._pass_main(self._near, far))
        if isinstance(far, Connection):
            self._spawn(self._pass_return(far))
        self._act()

    async def _open_far(self) -> FarMain:
        far = await Connection.connect(self._to, tls=self._options.out_tls)
        far.name = "the far end's main connection"
        self.out_security = far.security
        return far

    async def _open_far_channel(self, number: int, handshake: Handshake) -> FarChannel:
        socket_options = SocketOptions(self._options.congestion_control, self._options.socket_buffer)
        connection = await Connection.connect(self._to, socket_options, self._options.out_tls)
        connection.name = f"channel {number} to the far end"
        try:
            connection.write(serialize_handshake(handshake))
            await connection.drain(0)
            return connection.detach()
        except BaseException:
            connection.abort()
            raise

    def _start_channels(self, action: r.StartChannels) -> None:
        self._hooks.before(action)
        options = SocketOptions(self._options.congestion_control, self._options.socket_buffer)
        compression = self._options.compression, self._options.far_compression
        for number in sorted(self._near_channels):
            near, far = self._near_channels.pop(number).detach(), self._far_channels.pop(number)
            near.tune(options)
            self.congestion_control = far.congestion_control
            channel = RelayChannel(
                number, near, far, page_size=action.page_size, compression=compression, events=self._events
            )
            self.channels.append(channel)
            channel.start()
        self.meter.busy(self.now)

    def _release_main(self, action: r.Release) -> None:
        self._hooks.before(action)
        assert self._far is not None
        self.released_at = self.now
        self._write_far(self._far, self.gate.last())

    def _reply(self, action: r.Reply) -> None:
        self._hooks.before(action)
        assert self._near is not None
        if action.message == e.Shut(0):
            self.shut_at = self.now
        with contextlib.suppress(TransportError):  # whoever reads its main finds out
            self._near.write(serialize_return(action.message))

    def _ask_source(self, action: r.AskSource) -> None:
        self._hooks.before(action)
        self._spawn(self._asked())

    async def _asked(self) -> None:
        assert self._source is not None
        self.session.handle_source_status(await self._source.migration_end(), self.now)
        self._act()

    def _continue_far(self, action: r.ContinueFar) -> None:
        self._hooks.before(action)
        self._spawn(self._continued())

    async def _continued(self) -> None:
        assert self._far_monitor is not None
        if await self._far_monitor.run_state() == "running":
            self.session.notes.append("the far end ran its guest by itself: start it with -S, so that none runs twice")
        await self._far_monitor.run_guest()
        self.continued_at = self.now
        self.session.handle_continued(self.now)
        self._act()

    # -- main and the return path

    async def _pass_main(self, near: Connection, far: FarMain) -> None:
        """Element by element: what may not go on stays in the gate, what the far end does not take in the sockets."""
        try:
            while data := await near.read(_READ_BYTES):
                if not self.session.final:
                    await self._pass_on(data, far)
            self._near_ended(None)
        except TransportError as error:
            self._near_ended(error)
        except RemoteProtocolError as error:
            self.fail(error)

    async def _pass_on(self, data: bytes, far: FarMain) -> None:
        for count, element in enumerate(self.gate.feed(data), start=1):
            if self.session.final:
                return
            self._note(element)
            self.session.handle_element(element, self.now)
            self._act()
            if self.session.main_blocked:
                self._write_far(far, self.gate.take_before_mark())
                await self._until_unblocked()
            elif count % limits.QEMU_TURN_ELEMENTS_MAX == 0:
                await asyncio.sleep(0)
        self._write_far(far, self.gate.take())
        if far.backlog > limits.MAIN_BACKLOG_BYTES_MAX:  # before that the source's end is to be noticed
            with contextlib.suppress(TransportError):
                await far.drain()
        if self.gate.whole and self.session.state is RelayState.STOPPED:
            self.session.handle_main_whole(self.now)
            self._act()

    def _write_far(self, far: FarMain, data: bytes) -> None:
        with contextlib.suppress(TransportError):  # whoever reads its main finds what it said before
            far.write(data)

    async def _until_unblocked(self) -> None:
        self._events.urgent = True
        self._syncs_passed()
        while self.session.main_blocked:
            self._unblocked.clear()
            await self._unblocked.wait()
        self._events.urgent = False

    def _near_ended(self, error: TransportError | None) -> None:
        self.session.handle_near_ended(error, self.now)
        self._act()

    async def _pass_return(self, far: Connection) -> None:
        reader = ReturnReader()
        try:
            while data := await far.read(_READ_BYTES):
                for message in reader.feed(data):
                    self.session.handle_return(message, self.now)
                    self._act()
            reader.end()
            self.session.handle_far_ended(None, self.now)
        except RemoteProtocolError as error:
            self.session.handle_failure(error, self.now)
        except TransportError as error:
            gone = isinstance(error.__cause__, ConnectionError)
            self.session.handle_far_ended(error, self.now, gone=gone)
        self._act()

    # -- channels

    def _handle_events(self) -> None:
        for event in self._events.take():
            self._channel_ended(event)
        self._syncs_passed()
        self._act()

    def _syncs_passed(self) -> None:
        for channel in self.channels:
            self.session.handle_syncs_passed(channel.number, channel.passed.syncs, self.now)
        if not self.session.main_blocked:
            self._unblocked.set()

    def _channel_ended(self, event: RelayChannelEnded) -> None:
        """A channel is gone. If it was closed or lost, one of the mains may be about to say why: it gets a moment."""
        self._ended_channels.add(event.channel)
        if len(self._ended_channels) == len(self.channels):
            self._all_gone.set()
        error = event.error or TransportError(f"the {event.end.value} closed channel {event.channel}")
        if isinstance(error, TransportError):
            self._loop.call_later(limits.LAST_WORDS_S, self._channel_lost, error)
        else:
            self.session.handle_channel_ended(error, self.now)

    def _channel_lost(self, error: MultifdError) -> None:
        self.session.handle_channel_ended(error, self.now)
        self._act()

    # -- what is told

    @property
    def came(self) -> ChannelTally:
        """From the source, on all channels."""
        return ChannelTally.total([channel.came for channel in self.channels])

    @property
    def passed(self) -> ChannelTally:
        """To the far end, on all channels."""
        return ChannelTally.total([channel.passed for channel in self.channels])

    def _note(self, element: e.StreamElement) -> None:
        match element:
            case e.RamBegins(phase=e.Phase.PART):
                self.parts += 1
            case e.RamBegins(phase=e.Phase.END) | e.Command(number=e.CommandNumber.SWITCHOVER_START):
                self.stopped_at = self.stopped_at or self.now
            case e.ZeroRecords(offsets=offsets):
                self.zero_records += len(offsets)
            case e.Section(phase=e.Phase.FULL, header=header, body=body):
                self.sections.append((header.name, header.instance, len(body)))
            case _:
                pass

    def _look(self) -> None:
        moved = self.came.wire_bytes + self.gate.came_bytes
        if moved != self._moved_bytes:
            self.meter.add(moved - self._moved_bytes, self.now)
            self._moved_bytes = moved
        if self.session.wake_at is not None and (movement := self._movement()) != self._moved_on:
            self._moved_on = movement
            self.session.handle_progress(self.now)

    def _movement(self) -> object:
        """Another one whenever bytes have left for the far end, or come for a section that goes on when it is whole."""
        return self.passed.wire_bytes, self.gate.came_bytes - (self._far.backlog if self._far is not None else 0)

    def snapshot(self) -> Progress:
        """How it stands; what it waits for says where the guest is."""
        waits = {
            RelayState.GATHERING: "the source's connections",
            RelayState.CONNECTING: "the far end to be connected",
            RelayState.STOPPED: "the rest of the machine to be passed on",
            RelayState.RELEASED: "the far end's SHUT",
            RelayState.COMMITTED: "the source to be done",
            RelayState.CONTINUING: "the far end's guest to run",
        }
        waiting = waits.get(self.session.state)
        return Progress(
            state=self.session.state.value,
            elapsed_s=self.now - self.began,
            bytes_sent=self.came.wire_bytes,
            bytes_total=sum(block.length for block in self.session.blocks),
            rate=self.meter.rate(self.now) or 0.0,
            waiting_for=(f"{waiting} (guest {self.session.guest})",) if waiting else (),
        )

    _DO: ClassVar[dict[type, Callable[[QemuRelayRun, Any], None]]] = {
        r.ConnectFar: _connect_far,
        r.StartChannels: _start_channels,
        r.Release: _release_main,
        r.Reply: _reply,
        r.AskSource: _ask_source,
        r.ContinueFar: _continue_far,
        r.Finished: _finished,
    }
