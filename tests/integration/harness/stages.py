"""How to stay in a state of a migration for as long as a test needs it.

Each begins the migration and returns when it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from harness.devices import GatedDevice
from harness.migration import Migration
from harness.proxy import Way
from multifd import Phase
from multifd import messages as m

Stage = Callable[[Migration], Coroutine[Any, Any, None]]


def stage_name(stage: Stage) -> str:
    """For the ids of tests."""
    return stage.__name__.replace("_", "-")


async def _held(it: Migration, message_type: type, state: str) -> None:
    it.proxy.hold(Way.TO_SOURCE, message_type)
    await it.begin()
    await it.proxy.saw(message_type)
    await it.reached(state)


async def hello(it: Migration) -> None:
    """The destination's HELLO is held back."""
    it.proxy.hold(Way.TO_SOURCE, m.Hello)
    await it.begin()
    await it.proxy.saw(m.Hello, times=2)
    await it.reached("hello")


async def inventory(it: Migration) -> None:
    """VERDICT is held back."""
    await _held(it, m.Verdict, "inventory")


async def attach(it: Migration) -> None:
    """No data channel arrives."""

    def refuse(verdict: m.Message) -> tuple[m.Message]:
        it.proxy.refusing = True
        return (verdict,)

    it.proxy.rule(m.Verdict, refuse)
    await it.begin()
    await it.reached("attach")


async def attached(it: Migration) -> None:
    """ATTACHED is held back."""
    await _held(it, m.Attached, "attach")


async def precopy(it: Migration) -> None:
    """READY is held back, and a round of memory is over."""
    await _held(it, m.SwitchoverReady, "precopy")
    await it.proxy.saw(m.SyncDone)


async def switching(it: Migration) -> None:
    """The owner's stop does not end."""

    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    it.owner.at_stop = wait
    await it.begin()
    await it.reached("switching")


async def stop_copy(it: Migration) -> None:
    """Device x saves nothing of its stop-copy."""
    it.replace_device(GatedDevice("x", it.setup.here["x"], phase=Phase.STOP_COPY))
    await it.begin()
    await it.reached("stop-copy")


async def loading(it: Migration) -> None:
    """LOADED is held back."""
    await _held(it, m.Loaded, "loading")


async def committed(it: Migration) -> None:
    """STARTED is held back."""
    await _held(it, m.Started, "committed")


BEFORE_COMMIT: list[Stage] = [hello, inventory, attach, attached, precopy, switching, stop_copy, loading]
WITH_STATE: list[Stage] = [attached, precopy, switching, stop_copy, loading]
"""Those in which the destination has begun to receive: it reports how they end."""
