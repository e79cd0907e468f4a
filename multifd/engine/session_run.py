"""What driving a source's and a destination's session have in common: doing what the machine asks for, its timer, tasks
whose failure is the session's, and progress. Everything here is on the loop.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Protocol

from multifd.engine.progress import ProgressFeed
from multifd.engine.timer import LazyTimer
from multifd.errors import MultifdError, TransportError
from multifd.stats import Progress

_TICK_S = 0.1
_log = logging.getLogger("multifd")


class Machine(Protocol):
    """A session, as far as both are alike."""

    @property
    def wake_at(self) -> float | None:
        """When `handle_timer` is to be called next, at the latest."""

    def handle_timer(self, now: float) -> None:
        """The clock reached `wake_at`."""

    def handle_failure(self, error: MultifdError, now: float) -> None:
        """Something failed on this side."""

    def poll_action(self) -> Any:
        """What to do next; None when there is nothing."""


class SessionRun(abc.ABC):
    """Drives one machine. `_DO` says what is done for each of its actions."""

    _DO: ClassVar[dict[type, Callable[[Any, Any], None]]]

    def __init__(self, machine: Machine, progress: ProgressFeed) -> None:
        self.error: MultifdError | None = None
        self.trouble = ""
        """What went wrong besides, while everything was released: it follows the error in the cause."""
        self._machine = machine
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._timer = LazyTimer(self._loop, self._on_timer)
        self._acting = False

    @property
    def now(self) -> float:
        """The machine's time. Not the loop's: uvloop's stands still within a turn and counts whole milliseconds."""
        return time.monotonic()

    @abc.abstractmethod
    def snapshot(self) -> Progress:
        """How it stands."""

    @property
    def _is_told(self) -> bool:
        """Whether those who follow the progress want to hear of this session."""
        return True

    def fail(self, error: Exception) -> None:
        """Something failed on this side. The machine knows what that means in its state."""
        self._machine.handle_failure(as_ours(error), self.now)
        self._act()

    def _look(self) -> None:  # noqa: B027
        """Look at what nobody reports by itself. Called when the timer expires and ten times a second."""

    def _wake_at(self) -> float | None:
        return self._machine.wake_at

    def _act(self) -> None:
        """Do everything that the machine asks for, in its order."""
        if self._acting:  # an action's own doing came back here: the loop below goes on with it
            return
        self._acting = True
        try:
            while (action := self._machine.poll_action()) is not None:
                self._DO[type(action)](self, action)
        finally:
            self._acting = False
        if not self._ended.is_set():
            self._timer.set(self._wake_at())

    def _on_timer(self) -> None:
        try:
            self._machine.handle_timer(self.now)
            self._look()
        except Exception as error:  # nobody else would hear of it
            self.fail(error)
        self._act()

    async def _tick(self) -> None:
        while True:
            self._on_timer()
            if self._is_told:
                self._progress.publish(self.snapshot())
            await asyncio.sleep(_TICK_S)

    def _tell_trouble(self, words: str) -> None:
        """Something went wrong that does not change the outcome: it is added to the cause, or, if there is none,
        logged.
        """
        if self.error is None:
            _log.warning("the migration ended well, but %s", words)
        else:
            self.trouble += f"; and then {words}"

    async def _join(self, workers: Mapping[str, Callable[[], bool]]) -> None:
        """Join workers, all at the same time. Each call says, within `CLOSE_DEADLINE_S`, whether it let go of its
        thread.
        """
        ended = await asyncio.gather(*(asyncio.to_thread(join) for join in workers.values()))
        stuck = [name for name, has_ended in zip(workers, ended, strict=True) if not has_ended]
        if stuck:
            whose = "its thread" if len(stuck) == 1 else "their threads"
            self._tell_trouble(f"{', '.join(stuck)} did not let go of {whose}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever goes wrong in a task fails the session, with its cause: ours, a bug here, or in what a user gave."""
        try:
            await work
        except Exception as error:
            self.fail(error)


async def to_its_end(work: Coroutine[Any, Any, object]) -> None:
    """Await it to its end, however often the task that waits is cancelled meanwhile; then that takes effect."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await wait_out(task)
    finally:
        task.result()


async def wait_out(task: asyncio.Task[Any]) -> None:
    """The same for a task, whatever comes of it."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def as_ours(error: Exception, where: str = "") -> MultifdError:
    """An error of the tree for any; `where` is put before a foreign one's words."""
    if isinstance(error, MultifdError):
        return error
    if isinstance(error, OSError):
        return TransportError(f"{where}{error.strerror or error}")
    return MultifdError(f"{where}{type(error).__name__}: {error}")
