"""Loading one device: chunks in index order, set-up after each phase, in the device's own worker, with credit for what
it takes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from multifd import limits
from multifd.device.interface import Device, DeviceState, Phase
from multifd.engine.device_worker import DeviceWorker
from multifd.engine.events import EventQueue
from multifd.engine.mailbox import Mailbox
from multifd.errors import DeviceError, MultifdError, RemoteProtocolError
from multifd.kinds.chunk import Chunk
from multifd.messages import DeviceStatus
from multifd.slot import Buffer


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a device is. Cumulative: a later one of the same epoch makes an earlier one needless."""

    status: DeviceStatus
    chunks: int
    complete: bool
    credit: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A device could not load."""

    device: int
    error: MultifdError


@dataclass(frozen=True, slots=True)
class MessageSaid:
    """A device says something to its counterpart at the source."""

    device: int
    data: bytes


LoadEvent = LoadProgress | LoadFailed | MessageSaid


class DeviceLoader:
    """One device of a destination; a `ChunkSink` for the channels' workers."""

    def __init__(
        self, number: int, device: Device, *, credit: int, events: EventQueue[Any], messages: bool = False
    ) -> None:
        """`messages`: the device may say something to its counterpart."""
        # set once
        self.number = number
        self.device = device
        self._window = credit
        self._has_messages = messages
        self._events = events
        self._worker = DeviceWorker(device.name)
        self._arrived = asyncio.Event()
        items_max = credit // limits.CHUNK_COST_BYTES + 1
        self._inbox: Mailbox[Chunk] = Mailbox(items_max, lambda: self._worker.call(self._arrived.set))
        # loop's
        self.asked_to_run = False
        # guarded by the lock
        self._lock = threading.Lock()
        self._granted = credit
        self._reserved = 0
        # worker's; read by the loop
        self.load_s = 0.0
        self.setup_s = 0.0
        self.loaded_bytes = 0
        self.loaded_chunks = 0
        self.epoch = 1
        self.doing = "waiting for its first chunk"
        # worker's
        self._waiting: dict[int, Chunk] = {}
        self._next_index = 0
        self._phase = Phase.INITIAL
        self._phase_ended = False
        self._ready = False
        self._complete = False
        self._freed = 0
        self._said = 0
        self._heard = 0
        self._was_heard = asyncio.Event()

    def start(self) -> None:
        """*loop*: begin to load."""
        self._worker.start()
        self._worker.call(lambda: asyncio.get_running_loop().create_task(self._run()))

    def handle_heard(self, count: int) -> None:
        """*loop*: so many of the device's messages were dealt with at the source, in all."""
        self._worker.call(lambda: self._set_heard(count))

    async def run_device(self) -> None:
        """*loop*: the owner is about to start here. Raises `DeviceError`."""
        self.asked_to_run = True
        await self._worker.submit(self._set_state(DeviceState.RUNNING))

    async def stop_device(self) -> None:
        """*loop*: the owner does not start here after all. Raises `DeviceError`, also after `CLOSE_DEADLINE_S`."""
        try:
            async with asyncio.timeout(limits.CLOSE_DEADLINE_S):
                await self._worker.submit(self._set_state(DeviceState.STOP, "was not stopped again: "))
        except TimeoutError as error:
            raise DeviceError(self.device.name, "was not stopped again in time") from error

    def stop(self) -> bool:
        """*pool*: end the worker, whatever it does. False if the device did not let go."""
        self._inbox.close(drop=True)
        return self._worker.stop()

    # -- channels' workers

    def reserve(self, cost: int) -> None:
        """Take credit for a chunk. Raises `RemoteProtocolError`."""
        with self._lock:
            if self._reserved + cost > self._granted:
                left = self._granted - self._reserved
                raise RemoteProtocolError(
                    f"device-chunk of {self.device.name}", f"at most {left} bytes of credit", cost
                )
            self._reserved += cost

    def release(self, cost: int) -> None:
        """The chunk comes again: it has paid already."""
        with self._lock:
            self._reserved -= cost

    def put(self, chunk: Chunk) -> None:
        """A whole chunk, in any order."""
        self._inbox.put_now(chunk)

    # -- worker

    async def _run(self) -> None:
        try:
            if self._has_messages:
                self.device.open_messages(self._say)
            await self.device.set_state(DeviceState.RESUMING)
            while not self._complete:
                for chunk in await self._in_order():
                    await self._load(chunk)
            self._refuse(self._waiting.values())
            await self.device.set_state(DeviceState.STOP)
            self._tell("loaded")
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                self._refuse(self._inbox.take_now())
        except MultifdError as error:
            self._events.post(LoadFailed(self.number, error))
        except Exception as error:  # whatever a device raises
            named = DeviceError(self.device.name, f"{type(error).__name__}: {error}")
            self._events.post(LoadFailed(self.number, named))

    def _refuse(self, chunks: Iterable[Chunk]) -> None:
        """Of chunks after the last there must be none."""
        for chunk in chunks:
            raise RemoteProtocolError(
                f"device-chunk {chunk.meta.index} of {self.device.name}", "nothing after LAST of stop-copy"
            )

    async def _in_order(self) -> list[Chunk]:
        """The chunks that are next; waits until there is one."""
        while self._next_index not in self._waiting:
            await self._arrived.wait()
            self._arrived.clear()
            for chunk in self._inbox.take_now():
                if chunk.meta.index in self._waiting or chunk.meta.index < self._next_index:
                    raise RemoteProtocolError("device-chunk index", "each index once", chunk.meta.index)
                self._waiting[chunk.meta.index] = chunk
        ready = []
        while (chunk_ := self._waiting.pop(self._next_index, None)) is not None:
            ready.append(chunk_)
            self._next_index += 1
        return ready

    async def _load(self, chunk: Chunk) -> None:
        self._check_order(chunk)
        phase, began = self._phase, time.monotonic()
        await self.device.load(phase, chunk.data)
        self.load_s += time.monotonic() - began
        self.loaded_bytes += len(chunk.data)
        self.loaded_chunks += 1
        self._freed += chunk.cost
        with self._lock:
            self._granted = self._window + self._freed
        if chunk.meta.last:
            await self._set_up(phase)
        else:
            self._tell("loading")

    async def _set_up(self, phase: Phase) -> None:
        self._tell("set-up")
        began = time.monotonic()
        await self.device.set_up(phase)
        self.setup_s += time.monotonic() - began
        self._phase_ended = True
        self._ready = self._ready or phase is Phase.INITIAL
        self._complete = phase is Phase.STOP_COPY
        if not self._complete:
            self._tell("ready" if self._ready else "loading")

    def _check_order(self, chunk: Chunk) -> None:
        """Epoch and phase never go back, but for a re-arm; nothing follows the end (proto/native.md section 3.3)."""
        if self._complete:
            self._refuse((chunk,))
        epoch, phase = chunk.meta.epoch, Phase(chunk.meta.phase)
        same = (epoch, phase) == (self.epoch, self._phase)
        onward = epoch == self.epoch and phase > self._phase and self._phase_ended
        rearm = epoch == self.epoch + 1 and phase is Phase.INITIAL and self._phase_ended
        if not (same or onward or rearm):
            raise RemoteProtocolError(
                f"device-chunk {chunk.meta.index} of {self.device.name}",
                f"what can follow epoch {self.epoch}, phase {self._phase.name}",
                (epoch, phase.name),
            )
        if not same:
            self._phase_ended = False
        if rearm:
            self._ready = False
        self.epoch, self._phase = epoch, phase

    async def _say(self, data: Buffer) -> None:
        said = bytes(data)
        if not 1 <= len(said) <= limits.DEVICE_MESSAGE_BYTES_MAX:
            most = limits.DEVICE_MESSAGE_BYTES_MAX
            raise DeviceError(self.device.name, f"says {len(said)} bytes; 1 to {most} are possible")
        while self._said - self._heard >= limits.DEVICE_MESSAGES_MAX:
            self._was_heard.clear()
            await self._was_heard.wait()
        self._said += 1
        self._events.post(MessageSaid(self.number, said))

    def _set_heard(self, count: int) -> None:
        self._heard = count
        self._was_heard.set()

    def _tell(self, doing: str) -> None:
        self.doing = doing
        status = DeviceStatus(self.number, self.epoch, self._ready, self.loaded_bytes, self.load_s, self.setup_s, doing)
        self._events.post(LoadProgress(status, self.loaded_chunks, self._complete, self._window + self._freed))

    async def _set_state(self, state: DeviceState, failed: str = "") -> None:
        try:
            await self.device.set_state(state)
        except Exception as error:
            raise DeviceError(self.device.name, f"{failed}{type(error).__name__}: {error}") from error
