"""Saving one device: its passes, in its own worker, chunk by chunk as far as the destination's credit goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from multifd import limits
from multifd.device.interface import FLUSH, Device, DeviceState, Pending, Phase
from multifd.engine.device_worker import DeviceWorker
from multifd.engine.events import EventQueue
from multifd.errors import DeviceError, MultifdError
from multifd.kinds.chunk import chunk_cost, chunk_slot
from multifd.slot import Buffer, Slot
from multifd.wire.chunk import ChunkMeta


@dataclass(frozen=True, slots=True)
class ChunkSaved:
    """A chunk is ready to be sent."""

    device: int
    slot: Slot


@dataclass(frozen=True, slots=True)
class Rearmed:
    """A device has new initial data."""

    device: int


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """A device could not save, or change its state."""

    device: int
    error: MultifdError


@dataclass(frozen=True, slots=True)
class MessageHeard:
    """A device has dealt with one more message of its counterpart."""

    device: int


SaveEvent = ChunkSaved | Rearmed | SaveFailed | MessageHeard


class DeviceSaver:
    """One device of a source. *loop*: all public methods; coroutines with a leading underscore run in the worker."""

    def __init__(self, number: int, device: Device, events: EventQueue[Any]) -> None:
        # set once
        self.number = number
        self.device = device
        self._events = events
        self._worker = DeviceWorker(device.name)
        # loop's
        self._started = False
        # worker's; read by the loop
        self.pending = Pending(None, None, None)
        self.initial_saved = False
        self.chunks = 0
        self.bytes = 0
        # worker's
        self._epoch = 1
        self._wanted_epoch: int | None = None
        """The initial phase is to be saved under this one, once the pass that is running has ended."""
        self._rearm_told = False
        self._pausing = False
        self._state = DeviceState.RUNNING
        self._moved = False
        """A state was asked for, whatever came of it."""
        self._granted = 0
        self._used = 0
        self._changed = asyncio.Event()
        self._precopy_task: asyncio.Task[None] | None = None
        self._stop_copy_task: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._messages: deque[bytes] = deque()

    def start(self) -> None:
        """Begin the worker."""
        self._started = True
        self._worker.start()

    def grant(self, total: int) -> None:
        """The destination takes `total` bytes of chunks, counted from the start."""
        self._worker.call(lambda: self._set_granted(total))

    def save_initial(self, epoch: int) -> None:
        """Save the initial phase under this epoch, then live passes as there is need, until `pause`."""
        self._worker.call(lambda: self._want_initial(epoch))

    async def pause(self) -> None:
        """Let the pass that is running end, and begin no other."""
        await self._worker.submit(self._pause())

    def go_on(self) -> None:
        """After `pause`: the switchover was called off, live passes go on."""
        self._worker.call(self._go_on)

    async def has_rearmed(self) -> bool:
        """Ask the device once more, with the owner stopped."""
        return await self._worker.submit(self._ask())

    async def save_stop_copy(self) -> None:
        """Save the stop-copy phase; the device is stopped after it. Raises `DeviceError`."""
        await self._worker.submit(self._guarded(self._stop_copy()))

    def deliver(self, data: bytes) -> None:
        """A message of the device's counterpart."""
        self._worker.call(lambda: self._take_message(data))

    async def heard_all(self) -> None:
        """Wait until the device has dealt with all that was delivered so far."""
        await self._worker.submit(self._heard_all())

    @property
    def started(self) -> bool:
        """Whether the device may have been touched."""
        return self._started

    async def resume(self) -> None:
        """The migration is called off: whatever is being saved is dropped, and the device runs on. Raises
        `DeviceError`.
        """
        await self._worker.submit(self._guarded(self._resume()))

    def stop(self) -> bool:
        """*pool*: end the worker, whatever it does. False if the device did not let go."""
        return self._worker.stop()

    # -- worker

    def _set_granted(self, total: int) -> None:
        self._granted = max(self._granted, total)
        self._changed.set()

    def _want_initial(self, epoch: int) -> None:
        self._wanted_epoch = epoch
        self.initial_saved = False
        self._go_on()

    def _go_on(self) -> None:
        self._pausing = False
        self._changed.set()
        if self._precopy_task is None or self._precopy_task.done():
            self._precopy_task = asyncio.get_running_loop().create_task(self._reported(self._precopy))

    async def _pause(self) -> None:
        self._pausing = True
        self._changed.set()
        if self._precopy_task is not None:
            await self._precopy_task

    async def _resume(self) -> None:
        for task in (self._precopy_task, self._stop_copy_task, self._hearing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._moved:
            await self._set_state(DeviceState.RUNNING)

    async def _ask(self) -> bool:
        self.pending = self.device.pending()
        return bool(self.pending.initial)

    async def _precopy(self) -> None:
        """Initial passes when asked for, live passes when there is something dirty, re-arms told."""
        if self._state is DeviceState.RUNNING:
            await self._set_state(DeviceState.PRE_COPY)
        while not self._pausing:
            self._changed.clear()
            if self._wanted_epoch is not None:
                self._epoch, self._wanted_epoch = self._wanted_epoch, None
                await self._pass(Phase.INITIAL)
                self.initial_saved = self._wanted_epoch is None
                self._rearm_told = False
            self.pending = self.device.pending()
            if self.pending.initial and self._wanted_epoch is None:
                self._tell_rearmed()
            elif self.pending.dirty != 0 and not self._pausing:
                await self._pass(Phase.LIVE)
            await self._pause_a_little()

    def _tell_rearmed(self) -> None:
        if not self._rearm_told:
            self._rearm_told = True
            self.initial_saved = False
            self._events.post(Rearmed(self.number))

    async def _pause_a_little(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.ROUND_PAUSE_S):
                await self._changed.wait()

    async def _stop_copy(self) -> None:
        self._stop_copy_task = asyncio.current_task()
        await self._set_state(DeviceState.STOP_COPY)
        await self._pass(Phase.STOP_COPY)
        if (await self._ask()) and self.pending.initial:
            self._events.post(Rearmed(self.number))
        await self._set_state(DeviceState.STOP)

    async def _pass(self, phase: Phase) -> None:
        """One pass of a phase. One chunk is held back, so that the last one can be marked."""
        held: Buffer | None = None
        async for data in self.device.save(phase):
            if held is not None:
                await self._emit(held, phase, last=False)
            held = None if data is FLUSH else data
        await self._emit(b"" if held is None else held, phase, last=True)

    async def _emit(self, data: Buffer, phase: Phase, *, last: bool) -> None:
        data = memoryview(data).cast("B")  # of an array of anything
        length = len(data)
        if length > limits.CHUNK_BYTES_MAX:
            raise DeviceError(self.device.name, f"saved a chunk of {length} bytes; at most {limits.CHUNK_BYTES_MAX}")
        cost = chunk_cost(length)
        while self._granted - self._used < cost:
            self._changed.clear()
            await self._changed.wait()
        self._used += cost
        meta = ChunkMeta(epoch=self._epoch, phase=int(phase), last=last, index=self.chunks)
        self.chunks += 1
        self.bytes += length
        self._events.post(ChunkSaved(self.number, chunk_slot(self.number, meta, data)))

    def _take_message(self, data: bytes) -> None:
        self._messages.append(data)
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.get_running_loop().create_task(self._reported(self._hear))

    async def _hear(self) -> None:
        while self._messages:
            await self.device.hear(self._messages.popleft())
            self._events.post(MessageHeard(self.number))

    async def _heard_all(self) -> None:
        if self._hearing is not None:
            await self._hearing

    async def _set_state(self, state: DeviceState) -> None:
        self._moved = True
        await self.device.set_state(state)
        self._state = state

    async def _reported(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await self._guarded(action())
        except MultifdError as error:
            self._events.post(SaveFailed(self.number, error))

    async def _guarded(self, action: Coroutine[Any, Any, None]) -> None:
        """Whatever a device raises becomes a `DeviceError` that names it."""
        try:
            await action
        except MultifdError:
            raise
        except Exception as error:
            raise DeviceError(self.device.name, f"{type(error).__name__}: {error}") from error
