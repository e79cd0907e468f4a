"""Devices that do what a test says, when it says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from multifd import DeviceState, EmulatedDevice, EmulatedOptions, Phase
from multifd.slot import Buffer

_PAUSE_S = 0.002


class GatedDevice(EmulatedDevice):
    """Saves nothing of one phase until its gate is opened."""

    def __init__(self, device_id: str, options: EmulatedOptions, *, phase: Phase) -> None:
        super().__init__(device_id, options)
        self.gate = threading.Event()
        self.passed = 0
        """How often a pass of that phase has gone through the gate."""
        self._gated = phase

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """As it is, when the gate is open."""
        while phase is self._gated and not self.gate.is_set():  # noqa: ASYNC110 - the gate is another thread's
            await asyncio.sleep(_PAUSE_S)
        self.passed += phase is self._gated
        async for chunk in super().save(phase):
            yield chunk


class StickingDevice(EmulatedDevice):
    """Goes to PRE_COPY and never says that it is there."""

    async def set_state(self, state: DeviceState) -> None:
        """As it is, but for that."""
        await super().set_state(state)
        if state is DeviceState.PRE_COPY:
            await asyncio.get_running_loop().create_future()


class RaisingDevice(EmulatedDevice):
    """Raises something of its own, not an error of the library's, when it saves."""

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """It doesn't."""
        raise ZeroDivisionError(f"no {phase.name}")
        yield b""
