"""What became of the sessions of a destination, for sources that ask OUTCOME (proto/states.md section 5).

ABORTED is for ever and so is STARTED: this is where it is made sure that exactly one side runs. Knows nothing of
connections or of the machines; time is an argument. Kept by the engine's destination, which outlives its sessions.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from multifd import limits
from multifd.errors import Code, LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.messages import Fate, OutcomeIs, Refusal, What

UNKNOWN = OutcomeIs(Fate.UNKNOWN, "no such session is known here")


@dataclass(slots=True)
class _Record:
    secret: bytes
    fate: Fate | None = None
    cause: str = ""
    decided_at: float = 0.0


class OutcomeBook:
    """At most `OUTCOMES_MAX` sessions; each is kept while undecided, and for `OUTCOME_KEEP_S` after that."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Record] = {}
        self._decided: dict[bytes, _Record] = {}  # in the order in which they were decided

    def open(self, session: bytes, secret: bytes) -> None:
        """A session begins. If the book is full the session that was decided first is forgotten.

        Raises `RemoteProtocolError` for an id that is still in the book: ids come from sources, and a second session
        must not overwrite the fate of a first. Raises `RefusedError` (busy) if all places are taken by open sessions.
        """
        if session in self._open or session in self._decided:
            raise RemoteProtocolError("HELLO.session", "an id that no other session has", session.hex())
        if len(self._open) + len(self._decided) >= limits.OUTCOMES_MAX:
            if not self._decided:
                cause = f"{limits.OUTCOMES_MAX} sessions are under way here"
                raise RefusedError((Refusal(What.SESSION, session.hex(), Code.BUSY, cause),))
            del self._decided[next(iter(self._decided))]
        self._open[session] = _Record(secret)

    def decide(self, session: bytes, fate: Fate, cause: str, now: float) -> None:
        """The session's fate, STARTED or ABORTED, once and for all. Saying the same again changes nothing.

        Raises `LocalProtocolError` for the opposite of what was decided, and for a session that is not in the book.
        """
        self._forget_old(now)
        if fate is Fate.UNKNOWN:
            raise LocalProtocolError("the outcome of a session", "STARTED or ABORTED", fate.name)
        decided = self._decided.get(session)
        if decided is not None:
            if decided.fate is not fate:
                where = f"the outcome of session {session.hex()}"
                raise LocalProtocolError(where, "no change of what was decided", fate.name)
            return
        record = self._open.pop(session, None)
        if record is None:
            raise LocalProtocolError("the outcome of a session", "a session in the book", session.hex())
        record.fate, record.cause, record.decided_at = fate, cause, now
        self._decided[session] = record

    def fate(self, session: bytes, secret: bytes, now: float) -> OutcomeIs | None:
        """The answer to OUTCOME; None if it is not decided yet. With a wrong secret the session is not known."""
        self._forget_old(now)
        record = self._decided.get(session) or self._open.get(session)
        if record is None or not hmac.compare_digest(record.secret, secret):
            return UNKNOWN
        return None if record.fate is None else OutcomeIs(record.fate, record.cause)

    def _forget_old(self, now: float) -> None:
        for session, record in list(self._decided.items()):
            if now - record.decided_at <= limits.OUTCOME_KEEP_S:
                break
            del self._decided[session]
