"""A worker thread for one device, with an event loop of its own: whatever the device does there, blocking or not, holds
up nobody else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from multifd import limits

Result = TypeVar("Result")


class DeviceWorker:
    """Runs coroutines in the device's thread. All methods but `stop` can be called from any thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"multifd-device-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> asyncio.Future[Result]:
        """*loop*: run it in the worker; its result or error comes back to the caller's loop."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def call(self, function: Callable[[], object]) -> None:
        """*any*: have it called in the worker, soon. Nothing happens if the worker has ended."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the worker's loop is closed
            return

    def stop(self) -> bool:
        """*pool*: cancel what runs, end and join the thread. False if the device did not let go within
        `CLOSE_DEADLINE_S`.
        """
        if self._thread.ident is None:
            self._loop.close()
            return True
        self.call(self._loop.stop)
        self._thread.join(limits.CLOSE_DEADLINE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
