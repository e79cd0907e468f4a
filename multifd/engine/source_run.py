"""Drives one source session: feeds its machine what happens, and does what it asks for. Everything here is on the loop.

The machine decides (`session.source`), the dispatcher fills channels, savers save devices; this file connects them and
owns their lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, cast

from multifd import limits
from multifd import messages as m
from multifd.device.interface import Device
from multifd.engine.dispatch import Dispatcher
from multifd.engine.downtime import DowntimeClock
from multifd.engine.events import EventQueue
from multifd.engine.main_stream import MainStream
from multifd.engine.opening import open_channels
from multifd.engine.options import SourceOptions
from multifd.engine.outcome import ask_outcome
from multifd.engine.owner import Owner
from multifd.engine.progress import ProgressFeed
from multifd.engine.saver import ChunkSaved, DeviceSaver, MessageHeard, Rearmed, SaveEvent, SaveFailed
from multifd.engine.sender import JobDone, SendEvent, SendFailed
from multifd.engine.session_run import SessionRun, as_ours, to_its_end, wait_out
from multifd.engine.starting import owners
from multifd.engine.survey import Surveyor
from multifd.engine.switch import Switch
from multifd.engine.transport import Address
from multifd.errors import DeadlineError, MultifdError, OwnerError, RemoteProtocolError, TransportError
from multifd.kinds.chunk import NAME as CHUNK
from multifd.session import actions as a
from multifd.session.convergence import Situation
from multifd.session.plans import SourcePlan
from multifd.session.source import SourceSession
from multifd.session.states import SourceState
from multifd.slot import Feed, Slot
from multifd.stats import Progress
from multifd.wire.preamble import MAIN_PREAMBLE

_RUNS_ON = frozenset({SourceState.FAILED, SourceState.CANCELLED, SourceState.REFUSED, SourceState.PREFLIGHTED})


def device_flow(number: int) -> str:
    """The flow of one device: a class of its own for the scheduler, so that devices share fairly."""
    return f"{CHUNK}:{number}"


class SourceRun(SessionRun):
    """One session of a source, from HELLO to its end."""

    def __init__(
        self, address: Address, plan: SourcePlan, *, feeds: Sequence[Feed], devices: Sequence[Device], owner: Owner,
        options: SourceOptions, progress: ProgressFeed,
    ) -> None:  # fmt: skip
        self.session = SourceSession(plan)
        super().__init__(self.session, progress)
        self.dispatcher = Dispatcher(bandwidth_limit=options.bandwidth_limit)
        self.downtime = DowntimeClock()
        self.began = self.transfer_began = self.transfer_ended = 0.0
        self.mismatches = 0
        self.congestion_control = self.security = ""
        self._address = address
        self._feeds = {feed.name: feed for feed in feeds}
        self._flow_of_kind = {kind: feed.name for feed in feeds for kind in feed.kinds}
        self._options = options
        self._events: EventQueue[SendEvent | SaveEvent] = EventQueue(self._loop, self._handle_events, self.fail)
        self.savers = [DeviceSaver(n, device, self._events) for n, device in enumerate(devices, start=1)]
        self._main: MainStream | None = None
        self._pools = {name: ThreadPoolExecutor(1, thread_name_prefix=f"multifd-pool-{name}") for name in self._feeds}
        """One thread a feed: its calls never overlap, not even with one that nobody waits for any more."""
        self._owner = owner
        self._switch = Switch(owner, self.savers, self.downtime)
        self.surveyor = Surveyor(self.session, self._feeds, self._pools, self.savers, options)
        self._owner_task: asyncio.Task[None] | None = None
        """The owner's last stop, start or throttling: the next one waits for it."""
        self._throttling: asyncio.Task[None] | None = None
        self._rounds: dict[str, int] = {}
        """Flow → bytes sent when its running round began."""
        self._collecting: set[str] = set()
        self._pages: list[m.Inventory] = []
        self._stop_copies_left: int | None = None
        self._end_resends: int | None = None
        self._asking: asyncio.Task[None] | None = None

    # -- life

    async def run(self) -> None:
        """Until the machine is in a final state or in doubt, and everything is released."""
        self.began = self.now
        ticker = self._loop.create_task(self._tick())
        try:
            await self._connect()
            await self._ended.wait()
        except BaseException:
            self.cancel("the task that ran the migration was cancelled")
            while not self._ended.is_set():  # after COMMIT: deadlines bound how long it takes to know
                with contextlib.suppress(asyncio.CancelledError):
                    await self._ended.wait()
            raise
        finally:
            ticker.cancel()
            await to_its_end(self._release())

    async def continue_in_doubt(self, step: Callable[[], None]) -> None:
        """In doubt: have the machine take a step (ask again, or the operator's word), until it is final or in doubt
        again: in doubt as well if the task that waits is cancelled before there is an answer.
        """
        self._ended.clear()
        step()
        self._act()
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            await to_its_end(self._stop_asking())
            raise
        finally:
            await to_its_end(self._settle())

    async def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        self.session.handle_no_answer("the task that asked was cancelled", self.now)
        self._act()

    async def _settle(self) -> None:
        await self._finish_owner()
        if self.session.state is not SourceState.IN_DOUBT:  # the devices may have to run on here yet
            await self._stop_savers()

    def cancel(self, cause: str) -> bool:
        """Call it off; False if it is too late."""
        done = self.session.cancel(cause, self.now)
        self._act()
        return done

    async def _connect(self) -> None:
        try:
            self._main = await MainStream.open(self._address, MAIN_PREAMBLE, self._options.tls)
            self.security = self._main.security
        except MultifdError as error:
            self.session.handle_failure(error, self.now)
            self._act()
            return
        if self._ended.is_set():  # called off meanwhile
            return
        self.session.start(self.now)
        self._act()
        self._spawn(self._read_main(self._main))

    async def _release(self) -> None:
        await self._finish_owner()
        self._timer.cancel()
        tasks = [*self._tasks, *([self._asking] if self._asking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sender in self.dispatcher.senders:
            sender.cancel(orderly=self.session.state is SourceState.COMPLETED)
        self._events.close()
        await self._join({f"data channel {sender.number}": sender.join for sender in self.dispatcher.senders})
        if self.session.state is not SourceState.IN_DOUBT:
            await self._stop_savers()
        if self._main is not None:
            await self._main.close()
        await asyncio.gather(*(self._close_feed(name) for name in self._feeds))

    async def _stop_savers(self) -> None:
        await self._join({f"device {saver.device.name}": saver.stop for saver in self.savers})

    async def _close_feed(self, name: str) -> None:
        """Its last call, and the end of its thread, whatever comes of the call."""
        closing = self._loop.run_in_executor(self._pools[name], self._feeds[name].close)
        await asyncio.wait({closing}, timeout=limits.CLOSE_DEADLINE_S)
        if not closing.done():
            closing.cancel()
            self._tell_trouble(f"feed {name} did not let go of its thread")
        elif (error := closing.exception()) is not None:
            self._tell_trouble(f"feed {name} could not be closed: {type(error).__name__}: {error}")
        self._pools[name].shutdown(wait=False, cancel_futures=True)

    async def _finish_owner(self) -> None:
        """Let the owner's last stop or start end; the devices of a migration that was called off run on."""
        if self._throttling is not None:
            self._throttling.cancel()
        if self._owner_task is not None:
            await asyncio.gather(self._owner_task, return_exceptions=True)
        if self.session.state in _RUNS_ON:
            await self._switch.call_off()
        while self._switch.troubles:
            self._tell_trouble(self._switch.troubles.pop(0))

    async def _read_main(self, main: MainStream) -> None:
        try:
            async for message in main.messages():
                self._handle_message(message)
            raise TransportError(f"the destination closed the main connection{main.why_ended}")
        except MultifdError as error:
            self.fail(error)

    def snapshot(self) -> Progress:
        """How it stands."""
        session, decision, situation = self.session, self.session.decision, self.surveyor.last
        now = self.now
        return Progress(
            state=session.state.value,
            elapsed_s=now - self.began,
            round=session.round,
            bytes_sent=self.dispatcher.sent_bytes,
            bytes_total=sum(block.length for block in session.plan.blocks),
            bytes_left=self._bytes_left(situation),
            rate=self.dispatcher.rate(now) or 0.0,
            expected_downtime_s=decision.expected_downtime_s if decision else None,
            waiting_for=session.waiting_for,
        )

    def _bytes_left(self, situation: Situation | None) -> int:
        if situation is None:
            return max(0, sum(block.length for block in self.session.plan.blocks) - self.dispatcher.sent_bytes)
        return sum(feed.pending_bytes for feed in situation.feeds) + sum(device.bytes for device in situation.devices)

    # -- what happens

    def _handle_message(self, message: m.Message) -> None:
        now = self.now
        self.session.handle_message(message, now)
        if isinstance(message, m.Settled):
            self.dispatcher.settle(message.counts, now)
        elif isinstance(message, m.Loaded):
            self.downtime.mark("load", now)
        elif isinstance(message, m.Started):
            self.downtime.end("start", now)
        self._act()

    def _handle_events(self) -> None:
        now = self.now
        for event in self._events.take():
            if isinstance(event, JobDone):
                self.dispatcher.handle_done(event)
            elif isinstance(event, ChunkSaved):
                self.dispatcher.put(device_flow(event.device), iter((event.slot,)), now)
            elif isinstance(event, Rearmed):
                self.session.handle_rearm(event.device, now)
            elif isinstance(event, MessageHeard):
                self.session.handle_heard(event.device)
            elif isinstance(event, SaveFailed):
                self.session.handle_failure(event.error, now)
            else:
                self._channel_lost(event)
        self._advance()
        self._act()

    def _channel_lost(self, event: SendFailed) -> None:
        """A channel's worker ended. If its connection was lost, main may be about to say why: it gets a moment."""
        error = as_ours(event.error, f"data channel {event.channel}: ")
        if isinstance(error, TransportError):
            self._loop.call_later(limits.LAST_WORDS_S, self.fail, error)
        else:
            self.session.handle_failure(error, self.now)

    def _advance(self) -> None:
        """After work left for the sockets: more work, ends of rounds, the end of all."""
        now = self.now
        self.dispatcher.pump(now)
        self.session.handle_sent(sum(self.dispatcher.counts), now)
        for flow in [flow for flow in self._rounds if flow not in self._collecting and self.dispatcher.is_dry(flow)]:
            began_bytes = self._rounds.pop(flow)
            self.session.handle_round_sent(flow, self.dispatcher.counts, self.dispatcher.sent_bytes - began_bytes)
        if self._stop_copies_left == 0 and not self._rounds and self.dispatcher.all_dry:
            self._all_sent(now)

    def _all_sent(self, now: float) -> None:
        if self._end_resends == self.session.resends:
            return
        if self._end_resends is None:
            self.downtime.mark("stop_copy", now)
            self.transfer_ended = now
        self._end_resends = self.session.resends
        chunks = {saver.number: saver.chunks for saver in self.savers}
        self.session.handle_all_sent(self.dispatcher.counts, chunks, now)

    # -- what to do

    def _wake_at(self) -> float | None:
        return min((at for at in (self.session.wake_at, self.dispatcher.wake_at) if at is not None), default=None)

    def _look(self) -> None:
        self._advance()

    def _send(self, action: a.Send) -> None:
        if self._main is None:
            return
        if isinstance(action.message, m.Inventory):
            self._pages.append(action.message)
            if len(self._pages) == action.message.pages:
                self._spawn(self._send_pages(self._main))
            return
        try:
            self._main.send(action.message)
        except MultifdError as error:
            self.session.handle_failure(error, self.now)

    async def _send_pages(self, main: MainStream) -> None:
        """INVENTORY: it may be larger than what may pile up on main."""
        pages, self._pages = self._pages, []
        for page in pages:
            await main.send_when_read(page)

    def _finished(self, action: a.Finished) -> None:
        self.error = action.error
        self._ended.set()

    def _open_channels(self, action: a.OpenChannels) -> None:
        self._spawn(self._opened(action))

    async def _opened(self, action: a.OpenChannels) -> None:
        # before the last channel attaches: ATTACHED may come as soon as it has
        for feed in self._feeds.values():
            self.dispatcher.add_flow(feed.name, feed.weight, feed.expand)
        for saver in self.savers:
            self.dispatcher.add_flow(device_flow(saver.number), 1, lambda work: iter((cast(Slot, work),)))
            saver.start()
        kinds = {kind.name: number for number, kind in enumerate(self.session.plan.kinds, start=1)}
        await open_channels(
            self._address, action, options=self._options, kinds=kinds, codecs=self.session.able, events=self._events,
            opened=self.dispatcher.senders.append,
        )  # fmt: skip
        self.dispatcher.senders.sort(key=lambda sender: sender.number)
        self.congestion_control = self.dispatcher.senders[0].congestion_control
        for sender in self.dispatcher.senders:
            sender.start()
        self.transfer_began = self.now

    def _begin_round(self, action: a.BeginRound) -> None:
        self._rounds[action.class_name] = self.dispatcher.sent_bytes
        if action.sweep:
            self._collecting.add(action.class_name)
            self._spawn(self._collect(action))
        else:
            self._advance()  # what is sent again may have left already

    async def _collect(self, action: a.BeginRound) -> None:
        feed = self._feeds[action.class_name]
        work = await self._loop.run_in_executor(self._pools[feed.name], lambda: feed.collect(live=action.live))
        self._collecting.discard(feed.name)
        self.dispatcher.put(feed.name, iter(work), self.now)
        self._advance()
        self._act()

    def _save_initial(self, action: a.SaveInitial) -> None:
        self.savers[action.device - 1].save_initial(action.epoch)

    def _grant_credit(self, action: a.GrantCredit) -> None:
        self.savers[action.device - 1].grant(action.bytes)

    def _survey(self, _action: a.Survey) -> None:
        self._spawn(self._surveyed())

    async def _surveyed(self) -> None:
        situation = await self.surveyor.look(self.dispatcher.rate(self.now), self.dispatcher.debt_s(self.now))
        self.session.handle_survey(situation, self.now)
        self._advance()
        self._act()

    def _throttle(self, action: a.Throttle) -> None:
        self._owner_task = self._throttling = self._loop.create_task(
            self._guard(self._throttled(self._owner_task, action.level))
        )

    async def _throttled(self, before: asyncio.Task[None] | None, level: float) -> None:
        if before is not None:
            await wait_out(before)
        await self._switch.throttle(level)

    def _stop_owner(self, _action: a.StopOwner) -> None:
        self._owner_task = self._loop.create_task(self._guard(self._stopped(self._owner_task)))

    async def _stopped(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await wait_out(before)  # a start is not broken off, also if this stop is called off meanwhile
        rearmed = await self._switch.stop()
        self.session.handle_owner_stopped(rearmed, self.now)
        self._act()
        self._advance()  # without feeds and devices nothing else would find that all is sent
        self._act()

    def _start_owner(self, _action: a.StartOwner) -> None:
        self._owner_task = self._loop.create_task(self._started_again(self._owner_task))

    async def _started_again(self, before: asyncio.Task[None] | None) -> None:
        """The switchover is called off, at whatever point it was."""
        back = self.session.state is SourceState.PRECOPY
        if self._throttling is not None:
            self._throttling.cancel()
        if before is not None:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        if not back:
            await self._switch.call_off()
            return
        try:
            await self._switch.back_to_precopy()
        except OwnerError as error:
            if self._ended.is_set():
                self._switch.troubles.append(str(error))
            self.fail(error)

    def _save_stop_copy(self, _action: a.SaveStopCopy) -> None:
        self._stop_copies_left = len(self.savers)
        for saver in self.savers:
            self._spawn(self._stop_copied(saver))

    async def _stop_copied(self, saver: DeviceSaver) -> None:
        """It may take its time, but not stand still."""
        saving = self._loop.create_task(saver.save_stop_copy())
        try:
            done = self._done_by(saver)
            while not (await asyncio.wait({saving}, timeout=limits.STALL_DEADLINE_S))[0]:
                before, done = done, self._done_by(saver)
                if done == before:
                    what = f"device {saver.device.name} to save its stop-copy (at the destination: {done[2]})"
                    raise DeadlineError(what, limits.STALL_DEADLINE_S)
            await saving
        finally:
            saving.cancel()
        assert self._stop_copies_left is not None
        self._stop_copies_left -= 1
        self._handle_events()

    def _done_by(self, saver: DeviceSaver) -> tuple[int, int, str]:
        """Chunks saved, bytes loaded, and what it does at the destination: what changes while it gets on."""
        status = self.session.statuses.get(saver.number)
        return saver.chunks, *((status.loaded_bytes, status.doing) if status is not None else (0, "no status yet"))

    def _resend(self, action: a.ResendSlot) -> None:
        try:
            slot = self.dispatcher.slot(action.channel, action.sequence)
        except RemoteProtocolError as error:
            self.session.handle_failure(error, self.now)
            return
        flow = device_flow(slot.owner) if slot.kind == CHUNK else self._flow_of_kind[slot.kind]
        if slot.live:
            self.mismatches += 1
            self._feeds[flow].mark_dirty(slot)
        elif self.session.handle_corrupt(flow, self.now):
            self.dispatcher.again(flow, slot, self.now)

    def _deliver(self, action: a.Deliver) -> None:
        self.savers[action.device - 1].deliver(action.data)

    def _release_owner(self, _action: a.Release) -> None:
        self._owner_task = self._loop.create_task(self._guard(self._released(self._owner_task)))

    async def _released(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await wait_out(before)
        for saver in self.savers:
            await saver.heard_all()
        await owners(self._owner.release(), "give up the right to run")
        self.session.handle_released(self.now)
        self._act()

    def _ask_outcome(self, _action: a.AskForOutcome) -> None:
        self._asking = self._loop.create_task(self._asked())

    async def _asked(self) -> None:
        question = m.AskOutcome(self.session.plan.session, self.session.secret)
        answer = await ask_outcome(self._address, question, self._options.tls)
        if isinstance(answer, str):
            self.session.handle_no_answer(answer, self.now)
        else:
            self.session.handle_outcome(answer, self.now)
            mark = self.downtime.end if answer.outcome is m.Fate.STARTED else self.downtime.mark
            mark("ask_outcome", self.now)  # if it does not run there, the stop lasts until the owner is started again
        self._act()

    _DO: ClassVar[dict[type, Callable[[SourceRun, Any], None]]] = {
        a.Send: _send,
        a.Finished: _finished,
        a.OpenChannels: _open_channels,
        a.BeginRound: _begin_round,
        a.SaveInitial: _save_initial,
        a.GrantCredit: _grant_credit,
        a.Survey: _survey,
        a.Throttle: _throttle,
        a.StopOwner: _stop_owner,
        a.StartOwner: _start_owner,
        a.SaveStopCopy: _save_stop_copy,
        a.ResendSlot: _resend,
        a.Deliver: _deliver,
        a.Release: _release_owner,
        a.AskForOutcome: _ask_outcome,
    }
