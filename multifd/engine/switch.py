"""Stopping and starting what is migrated, at the source: the owner and its devices, in the right order, within
deadlines. Loop only. Every call ends before the next one begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from multifd import limits
from multifd.engine.downtime import DowntimeClock
from multifd.engine.owner import Owner
from multifd.engine.saver import DeviceSaver
from multifd.errors import DeadlineError, MultifdError, OwnerError

_AGAIN = "the owner to start again"


class Switch:
    """The owner and the devices of one source. `troubles` says what did not run again."""

    def __init__(self, owner: Owner, savers: Sequence[DeviceSaver], downtime: DowntimeClock) -> None:
        self.troubles: list[str] = []
        self._owner = owner
        self._savers = savers
        self._downtime = downtime
        self._stop_called = False
        """The owner was asked to stop, and not to start since."""
        self._resumed = False
        """Devices were asked to run again, whatever came of it."""
        self._throttled = False

    async def throttle(self, level: float) -> None:
        """Slow the owner down. Raises `OwnerError`."""
        self._throttled = level > 0
        await _within(self._owner.throttle(level), "the owner to slow down")

    async def stop(self) -> list[int]:
        """Let running passes end, stop the owner, ask every device once more: the numbers of those that re-armed.

        Raises `DeadlineError`, `OwnerError`, `DeviceError`.
        """
        await asyncio.gather(
            *(_within(saver.pause(), f"device {saver.device.name} to end its pass") for saver in self._savers)
        )
        self._downtime.begin(time.monotonic())
        self._stop_called = True
        await _within(self._owner.stop(), "the owner to stop")
        self._downtime.mark("stop_owner", time.monotonic())
        rearmed = [saver.number for saver in self._savers if await saver.has_rearmed()]
        self._downtime.mark("ask_devices", time.monotonic())
        return rearmed

    async def back_to_precopy(self) -> None:
        """The switchover is off: devices go on saving, the owner runs again. Raises `OwnerError` if it does not."""
        for saver in self._savers:
            saver.go_on()
        self._stop_called = False
        try:
            await _within(self._owner.start(), _AGAIN)
        except MultifdError as error:
            raise OwnerError(str(error)) from error
        self._downtime.end("start_again", time.monotonic())

    async def call_off(self) -> None:
        """The migration is off: whatever stopping came to, devices and owner run on, at full speed."""
        await self._resume_devices()
        await self._start_owner()
        if self._throttled:
            self._throttled = False
            await self._try(self._owner.throttle(0.0), "the owner to run at full speed")

    async def _start_owner(self) -> None:
        if not self._stop_called:  # it has run all the time, or can't
            return
        self._stop_called = False
        await self._try(self._owner.start(), _AGAIN)
        self._downtime.end("start_again", time.monotonic())

    async def _resume_devices(self) -> None:
        if self._resumed:
            return
        self._resumed = True
        for saver in self._savers:
            if saver.started:
                await self._try(saver.resume(), f"device {saver.device.name} to run again")

    async def _try(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """There is nothing to fall back to: what does not work is told, and the rest goes on."""
        try:
            await _within(work, what)
        except MultifdError as error:
            self.troubles.append(str(error))


async def _within(work: Coroutine[Any, Any, None], what: str) -> None:
    try:
        async with asyncio.timeout(limits.OWNER_DEADLINE_S):
            await work
    except TimeoutError as error:
        raise DeadlineError(what, limits.OWNER_DEADLINE_S) from error
    except MultifdError:
        raise
    except Exception as error:
        raise OwnerError(f"waiting for {what}: {type(error).__name__}: {error}") from error
