"""The source's rounds: when the next one of a class is due, and how hard the owner is to be slowed down."""

from __future__ import annotations

from multifd.messages import SyncDone
from multifd.session.rounds import Rounds

COUNTS = (0,)


def end_round(rounds: Rounds, name: str, now: float, *, sent_bytes: int) -> None:
    """Begin and settle a round of a class."""
    rounds.begin(name, now)
    sync = rounds.sent(name, COUNTS, sent_bytes)
    rounds.handle_done(SyncDone(name, sync.round))


def test_the_worst_class_decides_the_throttle() -> None:
    """A class that converges does not undo the throttle that another one needs, and a level is told once."""
    rounds = Rounds(["bad", "good"])
    told = []
    for now in range(6):
        for name in ("bad", "good"):
            end_round(rounds, name, float(now), sent_bytes=1000)
        told.append(rounds.throttle_level({"bad": 900, "good": 0}))
    assert told == [None, 0.2, None, 0.4, None, 0.6]
