"""Calls of a target, which block: in the pool, so that the loop goes on. Knows nothing of what they are for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from multifd import limits
from multifd.errors import MultifdError, StorageError
from multifd.qemu.target import MachineTarget

Result = TypeVar("Result")


class TargetCalls:
    """*loop*: those of one session. Deadlines are its machine's: a thread can't be cancelled, but given up."""

    def __init__(self, target: MachineTarget) -> None:
        self._target = target
        self._running: set[asyncio.Future[Any]] = set()

    async def call(self, doing: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call it in the pool. `doing` says in errors what failed. Raises what it raises, as `MultifdError`."""
        task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except MultifdError:
            raise
        except OSError as error:
            raise StorageError(f"{doing}: {error.strerror or error}") from error

    async def abort(self) -> str:
        """Have the target leave nothing behind. What went wrong, in words; nothing if all is well."""
        trouble = ""
        try:
            async with asyncio.timeout(limits.CLOSE_DEADLINE_S):
                await self.call("can't clean up", self._target.abort)
        except TimeoutError:
            trouble = f"cleaning up took more than {limits.CLOSE_DEADLINE_S:g} s"
        except Exception as error:
            trouble = str(error)
        if self._running:
            await asyncio.wait(self._running, timeout=limits.CLOSE_DEADLINE_S)
        return trouble or ("storage did not let go of its thread" if self._running else "")
