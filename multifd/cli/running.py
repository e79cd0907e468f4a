"""Run one side of a migration for a command: show its progress, and let SIGINT and SIGTERM cancel it cleanly."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from multifd.cli.display import Display
from multifd.cli.ending import InterruptedByUserError
from multifd.errors import MigrationCancelledError, MigrationFailedError
from multifd.stats import Progress, Report

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Side(Protocol):
    """What `Source` and `Destination` have in common."""

    async def run(self) -> Report:
        """The session, from beginning to end."""
        ...

    def progress(self) -> AsyncIterator[Progress]:
        """How it goes."""
        ...

    def cancel(self, cause: str) -> bool:
        """End it. False if there is no session, or if it is too late to call it off."""
        ...


async def follow(side: Side, display: Display, *, may_wait_for_peer: bool = False) -> Report:
    """Run `side` and show how it goes. A first signal cancels it, a second one gives up waiting for that as well.

    `may_wait_for_peer`: a side that refuses to be cancelled has no session yet, and is just ended. Raise what `side.run` raises, but `InterruptedByUserError` if a signal was the reason.
    """
    session = asyncio.ensure_future(side.run())
    watcher = asyncio.ensure_future(_watch(side, display))
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        again, interrupted = interrupted, True
        if (not side.cancel("interrupted by the user") and may_wait_for_peer) or again:
            session.cancel()

    restore = _on_signals(interrupt)
    try:
        return await session
    except (MigrationCancelledError, MigrationFailedError) as error:
        if interrupted:
            raise InterruptedByUserError(error.report) from error
        raise
    except asyncio.CancelledError as error:
        if interrupted:
            raise InterruptedByUserError from error
        raise
    finally:
        restore()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        display.close()


async def _watch(side: Side, display: Display) -> None:
    async for progress in side.progress():
        display.show(progress)


def _on_signals(handler: Callable[[], None]) -> Callable[[], None]:
    """Call `handler` for every signal from now on; what is returned ends that."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, handler)

    def restore() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    return restore
