"""Drives one destination session: feeds its machine what happens, and does what it asks for. Everything here is on the
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from multifd import limits
from multifd import messages as m
from multifd.device.interface import Device
from multifd.engine.connection import Connection
from multifd.engine.events import EventQueue
from multifd.engine.listener import Listener
from multifd.engine.loader import DeviceLoader, LoadEvent, LoadFailed, LoadProgress, MessageSaid
from multifd.engine.main_stream import MainStream
from multifd.engine.offer import DeviceProvider, Offer, Provider, decide
from multifd.engine.options import DestinationOptions
from multifd.engine.owner import Owner
from multifd.engine.populator import Populator
from multifd.engine.progress import ProgressFeed
from multifd.engine.receiver import ChannelReceiver, Mismatch, ReceiveEnded, ReceiveEvent
from multifd.engine.session_run import SessionRun, as_ours, to_its_end
from multifd.engine.starting import owners, start
from multifd.engine.transport import SocketOptions
from multifd.errors import CalledOffError, Code, MultifdError, TransportError
from multifd.kinds.chunk import ChunkKind
from multifd.kinds.ram import RamKind, ZeroKind
from multifd.memory import Block
from multifd.messages import ANY_CODEC, DEVICE_MESSAGES, EXPLICIT_SWITCHOVER
from multifd.session import actions as a
from multifd.session.destination import DestinationSession
from multifd.session.handshake import fit_text
from multifd.session.plans import DestinationPlan
from multifd.session.states import DestinationState
from multifd.slot import SlotKind
from multifd.stats import Progress


class DestinationRun(SessionRun):
    """One session of a destination. `claim` says whether this session may have the state (one may, at a time)."""

    def __init__(
        self, listener: Listener, main: MainStream, *, blocks: Sequence[Block] | Provider,
        devices: Sequence[Device] | DeviceProvider,
        kinds: Sequence[SlotKind], owner: Owner, options: DestinationOptions, progress: ProgressFeed,
        claim: Callable[[DestinationRun], bool],
    ) -> None:  # fmt: skip
        self.options = options
        self.secret = secrets.token_bytes(16)
        self.decided = asyncio.Event()
        self.task = asyncio.current_task()
        able = [DEVICE_MESSAGES, ANY_CODEC, *([EXPLICIT_SWITCHOVER] if options.explicit_switchover else [])]
        self.session = DestinationSession(
            DestinationPlan(secret=self.secret, features=(*able, *options.codecs), channels_max=options.channels_max)
        )
        super().__init__(self.session, progress)
        self.receivers: list[ChannelReceiver] = []
        self.loaders: list[DeviceLoader] = []
        self.began = self.transfer_began = self.transfer_ended = 0.0
        self.had_state = False
        self.refused_offer = False
        """The source offered what can't be taken here, and not just to ask."""
        self.populated: dict[str, str] = {}
        self._listener = listener
        self.security = main.security
        self._main = main
        self._blocks = blocks
        self._devices = devices
        self._user_kinds = kinds
        self._owner = owner
        self._populator = Populator()
        self._claim = claim
        self._offer: Offer | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._opened = False
        self._events: EventQueue[ReceiveEvent | LoadEvent] = EventQueue(self._loop, self._handle_events, self.fail)
        self._kinds: dict[int, SlotKind] = {}
        self._source_gone = asyncio.Event()
        self._confirmed = False

    # -- life

    async def run(self, hello: m.Hello) -> None:
        """Until the machine is in a final state and everything is released."""
        self.began = self.now
        ticker = self._loop.create_task(self._tick())
        try:
            self._handle_message(hello)
            self._spawn(self._read_main())
            await self._ended.wait()
            if self.session.state is DestinationState.STARTED:
                await self._confirmation()
        except BaseException:
            self.fail(MultifdError("the task that ran the destination was cancelled"))
            while not self._ended.is_set():  # COMMIT was received: the owner is being started, within its deadline
                with contextlib.suppress(asyncio.CancelledError):
                    await self._ended.wait()
            raise
        finally:
            ticker.cancel()
            await to_its_end(self._release())

    def cancel(self, cause: str) -> bool:
        """Call it off; False if it is too late."""
        was_open = not self.session.final
        self.fail(CalledOffError(cause))
        return was_open and self.session.final

    @property
    def explicit(self) -> bool:
        """Whether explicit switchover is in use."""
        return EXPLICIT_SWITCHOVER in self.session.features

    @property
    def codecs(self) -> tuple[str, ...]:
        """Those that slots may have besides none."""
        any_of_ours = ANY_CODEC in self.session.features
        return tuple(name for name in self.options.codecs if any_of_ours or name in self.session.features)

    def snapshot(self) -> Progress:
        """How it stands."""
        received = sum(receiver.received_bytes for receiver in self.receivers)
        elapsed = self.now - self.transfer_began if self.transfer_began else 0.0
        return Progress(
            state=self.session.state.value,
            elapsed_s=self.now - self.began,
            bytes_sent=received,
            bytes_total=sum(block.length for block in self._offer.blocks) if self._offer else 0,
            rate=received / elapsed if elapsed > 0 else 0.0,
            waiting_for=tuple(
                f"device {loader.device.name}: {loader.doing}" for loader in self.loaders if loader.doing != "loaded"
            ),
        )

    async def _confirmation(self) -> None:
        """The source closes main when it has read STARTED."""
        try:
            async with asyncio.timeout(limits.CLOSE_DEADLINE_S):
                await self._source_gone.wait()
        except TimeoutError:
            return

    async def _release(self) -> None:
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._events.close()
        await self._main.close()
        await self._release_undecided()
        for receiver in self.receivers:
            receiver.cancel()
        await self._join(
            {
                **{f"data channel {receiver.number}": receiver.join for receiver in self.receivers},
                "populating memory": self._populator.stop,
                **{f"device {loader.device.name}": loader.stop for loader in self.loaders},
            }
        )
        self.populated = dict(self._populator.got)
        if self._offer is not None:
            await asyncio.to_thread(self._offer.release)
        if self._opened:
            started = self.session.state is DestinationState.STARTED
            self._listener.close_session(self.session.session, confirmed=self._confirmed or not started)

    async def _release_undecided(self) -> None:
        """What was offered and is not taken, also while a helper thread is still deciding on it: it makes no more."""
        if self._offer is not None and not self._opened:
            await asyncio.to_thread(self._offer.release)
        if self._deciding is not None:
            await asyncio.wait({self._deciding}, timeout=limits.CLOSE_DEADLINE_S)
        self._listener.inventories.give_back(self)

    async def _read_main(self) -> None:
        try:
            async for message in self._main.messages():
                self._handle_message(message)
            self._confirmed = self.session.state is DestinationState.STARTED
            self.fail(TransportError("the source closed the main connection"))
        except TransportError as error:
            self.fail(error)
        finally:
            self._source_gone.set()

    @property
    def _is_told(self) -> bool:
        return self.had_state

    def _look(self) -> None:
        if self.had_state:
            self._handle_events()  # counters that moved since the workers' last hint

    # -- for the listener

    def attach(self, channel: int, connection: Connection) -> bool:
        """A data channel of this session has come."""
        if not self.session.may_attach(channel):
            return False
        attached = connection.detach()
        attached.tune(SocketOptions(self.options.congestion_control, self.options.socket_buffer))
        receiver = ChannelReceiver(
            channel,
            attached,
            kinds=self._kinds,
            codecs=self.codecs,
            events=self._events,
        )
        self.receivers.append(receiver)
        self.session.handle_attached(channel, self.now)
        if self.session.state is DestinationState.PRECOPY:
            self._begin_state()
        self._act()
        return True

    def outcome_asked(self) -> None:
        """The source asks on a new connection what became of its COMMIT."""
        self.session.handle_outcome_asked(self.now)
        self._act()

    def _begin_state(self) -> None:
        self.had_state = True
        self.transfer_began = self.now
        if self.options.populate and self._offer is not None:
            self._populator.start(self._offer.blocks)
        self.receivers.sort(key=lambda each: each.number)
        for loader in self.loaders:
            loader.start()
        for receiver in self.receivers:
            receiver.start()

    # -- what happens

    def _handle_message(self, message: m.Message) -> None:
        if isinstance(message, m.StopCopy):
            self._populator.halt()
        if isinstance(message, m.Inventory) and not self._has_room_for(message):
            return
        try:
            self.session.handle_message(message, self.now)
        except MultifdError as error:
            self.session.handle_failure(error, self.now)
        self._act()
        if self.session.awaits_counts:  # what is settled and not yet looked at may be all that it waits for
            self._handle_events()

    def _has_room_for(self, page: m.Inventory) -> bool:
        """Refuses the session if there is none."""
        if self.session.state is not DestinationState.INVENTORY or self._listener.inventories.take(self, page):
            return True
        cause = "too much is offered at the moment, by others among them"
        self.session.handle_decision([m.Refusal(m.What.SESSION, "INVENTORY", Code.BUSY, cause)], (), self.now)
        self._act()
        return False

    def _handle_events(self) -> None:
        now = self.now
        counts = [
            receiver.settled for receiver in self.receivers
        ]  # before the events: mismatches among them come first
        progress: dict[tuple[int, int], LoadProgress] = {}  # the newest of each device and epoch
        for event in self._events.take():
            if isinstance(event, Mismatch):
                self.session.handle_mismatch(event.channel, event.sequence, live=event.live, now=now)
            elif isinstance(event, LoadProgress):
                progress[event.status.device, event.status.epoch] = event
            elif isinstance(event, MessageSaid):
                self.session.handle_said(event.device, event.data)
            elif isinstance(event, LoadFailed):
                self.session.handle_failure(event.error, now)
            else:
                self._channel_ended(event)
        try:
            for each in progress.values():
                self.session.handle_device_status(
                    each.status, chunks=each.chunks, complete=each.complete, credit=each.credit, now=now
                )
            if self.had_state:
                self.session.handle_settled(counts, now)
        except MultifdError as error:
            self.session.handle_failure(error, now)
        self._act()

    def _channel_ended(self, event: ReceiveEnded) -> None:
        """A channel is gone. If it was lost, main may be about to say why: it gets a moment."""
        if event.error is not None and not isinstance(event.error, TransportError):
            error = event.error if isinstance(event.error, MultifdError) else MultifdError(repr(event.error))
            self.session.handle_failure(error, self.now)
            return
        lost = event.error or TransportError(f"data channel {event.channel} ended before the session did")
        self._loop.call_later(limits.LAST_WORDS_S, self._lost, lost)

    def _lost(self, error: MultifdError) -> None:
        if self.session.state not in (DestinationState.LOADED, DestinationState.STARTING):
            self.session.handle_failure(error, self.now)
            self._act()

    # -- what to do

    def _act(self) -> None:
        super()._act()
        self._events.urgent = self.session.awaits_counts

    def _send(self, action: a.Send) -> None:
        try:
            self._main.send(action.message)
        except MultifdError as error:
            self.session.handle_failure(error, self.now)

    def _finished(self, action: a.Finished) -> None:
        self.error = action.error
        if self._opened and self.session.state is not DestinationState.STARTED:
            self._listener.decide(self.session.session, m.Fate.ABORTED, fit_text(str(action.error)))
        self.decided.set()
        self._ended.set()

    def _decide(self, action: a.Decide) -> None:
        self._spawn(self._decided(action))

    async def _decided(self, action: a.Decide) -> None:
        self._offer = offer = Offer()
        work = asyncio.to_thread(
            decide, offer, action, blocks=self._blocks, devices=self._devices, kinds=self._user_kinds
        )
        self._deciding = self._loop.create_task(work)  # a thread can't be cancelled: `_release_undecided` waits for it
        await asyncio.shield(self._deciding)
        refusals, verdicts = offer.verdict(explicit=self.explicit, credit=self.options.device_credit)
        self.refused_offer = bool(refusals) and not action.preflight
        if not refusals and not action.preflight:
            if not self._claim(self):
                refusals = [m.Refusal(m.What.SESSION, "destination", Code.BUSY, "another migration is under way here")]
            elif not self._listener.open_session(self.session.session, self):
                refusals = [m.Refusal(m.What.SESSION, "session id", Code.REFUSED, "it was used before")]
            else:
                self._opened = True
                self._listener.inventories.give_back(self)
                self._accept(offer, action.kinds)
        self.session.handle_decision(refusals, verdicts, self.now)
        self._act()

    def _accept(self, offer: Offer, kinds: Sequence[m.KindInfo]) -> None:
        messages = DEVICE_MESSAGES in self.session.features
        self.loaders = [
            DeviceLoader(n, device, credit=self.options.device_credit, events=self._events, messages=messages)
            for n, device in enumerate(offer.devices, start=1)
        ]
        sinks = {loader.number: loader for loader in self.loaders}
        built_in = (RamKind(offer.blocks), ZeroKind(offer.blocks), ChunkKind(sinks))
        by_name: Mapping[str, SlotKind] = {kind.name: kind for kind in (*built_in, *self._user_kinds)}
        self._kinds = {number: by_name[kind.name] for number, kind in enumerate(kinds, start=1)}

    def _prepare(self, _action: a.Prepare) -> None:
        self.transfer_ended = self.now
        self._spawn(self._prepared())

    async def _prepared(self) -> None:
        began = self.now
        await owners(self._owner.prepare(), "prepare")
        self.session.handle_prepared({"prepare": self.now - began}, self.now)
        self._act()

    def _heard(self, action: a.Heard) -> None:
        self.loaders[action.device - 1].handle_heard(action.count)

    def _start_owner(self, _action: a.StartOwner) -> None:
        self._starting = self._loop.create_task(self._started())

    async def _started(self) -> None:
        """After COMMIT: nothing stops this but its own failure."""
        try:
            parts = await start(self.loaders, self._owner)
        except Exception as error:
            self.session.handle_start_failed(as_ours(error), self.now)
        else:
            self._listener.decide(self.session.session, m.Fate.STARTED, "")
            self.session.handle_owner_started(parts, self.now)
        self._act()

    _DO: ClassVar[dict[type, Callable[[DestinationRun, Any], None]]] = {
        a.Send: _send,
        a.Finished: _finished,
        a.Decide: _decide,
        a.Prepare: _prepare,
        a.StartOwner: _start_owner,
        a.Heard: _heard,
    }
