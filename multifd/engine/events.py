"""What workers tell the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from multifd import limits
from multifd.engine.mailbox import Closed, Mailbox

Event = TypeVar("Event")


class EventQueue(Generic[Event]):
    """From any number of workers to one handler on the loop, which calls `take`. A worker waits when it is full."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handler: Callable[[], None], failed: Callable[[Exception], None]
    ) -> None:
        """`failed` hears of whatever the handler raises: nobody else would."""
        self._loop = loop
        self._handler = handler
        self._failed = failed
        self._mailbox: Mailbox[Event] = Mailbox(limits.EVENTS_MAX)
        self._awake = False
        self._closed = False
        self._next_hint = 0.0
        self._look_again: asyncio.TimerHandle | None = None
        self.urgent = False
        """*loop* sets it while somebody waits for the counters: every hint then wakes the handler at once."""

    def post(self, event: Event, *, soon: bool = True) -> None:
        """*worker*: hand an event over; dropped if nobody listens any more. Unless it is to be seen `soon`, it waits
        for the next that is: the caller sees to it that one follows.
        """
        try:
            self._mailbox.put(event)
        except Closed:
            return
        if soon:
            self.wake()

    def wake(self) -> None:
        """*worker*: have the handler called soon, with events or none; many calls may make one.

        The flag is set after whatever the worker wants to be seen, and cleared before the handler looks: nothing is
        missed. Two workers at the same time may wake it twice, which is harmless.
        """
        if self._awake:
            return
        self._awake = True
        try:
            self._loop.call_soon_threadsafe(self._handle)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return

    def hint(self) -> None:
        """*worker*: a counter that the handler reads has moved. Wakes it at most once in `SETTLED_DELAY_S`, unless it
        is urgent.

        At 20 000 slots a second a wake-up for each would cost as much as moving them. What a hint that woke nobody was
        about is looked at when the delay is over.
        """
        if not self.urgent:
            now = time.monotonic()
            if now < self._next_hint:
                return
            self._next_hint = now + limits.SETTLED_DELAY_S
        self.wake()

    def take(self) -> list[Event]:
        """*loop*: all events that are there."""
        return self._mailbox.take_now()

    def close(self) -> None:
        """*loop*: nothing is handled after this."""
        self._closed = True
        if self._look_again is not None:
            self._look_again.cancel()
        self._mailbox.close(drop=True)

    def _handle_again(self) -> None:
        self._look_again = None
        self._handle()

    def _handle(self) -> None:
        if self._closed:
            return
        self._awake = False
        left_s = self._next_hint - time.monotonic()
        if left_s > 0 and self._look_again is None:
            self._look_again = self._loop.call_later(left_s, self._handle_again)
        try:
            self._handler()
        except Exception as error:
            self._failed(error)
