"""The barrier that ends a round: SYNC and SYNC_DONE (proto/states.md section 3), one machine for each end.

Classes do not wait for each other. Knows neither slots nor channels beyond their number, and sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multifd import limits
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.messages import Sync, SyncDone


@dataclass(slots=True)
class _Round:
    """The newest round of one class at the source."""

    number: int = 0
    sent: bool = True
    done: bool = True


def _fallen(counts: Sequence[int], earlier: Sequence[int]) -> bool:
    return any(count < before for count, before in zip(counts, earlier, strict=False))


class SourceBarrier:
    """The source's half. Per class: `begin` → `sent` → `handle_done`, and again."""

    def __init__(self) -> None:
        self._rounds: dict[str, _Round] = {}
        self._counts: tuple[int, ...] | None = None  # of the newest SYNC of any class

    def begin(self, class_name: str) -> int:
        """Begin the next round of a class; its number, from 1.

        Raises `LocalProtocolError` while the previous one is not done.
        """
        entry = self._rounds.get(class_name)
        if entry is None:
            if len(self._rounds) >= limits.ITEMS_MAX:
                raise LocalProtocolError("SYNC.class", f"at most {limits.ITEMS_MAX} classes", class_name)
            entry = self._rounds[class_name] = _Round()
        if not entry.done:
            raise LocalProtocolError(
                f"a round of {class_name}", f"SYNC_DONE of round {entry.number} before the next begins"
            )
        entry.number += 1
        entry.sent = entry.done = False
        return entry.number

    def sent(self, class_name: str, counts: tuple[int, ...]) -> Sync:
        """The SYNC to send: the round's last slot is in a channel, `counts` are slots sent so far on channels 1..N."""
        entry = self._rounds.get(class_name)
        if entry is None or entry.sent:
            raise LocalProtocolError(f"SYNC of {class_name}", "a round that was begun and has no SYNC yet")
        if self._counts is not None and (len(counts) != len(self._counts) or _fallen(counts, self._counts)):
            raise LocalProtocolError("SYNC.counts", f"nothing below {self._counts}", counts)
        entry.sent = True
        self._counts = counts
        return Sync(class_name, entry.number, counts)

    def handle_done(self, done: SyncDone) -> None:
        """SYNC_DONE arrived. Raises `RemoteProtocolError` unless it answers the class's outstanding SYNC."""
        entry = self._rounds.get(done.class_name)
        if entry is None:
            raise RemoteProtocolError("SYNC_DONE.class", "a class that has sent SYNC", done.class_name)
        if not entry.sent or entry.done:
            raise RemoteProtocolError(f"SYNC_DONE of {done.class_name}", "an outstanding SYNC", done.round)
        if done.round != entry.number:
            raise RemoteProtocolError(f"SYNC_DONE.round of {done.class_name}", str(entry.number), done.round)
        entry.done = True

    def is_done(self, class_name: str) -> bool:
        """Whether no round of the class is under way, so that the next may begin (true before the first)."""
        entry = self._rounds.get(class_name)
        return entry is None or entry.done

    def round_of(self, class_name: str) -> int:
        """The newest round that was begun, 0 before the first."""
        entry = self._rounds.get(class_name)
        return 0 if entry is None else entry.number


class DestinationBarrier:
    """The destination's half. `classes` are the names that SYNC may use; None admits any, `ITEMS_MAX` of them."""

    def __init__(self, channels: int, classes: frozenset[str] | None) -> None:
        self._classes = classes
        self._rounds: dict[str, int] = {}
        self._counts = (0,) * channels  # of the newest SYNC of any class: main is first in, first out
        self._outstanding: dict[str, Sync] = {}

    @property
    def open(self) -> bool:
        """Whether a SYNC waits for its answer."""
        return bool(self._outstanding)

    def handle_sync(self, sync: Sync) -> None:
        """SYNC arrived. Raises `RemoteProtocolError` if class, round or counts can't be."""
        name = sync.class_name
        if self._classes is not None and name not in self._classes:
            raise RemoteProtocolError("SYNC.class", "a class of this session", name)
        if name not in self._rounds and len(self._rounds) >= limits.ITEMS_MAX:
            raise RemoteProtocolError("SYNC.class", f"at most {limits.ITEMS_MAX} classes", name)
        if name in self._outstanding:
            expected = f"SYNC_DONE of round {self._rounds[name]} to be waited for"
            raise RemoteProtocolError(f"SYNC of {name}", expected, sync.round)
        expected_round = self._rounds.get(name, 0) + 1
        if sync.round != expected_round:
            raise RemoteProtocolError(f"SYNC.round of {name}", str(expected_round), sync.round)
        if len(sync.counts) != len(self._counts):
            raise RemoteProtocolError("SYNC.counts", f"{len(self._counts)} counts", len(sync.counts))
        if _fallen(sync.counts, self._counts):
            raise RemoteProtocolError("SYNC.counts", f"nothing below {self._counts}", sync.counts)
        self._rounds[name] = sync.round
        self._counts = sync.counts
        self._outstanding[name] = sync

    def poll_done(self, settled: Sequence[int]) -> list[SyncDone]:
        """The answers that are due, each once; `settled` are slots settled so far on channels 1..N."""
        if len(settled) != len(self._counts):
            raise LocalProtocolError("settled counts", f"{len(self._counts)} counts", len(settled))
        due = [sync for sync in self._outstanding.values() if not _fallen(settled, sync.counts)]
        for sync in due:
            del self._outstanding[sync.class_name]
        return [SyncDone(sync.class_name, sync.round) for sync in due]
