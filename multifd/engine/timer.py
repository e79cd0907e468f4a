"""One timer for a machine's `wake_at`, which moves at nearly every event while the clock is rarely reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class LazyTimer:
    """Calls `expired` at the time it is set to, or earlier: a later time does not disturb what is armed already."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float | None) -> None:
        """Be called at `at`, in `time.monotonic()`; None: no need."""
        if at is None or (self._handle is not None and self._at <= at):
            return
        self.cancel()
        self._at = at
        self._handle = self._loop.call_later(max(0.0, at - time.monotonic()), self._expire)

    def cancel(self) -> None:
        """Not any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _expire(self) -> None:
        self._handle = None
        self._expired()
