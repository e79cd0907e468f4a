"""An emulated device that shows what real ones do: slow set-up, live state that grows, re-arms, failures, hangs.

For tests, the demo and whoever tries an engine before the hardware is there. Knows nothing of slots, channels or the
protocol. Its content is random but seeded, and both ends keep a digest of every chunk with its phase, so that a source
and a destination can be compared at the end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator

import numpy as np
import xxhash

from multifd.device.emulated_options import EmulatedOptions, Step
from multifd.device.interface import Device, DeviceState, Pending, Phase
from multifd.device.states import SAVING, check_transition
from multifd.errors import DeviceError
from multifd.limits import MIB
from multifd.slot import Buffer

_RUNNING_PRECOPY = (DeviceState.PRE_COPY, DeviceState.PRE_COPY_P2P)


class EmulatedDevice(Device):
    """One end of an emulated device; the same class at source and destination.

    `pending`, `rearm`, `owner_stopped` and `owner_started` may be called from any thread. `states` lists every state
    that it was in, the first included; `saved_bytes`, `loaded_bytes` and `digest` are of the newest stream: they begin
    anew when it enters a saving state or RESUMING.
    """

    def __init__(
        self,
        device_id: str,
        options: EmulatedOptions | None = None,
        *,
        instance: int = 0,
        state: DeviceState = DeviceState.RUNNING,
    ) -> None:
        self.options = options if options is not None else EmulatedOptions()
        self.id = device_id
        self.instance = instance
        self.token = self.options.token
        self.explicit_switchover = self.options.explicit_switchover
        self.stop_seconds = self.options.declared_stop_s
        total = self.options.initial_bytes + self.options.live_bytes + self.options.stop_copy_bytes
        self.expected_bytes = None if self.options.unknown_estimate else self._estimate(total)
        self.states = [state]
        self.rearms = 0
        self.set_ups = 0
        self._lock = threading.RLock()
        self._owner_runs = True
        self._rearms_at_stop = self.options.rearm_at_stop
        self._left: dict[Phase, float]
        self._initial_ended: float | None
        self._rearm_times: deque[float]
        self._begin_stream()

    @property
    def state(self) -> DeviceState:
        """Where it is now."""
        return self.states[-1]

    @property
    def digest(self) -> int:
        """XXH3-64 of all chunks saved or loaded, in order, each after its phase and length; empty ones do not count."""
        return self._hash.intdigest()

    async def set_state(self, state: DeviceState) -> None:
        """Go to `state`, through all that lie between. Raise `DeviceError` where there is no way, and at `fail_at`."""
        for entered in check_transition(self.name, self.state, state):
            await self._reached(f"state-{entered.value}")
            with self._lock:
                self._advance()
                if entered is DeviceState.RESUMING or (entered in SAVING and self.state not in SAVING):
                    self._begin_stream()
                if entered is DeviceState.STOP_COPY:
                    self._fold_into_stop_copy()
                self.states.append(entered)

    # -- source

    def owner_stopped(self) -> None:
        """The owner stands still: nothing gets dirty any more, and the device re-arms if `rearm_at_stop` says so."""
        with self._lock:
            self._advance()
            self._owner_runs = False
            if self._rearms_at_stop:
                self._rearms_at_stop -= 1
                self.rearm()

    def owner_started(self) -> None:
        """The owner runs again."""
        with self._lock:
            self._advance()
            self._owner_runs = True

    def rearm(self) -> None:
        """Have `initial_bytes` of new initial data, on top of what is left. Raise `ValueError` if that is zero."""
        if not self.options.initial_bytes:
            raise ValueError(f"{self.name} has no initial data to re-arm with")
        with self._lock:
            self._left[Phase.INITIAL] += self.options.initial_bytes
            self.rearms += 1

    def pending(self) -> Pending:
        """What is left, as wrong or as unknown as the options say."""
        with self._lock:
            self._advance()
            initial, dirty, stop_copy = (int(self._left[phase]) for phase in Phase)
            first_pass = self._initial_ended is None
        if self.options.unknown_estimate:
            return Pending(initial=None if first_pass else initial, dirty=None, stop_copy=None)
        return Pending(
            # A wrong estimate must not hide a re-arm.
            initial=max(self._estimate(initial), min(initial, 1)),
            dirty=self._estimate(dirty),
            stop_copy=self._estimate(stop_copy),
        )

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """All that is due when the pass begins; what comes up meanwhile is for the next one.

        Raise `DeviceError` in a state without this phase, and at `fail_at`.
        """
        self._expect(*((DeviceState.STOP_COPY,) if phase is Phase.STOP_COPY else _RUNNING_PRECOPY))
        with self._lock:
            self._advance()
            due = int(self._left[phase])
        for start in range(0, due, self.options.chunk_bytes):
            length = min(self.options.chunk_bytes, due - start)
            await asyncio.sleep(self.options.save_s_per_mib * length / MIB)
            chunk = self._random.bytes(length)
            with self._lock:
                self._left[phase] -= length
                self.saved_bytes += length
                self._add_to_digest(phase, chunk)
            yield chunk
            await self._reached(f"save-{_name(phase)}")
        await self._reached(f"save-{_name(phase)}")
        with self._lock:
            if phase is Phase.INITIAL and self._initial_ended is None:
                self._initial_ended = time.monotonic()

    # -- destination

    async def load(self, phase: Phase, data: memoryview) -> None:
        """Take one chunk into the digest, as slowly as the options say."""
        self._expect(DeviceState.RESUMING)
        await self._reached(f"load-{_name(phase)}")
        await asyncio.sleep(self.options.load_s_per_mib * len(data) / MIB)
        self.loaded_bytes += len(data)
        self._add_to_digest(phase, data)

    async def set_up(self, phase: Phase) -> None:
        """Take `setup_s` after the initial phase; nothing after the others."""
        if phase is Phase.INITIAL:
            await self._reached(Step.SET_UP)
            await asyncio.sleep(self.options.setup_s)
            self.set_ups += 1

    # -- inside

    def _begin_stream(self) -> None:
        options = self.options
        self._left = {
            Phase.INITIAL: options.initial_bytes,
            Phase.LIVE: options.live_bytes,
            Phase.STOP_COPY: options.stop_copy_bytes,
        }
        self._initial_ended = None
        self._rearm_times = deque(sorted(options.rearm_after_s))
        self._advanced = time.monotonic()
        self._random = np.random.default_rng([options.seed, self.instance, *self.id.encode()])
        self._hash = xxhash.xxh3_64()
        self.saved_bytes = 0
        self.loaded_bytes = 0

    def _advance(self) -> None:
        """Bring what depends on time up to now. Called with the lock held."""
        now = time.monotonic()
        if self.state in _RUNNING_PRECOPY and self._owner_runs:
            self._left[Phase.LIVE] += self.options.dirty_bytes_per_s * (now - self._advanced)
        self._advanced = now
        ended = self._initial_ended
        while ended is not None and self._rearm_times and now - ended >= self._rearm_times[0]:
            self._rearm_times.popleft()
            self.rearm()

    def _fold_into_stop_copy(self) -> None:
        """What was not sent in precopy goes with the rest, but for a re-arm: that one must be seen."""
        folded = (Phase.LIVE,) if self._initial_ended is not None else (Phase.LIVE, Phase.INITIAL)
        for phase in folded:
            self._left[Phase.STOP_COPY] += int(self._left[phase])
            self._left[phase] = 0

    def _add_to_digest(self, phase: Phase, chunk: Buffer) -> None:
        if len(chunk):
            self._hash.update(phase.to_bytes(1, "big") + len(chunk).to_bytes(8, "big"))
            self._hash.update(chunk)

    def _estimate(self, true_bytes: int) -> int:
        return int(true_bytes * self.options.wrong_estimate)

    def _expect(self, *states: DeviceState) -> None:
        if self.state not in states:
            wanted = " or ".join(state.value for state in states)
            raise DeviceError(self.name, f"called in state {self.state.value}, not in {wanted}")

    async def _reached(self, step: str) -> None:
        if step == self.options.fail_at:
            raise DeviceError(self.name, f"told to fail at {step}")
        if step == self.options.hang_at:
            await asyncio.get_running_loop().create_future()


def _name(phase: Phase) -> str:
    return phase.name.lower().replace("_", "-")
