"""Stand-ins for what the engine's parts are connected to: an event queue that a test reads, and a small device."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from multifd.device.interface import Device, DeviceState, Pending, Phase
from multifd.slot import Buffer

WAIT_S = 5.0


class Posted:
    """An `EventQueue` for workers whose other end is the test."""

    def __init__(self) -> None:
        self.wakes = 0
        self.quiet = 0
        """Events that were not to be seen soon."""
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def post(self, event: Any, *, soon: bool = True) -> None:
        self._events.put(event)
        self.quiet += not soon

    def wake(self) -> None:
        self.wakes += 1

    hint = wake

    def next(self) -> Any:
        """The next event; waits for it."""
        return self._events.get(timeout=WAIT_S)

    def until(self, condition: Callable[[Any], bool]) -> Any:
        """The next event that fits; those before it are dropped."""
        while not condition(event := self.next()):
            pass
        return event

    @property
    def empty(self) -> bool:
        """Whether there is nothing more now."""
        return self._events.empty()


class Gate:
    """What a step of a device waits for, in its own loop, until a test lets it go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def passed(self) -> None:
        event = asyncio.Event()
        with self._lock:
            if self._open:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()

    def set(self) -> None:
        """*any*: open it for good."""
        with self._lock:
            self._open = True
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)


class SmallDevice(Device):
    """A device that saves the chunks that it was given, and remembers all that was done to it."""

    id = "nic"
    explicit_switchover = True

    def __init__(self, **chunks: Sequence[Buffer]) -> None:
        """`chunks`: `initial`, `live` and `stop_copy`; a pass of a phase saves all of them."""
        self.chunks = {phase: chunks.get(phase.name.lower(), ()) for phase in Phase}
        self.left = Pending(0, 0, 0)
        self.states: list[DeviceState] = []
        self.loaded: list[tuple[Phase, bytes]] = []
        self.set_ups: list[Phase] = []
        self.gates: dict[str, Gate] = {}
        """Step → what it waits for before it goes on."""
        self.fails: dict[str, Exception] = {}
        """Step → what it raises."""
        self.reached: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def step(self, name: str) -> None:
        self.reached.put(name)
        if name in self.gates:
            await self.gates[name].passed()
        if name in self.fails:
            raise self.fails[name]

    def wait_for(self, name: str) -> None:
        """Until the device has come to a step."""
        while self.reached.get(timeout=WAIT_S) != name:
            pass

    async def set_state(self, state: DeviceState) -> None:
        await self.step(state.value)
        self.states.append(state)

    def pending(self) -> Pending:
        return self.left

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        for number, chunk in enumerate(self.chunks[phase]):
            await self.step(f"save-{phase.name}-{number}")
            yield chunk
        if phase is Phase.LIVE:
            self.left = Pending(self.left.initial, 0, self.left.stop_copy)

    async def load(self, phase: Phase, data: memoryview) -> None:
        await self.step(f"load-{phase.name}")
        self.loaded.append((phase, bytes(data)))

    async def set_up(self, phase: Phase) -> None:
        await self.step(f"set-up-{phase.name}")
        self.set_ups.append(phase)
