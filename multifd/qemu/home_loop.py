"""From a device's worker to the loop that a relay lives on: what belongs to that loop is awaited there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class HomeLoop:
    """The loop that runs where this is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """*device's worker*: have it run at home, and wait. Whoever waits may be cancelled: so is the work then."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
