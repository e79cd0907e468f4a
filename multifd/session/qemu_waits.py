"""Waits with a deadline, by name, for the machines of QEMU's dialect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from multifd.errors import DeadlineError


@dataclass(slots=True)
class _Wait:
    at: float
    seconds: float
    what: Callable[[], str]
    silence: bool


class Waits:
    """The waits that are under way. `what` is asked for its text only when somebody wants to know."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}

    @property
    def wake_at(self) -> float | None:
        """The first deadline."""
        return min((wait.at for wait in self._waits.values()), default=None)

    def begin(self, name: str, seconds: float, what: Callable[[], str], now: float, *, silence: bool = False) -> None:
        """Begin a wait, or begin it anew. One for `silence` begins anew with every `renew`."""
        self._waits[name] = _Wait(now + seconds, seconds, what, silence)

    def end(self, name: str) -> None:
        """What was waited for is there. A wait that isn't under way is left as it is."""
        self._waits.pop(name, None)

    def renew(self, now: float) -> None:
        """Something has moved: it isn't silent."""
        for wait in self._waits.values():
            if wait.silence:
                wait.at = now + wait.seconds

    def clear(self) -> None:
        """Nothing is waited for any more."""
        self._waits.clear()

    def longer_than(self, seconds: float, now: float) -> tuple[str, ...]:
        """What has been waited for longer than that; for `silence`: since something moved."""
        return tuple(wait.what() for wait in self._waits.values() if now - (wait.at - wait.seconds) > seconds)

    def poll_expired(self, now: float) -> DeadlineError | None:
        """The error of a wait that is over, if there is one."""
        for wait in self._waits.values():
            if now >= wait.at:
                return DeadlineError(wait.what(), wait.seconds)
        return None
