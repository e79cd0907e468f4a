"""Run a command on an event loop, and one side of a migration in it: SIGINT and SIGTERM end either cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

import uvloop

from multifd.cli.display import Display
from multifd.cli.ending import Ending, InterruptedByUserError
from multifd.cli.wording import Wording
from multifd.errors import MigrationCancelledError, MigrationError, MigrationFailedError, MigrationInDoubtError
from multifd.stats import Outcome, Progress, Report

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEFAULT_WORDING = Wording()


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


def run_command(work: Coroutine[Any, Any, Ending]) -> Ending:
    """Run `work` to its end on an event loop of its own. A signal cancels it and raises `InterruptedByUserError`; after
    its end this process ignores signals, since how it ended is known.
    """
    gc.freeze()  # what was imported stays: a full collection that looks through it stops all channels for 25 ms
    return uvloop.run(_then_ignore_signals(work))


async def _then_ignore_signals(work: Coroutine[Any, Any, Ending]) -> Ending:
    try:
        return await interruptible(work)
    finally:
        ignore_signals()  # already here: closing the loop takes a while


def ignore_signals() -> None:
    """Until the process exits: it is on its way out, with an exit code that no signal may change."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def no_more_interruptions() -> None:
    """Inside of `run_command`: how the command ends is known, and what it closes yet it closes undisturbed."""
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)


async def interruptible(work: Coroutine[Any, Any, Ending]) -> Ending:
    """What `run_command` does, on the loop that is running."""
    task = asyncio.current_task()
    assert task is not None
    with _on_signals(task.cancel):
        try:
            return await work
        except asyncio.CancelledError as error:
            raise InterruptedByUserError("interrupted") from error


async def follow(
    side: Side, display: Display, *, may_wait_for_peer: bool = False, wording: Wording = DEFAULT_WORDING
) -> Report:
    """Run `side` and show how it goes. A first signal cancels it, a second one gives up waiting for that as well.

    `may_wait_for_peer`: a side that refuses to be cancelled has no session yet, and is just ended. Raise what
    `side.run` raises, in the words of `wording`, but `InterruptedByUserError` if a signal was the reason.
    """
    session = asyncio.ensure_future(side.run())
    watcher = asyncio.ensure_future(_watch(side, display))
    interrupted = called_off = False

    def interrupt() -> None:
        nonlocal interrupted, called_off
        again, interrupted = interrupted, True
        called_off = side.cancel("interrupted by the user") or called_off
        if (not called_off and may_wait_for_peer) or again:
            session.cancel()

    with _on_signals(interrupt):  # until all is done: a signal after the session's end comes too late to matter
        try:
            return await session
        except MigrationError as error:
            if called_off and isinstance(error, MigrationCancelledError | MigrationFailedError):
                raise InterruptedByUserError(wording.interrupted, error.report) from error
            raise wording.reworded(error) from error.__cause__
        except asyncio.CancelledError as error:
            if interrupted:
                raise InterruptedByUserError("interrupted") from error
            raise
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            display.close()


def raise_if_in_doubt(report: Report | None) -> None:
    """After an interruption: raise `MigrationInDoubtError` if that is how the session ended, which must be told."""
    if report is not None and report.outcome is Outcome.IN_DOUBT:
        raise MigrationInDoubtError(report.cause, report)


async def _watch(side: Side, display: Display) -> None:
    async for progress in side.progress():
        display.show(progress)


_handler: ContextVar[Callable[[], object] | None] = ContextVar("multifd_signal_handler", default=None)


@contextlib.contextmanager
def _on_signals(handler: Callable[[], object]) -> Iterator[None]:
    """Call `handler` for every signal; afterwards the handler that was there before has its place again."""
    loop = asyncio.get_running_loop()
    outer = _handler.get()
    token = _handler.set(handler)
    for number in SIGNALS:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        _handler.reset(token)
        for number in SIGNALS:
            if outer is None:
                loop.remove_signal_handler(number)
            else:
                loop.add_signal_handler(number, outer)
