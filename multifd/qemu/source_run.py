"""Drives one session of a source to a QEMU: feeds its machine what happens, and does what it asks for. Everything here
is on the loop.

The machine decides (`session.qemu_source`), a worker for each channel sends pages, `MainWriter` writes main; this file
connects them and owns their lives.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, ClassVar

from multifd import limits
from multifd.elements import Handshake, ZeroPages
from multifd.engine.connection import Connection
from multifd.engine.events import EventQueue
from multifd.engine.progress import ProgressFeed
from multifd.engine.session_run import SessionRun, as_ours, to_its_end
from multifd.engine.transport import Address, SocketOptions
from multifd.errors import (
    DeadlineError,
    InDoubtError,
    MultifdError,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from multifd.qemu.channel_sender import (
    ChannelEvent,
    ChannelFailed,
    PacketNumbers,
    PageQueue,
    QemuChannelSender,
    Sync,
)
from multifd.qemu.main_writer import MainWriter
from multifd.qemu.origin import MachineOrigin
from multifd.qemu.packets import PageRun, Pages, packets, zero_records
from multifd.qemu.report import ChannelTally
from multifd.qemu.source_options import QemuSourceOptions
from multifd.session import qemu_actions as a
from multifd.session.convergence import RateMeter
from multifd.session.qemu_source import QemuSourceSession, SourceRules
from multifd.session.qemu_states import QemuSourceState
from multifd.stats import Progress
from multifd.wire.qemu_description import described_sections
from multifd.wire.qemu_packet import serialize_handshake
from multifd.wire.qemu_return import ReturnReader

_READ_BYTES = 64 * limits.KIB
_LONG_S = 1.0
"""A wait that is longer than this is worth a word."""


class QemuSourceRun(SessionRun):
    """One session of a source, from connecting to its end. Raises `StorageError` for a machine that is not whole,
    `LocalProtocolError` for options that can't be.
    """

    def __init__(
        self, address: Address, origin: MachineOrigin, options: QemuSourceOptions, progress: ProgressFeed
    ) -> None:
        rules = SourceRules(
            channels=options.channels,
            sync=options.sync,
            zero_pages=options.zero_pages,
            shut_deadline_s=options.shut_deadline_s,
        )
        self.session = QemuSourceSession(origin.state, rules, described_sections)
        super().__init__(self.session, progress)
        self.began = self.transfer_began = self.transfer_ended = 0.0
        self.senders: list[QemuChannelSender] = []
        self.syncs = 0
        self.security = "plain"
        self.congestion_control = ""
        self.prepare_s = 0.0
        """What `MachineOrigin.prepare` took, before `began`."""
        self._address = address
        self._origin = origin
        self._options = options
        self._page_size = origin.state.configuration.page_size
        self._has_description = origin.state.description is not None
        found = {block.name: origin.contents(block.name) for block in origin.state.blocks}
        self._blocks = {name: contents for name, contents in found.items() if contents is not None}
        self.without_ram = len(self._blocks) < len(found)
        self._present_bytes = sum(int(each.present.sum()) for each in self._blocks.values()) * self._page_size
        self._events: EventQueue[ChannelEvent] = EventQueue(self._loop, self._handle_events, self.fail)
        self._main: Connection | None = None
        self.writer: MainWriter | None = None
        self._under_way = 0
        """Parts of a SendPages or SyncChannels that are not done: one a channel, and one for zero pages on main."""
        self._then: Callable[[float], None] | None = None
        """What the machine is told when nothing is under way any more."""
        self._opened_at: float | None = None
        self._meter = RateMeter()
        self._moved_bytes = 0

    # -- life

    async def run(self) -> None:
        """Until the machine is in a final state and everything is released."""
        began = self.began = self.now
        ticker = self._loop.create_task(self._tick())
        try:
            await asyncio.to_thread(self._origin.prepare, lambda: not self._ended.is_set())
            self.began = self.now
            self.prepare_s = self.began - began
            if not self._ended.is_set():  # called off meanwhile
                await self._connect()
            await self._ended.wait()
        except BaseException:
            self.cancel("the task that ran the migration was cancelled")
            raise
        finally:
            ticker.cancel()
            await to_its_end(self._release())

    def cancel(self, cause: str) -> bool:
        """Call it off; False if it is too late."""
        done = self.session.cancel(cause, self.now)
        self._act()
        return done

    async def _connect(self) -> None:
        try:
            main = self._main = await Connection.connect(self._address, tls=self._options.tls)
        except MultifdError as error:
            self.fail(error)
            return
        if self._ended.is_set():  # called off meanwhile
            return
        main.name = "the main connection"
        self.security = main.security
        self.writer = MainWriter(main)
        self._spawn(self._write_main(self.writer))
        self._spawn(self._read_main(main))
        self.session.start(self.now)
        self._act()

    async def _release(self) -> None:
        completed = self.session.state is QemuSourceState.COMPLETED
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self.senders:
            sender.cancel(orderly=completed)
        self._events.close()
        await self._join({f"channel {sender.number}": sender.join for sender in self.senders})
        if self._main is None:
            return
        if completed:
            await self._main.close()
        self._main.abort()  # what is left is not to arrive: a destination that has not seen the end must fail

    async def _read_main(self, main: Connection) -> None:
        reader = ReturnReader()
        ended: MultifdError | None = None
        try:
            while data := await main.read(_READ_BYTES):
                for message in reader.feed(data):
                    self.session.handle_return(message, self.now)
                    self._act()
            reader.end()
        except RemoteProtocolError as error:
            self.fail(error)
            return
        except TransportError as error:
            ended = error
        self.session.handle_main_ended(ended, self.now)
        self._act()

    async def _write_main(self, writer: MainWriter) -> None:
        try:
            await writer.run()
        except TransportError:
            return  # the one who reads main finds what the destination said before

    # -- what happens

    def _handle_events(self) -> None:
        for event in self._events.take():
            if isinstance(event, ChannelFailed):
                self._channel_lost(event)
            else:
                self._one_done()

    def _channel_lost(self, event: ChannelFailed) -> None:
        """A channel's worker ended. If its connection was lost, main may be about to say why: it gets a moment."""
        where = f"channel {event.channel}: "
        if isinstance(event.error, OSError) and event.error.errno == errno.EFAULT:  # of a mapped file
            self.fail(StorageError(f"{where}memory that was to be sent is gone: its file was cut short meanwhile"))
            return
        error = as_ours(event.error, where)
        if isinstance(error, TransportError):
            told = TransportError(f"{error}; the destination has probably refused the machine: its stderr says why")
            self._loop.call_later(limits.LAST_WORDS_S, self.fail, told)
        else:
            self.fail(error)

    def _one_done(self) -> None:
        self._under_way -= 1
        if self._under_way == 0 and self._then is not None:
            then, self._then = self._then, None
            then(self.now)
            self._act()

    # -- what to do

    def _finished(self, action: a.Finished) -> None:
        self.error = action.error
        self._ended.set()

    def _write(self, action: a.Write) -> None:
        assert self.writer is not None
        self.writer.put(action.elements, self._all_sent if action.last else None)

    def _all_sent(self) -> None:
        self.session.handle_all_sent(self.now)

    def _open_channels(self, action: a.OpenChannels) -> None:
        self._spawn(self._opened(action))

    async def _opened(self, action: a.OpenChannels) -> None:
        """One after another, each with its handshake at once: a destination may stand still between the two."""
        options = SocketOptions(self._options.congestion_control, self._options.socket_buffer)
        numbers = PacketNumbers()
        for number in range(action.count):
            connection = await Connection.connect(self._address, options, self._options.tls)
            connection.name = f"channel {number}"
            try:
                connection.write(serialize_handshake(Handshake(action.uuid, number)))
                await connection.drain(0)
                socket = connection.detach()
            except BaseException:
                connection.abort()
                raise
            self.senders.append(
                QemuChannelSender(
                    number,
                    socket,
                    page_size=self._page_size,
                    compression=self._options.compression,
                    numbers=numbers,
                    events=self._events,
                )
            )
        self.congestion_control = self.senders[0].congestion_control
        for sender in self.senders:
            sender.start()
        self._opened_at = self.now
        self.session.handle_opened(self.now)
        self._act()

    def _send_pages(self, action: a.SendPages) -> None:
        assert self.writer is not None
        self.transfer_began = self.now
        self._meter.busy(self.now)
        queue = PageQueue(self._pages(action.zero_pages))
        self._begin(len(self.senders) + 1, self.session.handle_pages_sent)
        for sender in self.senders:
            sender.put(queue)
        on_main = self._blocks.items() if action.zero_pages is ZeroPages.LEGACY else ()
        records = (zero_records(name, block.present, self._page_size) for name, block in on_main)
        self.writer.put(chain.from_iterable(records), self._one_done)

    def _pages(self, zero_pages: ZeroPages) -> Iterator[Pages | PageRun]:
        for name, block in self._blocks.items():
            yield from packets(name, block, self._page_size, zero_pages)

    def _sync_channels(self, _action: a.SyncChannels) -> None:
        self._begin(len(self.senders), self._synced)
        for sender in self.senders:
            sender.put(Sync())

    def _synced(self, now: float) -> None:
        self.transfer_ended = now
        self.syncs += 1
        self.session.handle_sync_sent(now)

    def _begin(self, parts: int, then: Callable[[float], None]) -> None:
        assert not self._under_way
        self._under_way = parts
        self._then = then

    # -- what is told

    @property
    def tally(self) -> ChannelTally:
        """Of all channels."""
        return ChannelTally.total([sender.tally for sender in self.senders])

    def _look(self) -> None:
        moved = self.tally.wire_bytes + (self.writer.sent_bytes if self.writer is not None else 0)
        if moved != self._moved_bytes:
            self._meter.add(moved - self._moved_bytes, self.now)
            self._moved_bytes = moved
            self.session.handle_progress(self.now)
        self._check_begun()

    def _check_begun(self) -> None:
        """A small machine fits into the sockets' buffers: that all is sent does not say that anybody reads."""
        if self._opened_at is None or self.session.pongs or self.session.final:
            return
        if self.now > self._opened_at + limits.QEMU_PONG_DEADLINE_S:
            self.fail(DeadlineError("PONG, the first sign that the destination reads", limits.QEMU_PONG_DEADLINE_S))

    @property
    def hint(self) -> str:
        """What to look at after a wait that ended in vain, or a connection that was lost; empty if it is not that."""
        options = self._options
        error = self.error.__cause__ if isinstance(self.error, InDoubtError) else self.error
        if self._opened_at is None or not isinstance(error, DeadlineError | TransportError):
            return ""
        if isinstance(error, TransportError):
            words = options.compression.name.lower()
            return f"here multifd-channels is {options.channels}, multifd-compression {words}"
        return self._question()

    def _question(self) -> str:
        """What to look at while the destination does not go on."""
        options = self._options
        if not self.session.pongs:
            return (
                "it begins only when all of its channels are there: is its multifd-channels more than "
                f"{options.channels}, or multifd off?"
            )
        return (
            f"is its multifd-compression {options.compression.name.lower()}? does its machine type mark sync points "
            f"{self.session.sync.value}? has it suppress-vmdesc={'off' if self._has_description else 'on'}?"
        )

    def snapshot(self) -> Progress:
        """How it stands."""
        tally = self.tally
        sent = tally.normal_pages * self._page_size
        return Progress(
            state=self.session.state.value,
            elapsed_s=self.now - self.began,
            round=1 if self.transfer_began else 0,
            bytes_sent=tally.wire_bytes,
            bytes_total=sum(len(block.view) for block in self._blocks.values()),
            bytes_left=max(0, self._present_bytes - sent),
            rate=self._meter.rate(self.now) or 0.0,
            waiting_for=self._waiting_for(),
        )

    def _waiting_for(self) -> tuple[str, ...]:
        waits = self.session.waiting_for(_LONG_S, self.now)
        stuck = waits and self._opened_at is not None and self.session.state is not QemuSourceState.WAITING
        return (*waits, self._question()) if stuck else waits

    _DO: ClassVar[dict[type, Callable[[QemuSourceRun, Any], None]]] = {
        a.Write: _write,
        a.OpenChannels: _open_channels,
        a.SendPages: _send_pages,
        a.SyncChannels: _sync_channels,
        a.Finished: _finished,
    }
