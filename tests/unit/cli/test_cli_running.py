"""A signal cancels the migration cleanly and is told apart from every other end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from multifd.cli.ending import Ending, ExitCode, InterruptedByUserError
from multifd.cli.running import follow, interruptible, no_more_interruptions
from multifd.errors import MigrationCancelledError, MigrationFailedError
from multifd.stats import Outcome, Progress, Report

REPORT = Report(side="source", outcome=Outcome.COMPLETED)


class Shown:
    def __init__(self) -> None:
        self.states: list[str] = []
        self.closed = False

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def show(self, progress: Progress) -> None:
        self.states.append(progress.state)

    def close(self) -> None:
        self.closed = True


class Session:
    """A side whose `run` calls `act` and then waits to be cancelled, unless `act` raises or returns a report."""

    def __init__(self, act: Callable[[], Report | None], *, deaf: bool = False) -> None:
        self._act = act
        self._deaf = deaf
        self._cancelled = asyncio.Event()
        self.causes: list[str] = []

    async def run(self) -> Report:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        report = self._act()
        if report is not None:
            return report
        await self._cancelled.wait()
        raise MigrationCancelledError(self.causes[0], Report(side="source", outcome=Outcome.CANCELLED))

    async def progress(self) -> AsyncIterator[Progress]:
        yield Progress(state="PRECOPY", elapsed_s=0.0)
        await asyncio.Event().wait()

    def cancel(self, cause: str) -> bool:
        self.causes.append(cause)
        if not self._deaf:
            self._cancelled.set()
        return not self._deaf


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


async def test_the_report_comes_back_and_progress_was_shown() -> None:
    """And the display is closed, and the signals are as before."""
    shown = Shown()
    assert await follow(Session(lambda: REPORT), shown) is REPORT
    assert shown.states == ["PRECOPY"]
    assert shown.closed
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_and_counts_as_interrupted(number: int) -> None:
    """With the report of the cancelled session."""
    session = Session(lambda: kill(number))
    with pytest.raises(InterruptedByUserError) as caught:
        await follow(session, Shown())
    assert caught.value.report is not None
    assert session.causes == ["interrupted by the user"]


async def test_a_second_signal_does_not_wait_any_longer() -> None:
    """A session that does not end by itself is left alone."""
    session = Session(lambda: kill(signal.SIGINT), deaf=True)

    def again(cause: str) -> bool:
        if len(session.causes) == 0:
            asyncio.get_running_loop().call_soon(kill, signal.SIGTERM)
        return Session.cancel(session, cause)

    session.cancel = again  # type: ignore[method-assign]
    with pytest.raises(InterruptedByUserError) as caught:
        await follow(session, Shown())
    assert caught.value.report is None
    assert len(session.causes) == 2


async def test_a_side_that_only_waits_ends_at_the_first_signal() -> None:
    """There is no session that could be cancelled."""
    with pytest.raises(InterruptedByUserError):
        await follow(Session(lambda: kill(signal.SIGTERM), deaf=True), Shown(), may_wait_for_peer=True)


async def test_a_signal_outside_of_a_session_ends_the_command() -> None:
    """Before the session and after it; what the command opened it can close."""
    steps: list[str] = []

    async def command() -> Ending:
        await follow(Session(lambda: REPORT), Shown())
        steps.append("migrated")
        try:
            kill(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            steps.append("closed")
        return Ending(ExitCode.COMPLETED)

    with pytest.raises(InterruptedByUserError):
        await asyncio.ensure_future(interruptible(command()))
    assert steps == ["migrated", "closed"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_peer_that_cancels_is_no_interruption() -> None:
    """130 is for our own signals only."""

    def cancelled() -> Report:
        raise MigrationCancelledError("the destination cancelled", REPORT)

    with pytest.raises(MigrationCancelledError):
        await follow(Session(cancelled), Shown())


async def test_a_failure_comes_through() -> None:
    """As it is."""

    def failed() -> Report:
        raise MigrationFailedError("the disk is full", REPORT)

    shown = Shown()
    with pytest.raises(MigrationFailedError, match="disk is full"):
        await follow(Session(failed), shown)
    assert shown.closed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_after_the_end_of_the_session_is_too_late(number: int) -> None:
    """It completed, whatever arrives while the display is closed."""
    session = Session(lambda: REPORT)

    async def progress() -> AsyncIterator[Progress]:
        try:
            yield Progress(state="PRECOPY", elapsed_s=0.0)
            await asyncio.Event().wait()
        finally:
            kill(number)
            for _ in range(10):
                await asyncio.sleep(0)

    async def command() -> Ending:
        await follow(session, Shown())
        return Ending(ExitCode.COMPLETED)

    session.progress = progress  # type: ignore[method-assign]
    assert (await asyncio.ensure_future(interruptible(command()))).code is ExitCode.COMPLETED


async def test_what_is_closed_at_the_end_is_closed_undisturbed() -> None:
    """Once the command says that its ending is known."""

    async def command() -> Ending:
        no_more_interruptions()
        kill(signal.SIGTERM)
        for _ in range(10):
            await asyncio.sleep(0)
        return Ending(ExitCode.COMPLETED)

    assert (await asyncio.ensure_future(interruptible(command()))).code is ExitCode.COMPLETED
