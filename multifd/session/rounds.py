"""The source's rounds, class by class: which is running, which may begin, how hard the owner is to be slowed down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from multifd import limits
from multifd.messages import Sync, SyncDone
from multifd.session.convergence import Throttle
from multifd.session.sync import SourceBarrier


@dataclass(slots=True)
class _Class:
    """Where one class is between two rounds."""

    begun_at: float = 0.0
    sent_bytes: int = 0
    repeat: bool = False
    """Slots of the round that runs have to be sent again."""
    unthrottled: bool = False
    """A round has ended and the throttle has not looked at it yet."""
    throttle: Throttle = field(default_factory=Throttle)
    level: float = 0.0


class Rounds:
    """All classes of a session. Times are the caller's `now`."""

    def __init__(self, classes: Iterable[str]) -> None:
        self._classes = {name: _Class() for name in classes}
        self._barrier = SourceBarrier()
        self._level = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of all classes."""
        return tuple(self._classes)

    @property
    def running(self) -> tuple[str, ...]:
        """Classes whose round has begun and is not settled."""
        return tuple(name for name in self._classes if not self._barrier.is_done(name))

    @property
    def begun(self) -> int:
        """Rounds begun by the class that has begun most."""
        return max((self._barrier.round_of(name) for name in self._classes), default=0)

    def begin(self, name: str, now: float) -> None:
        """A class's next round begins. Raises `LocalProtocolError` if its last one is not settled."""
        self._barrier.begin(name)
        each = self._classes[name]
        each.begun_at = now

    def sent(self, name: str, counts: tuple[int, ...], sent_bytes: int) -> Sync:
        """The last slot of a class's round is in a channel: the SYNC to send."""
        self._classes[name].sent_bytes = sent_bytes
        return self._barrier.sent(name, counts)

    def handle_done(self, done: SyncDone) -> None:
        """SYNC_DONE arrived. Raises `RemoteProtocolError`."""
        self._barrier.handle_done(done)
        each = self._classes[done.class_name]
        each.unthrottled = True

    def handle_again(self, name: str) -> None:
        """A slot of a class is sent again as it was: nothing newer may be on its way before that is settled."""
        if name in self._classes:
            self._classes[name].repeat = not self._barrier.is_done(name)

    def take_repeat(self, name: str) -> bool:
        """Whether the round that has just ended is to be followed by one of nothing but what is sent again."""
        each = self._classes[name]
        repeat, each.repeat = each.repeat, False
        return repeat

    def due(self, pending: Mapping[str, int], *, fits: bool, now: float) -> list[str]:
        """Classes whose next round should begin: idle and dirty ones; without haste if all fits the limit already."""
        pause = limits.ROUND_PAUSE_S if fits else 0.0
        return [
            name
            for name, each in self._classes.items()
            if self._barrier.is_done(name) and pending.get(name, 0) > 0 and now >= each.begun_at + pause
        ]

    def throttle_level(self, pending: Mapping[str, int]) -> float | None:
        """How hard to slow the owner down, by the class that needs it most; None if that is what it was."""
        for name, each in self._classes.items():
            if each.unthrottled and self._barrier.is_done(name):
                each.unthrottled = False
                each.level = each.throttle.next_level(pending.get(name, 0), each.sent_bytes)
        before, self._level = self._level, max((each.level for each in self._classes.values()), default=0.0)
        return self._level if self._level != before else None
