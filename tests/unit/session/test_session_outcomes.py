"""The book of outcomes: a fate is for ever, is told only to who has the secret, and what is kept is bounded."""

import pytest

from multifd import limits
from multifd.errors import Code, LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.messages import Fate, OutcomeIs
from multifd.session.outcomes import OutcomeBook

SECRET = b"s" * 16


def session(number: int) -> bytes:
    return number.to_bytes(16, "big")


def told(book: OutcomeBook, number: int, now: float = 0.0, secret: bytes = SECRET) -> Fate | None:
    answer = book.fate(session(number), secret, now)
    return None if answer is None else answer.outcome


def test_undecided_then_decided() -> None:
    """None while nobody knows; then fate and cause, as often as asked."""
    book = OutcomeBook()
    book.open(session(1), SECRET)
    assert book.fate(session(1), SECRET, 0.0) is None
    book.decide(session(1), Fate.ABORTED, "main was lost", 1.0)
    for _ in range(2):
        assert book.fate(session(1), SECRET, 2.0) == OutcomeIs(Fate.ABORTED, "main was lost")


def test_unknown_session_and_wrong_secret_read_the_same() -> None:
    """Who has not the secret learns nothing, decided or not."""
    book = OutcomeBook()
    book.open(session(1), SECRET)
    unknown = book.fate(session(2), SECRET, 0.0)
    assert unknown is not None
    assert unknown.outcome is Fate.UNKNOWN
    assert book.fate(session(1), b"x" * 16, 0.0) == unknown
    assert book.fate(session(1), b"", 0.0) == unknown
    book.decide(session(1), Fate.STARTED, "", 0.0)
    assert book.fate(session(1), b"x" * 16, 0.0) == unknown


@pytest.mark.parametrize(("first", "second"), [(Fate.ABORTED, Fate.STARTED), (Fate.STARTED, Fate.ABORTED)])
def test_a_fate_is_for_ever(first: Fate, second: Fate) -> None:
    """The opposite is a fault of this side and changes nothing; the same again is nothing new."""
    book = OutcomeBook()
    book.open(session(1), SECRET)
    book.decide(session(1), first, "first", 0.0)
    with pytest.raises(LocalProtocolError):
        book.decide(session(1), second, "second", 1.0)
    book.decide(session(1), first, "again", 1.0)
    assert book.fate(session(1), SECRET, 1.0) == OutcomeIs(first, "first")


def test_decide_refuses_misuse() -> None:
    """A session that was never opened, and a fate that is none."""
    book = OutcomeBook()
    with pytest.raises(LocalProtocolError):
        book.decide(session(1), Fate.STARTED, "", 0.0)
    book.open(session(1), SECRET)
    with pytest.raises(LocalProtocolError):
        book.decide(session(1), Fate.UNKNOWN, "", 0.0)
    assert told(book, 1) is None


def test_kept_for_its_time_after_the_decision() -> None:
    """Undecided it is kept for any time; decided, for OUTCOME_KEEP_S."""
    book = OutcomeBook()
    book.open(session(1), SECRET)
    late = 1e6
    assert told(book, 1, late) is None
    book.decide(session(1), Fate.STARTED, "", late)
    assert told(book, 1, late + limits.OUTCOME_KEEP_S) is Fate.STARTED
    assert told(book, 1, late + limits.OUTCOME_KEEP_S + 0.1) is Fate.UNKNOWN


def test_an_id_in_the_book_is_not_opened_again() -> None:
    """A second session can't overwrite the fate of a first, open or decided."""
    book = OutcomeBook()
    book.open(session(1), SECRET)
    with pytest.raises(RemoteProtocolError, match="session"):
        book.open(session(1), b"x" * 16)
    book.decide(session(1), Fate.ABORTED, "", 0.0)
    with pytest.raises(RemoteProtocolError, match="session"):
        book.open(session(1), b"x" * 16)
    assert told(book, 1) is Fate.ABORTED


def test_full_book_forgets_what_was_decided_first() -> None:
    """The oldest decision goes, never an open session."""
    book = OutcomeBook()
    for number in range(limits.OUTCOMES_MAX):
        book.open(session(number), SECRET)
    book.decide(session(7), Fate.STARTED, "", 1.0)
    book.decide(session(3), Fate.ABORTED, "", 2.0)
    book.open(session(1000), SECRET)
    assert told(book, 7) is Fate.UNKNOWN
    assert told(book, 3) is Fate.ABORTED
    assert told(book, 0) is None
    assert told(book, 1000) is None


def test_book_full_of_open_sessions_is_busy() -> None:
    """With no record to forget a new session is refused with code busy, and comes in when one is decided."""
    book = OutcomeBook()
    for number in range(limits.OUTCOMES_MAX):
        book.open(session(number), SECRET)
    with pytest.raises(RefusedError) as caught:
        book.open(session(1000), SECRET)
    assert caught.value.refusals[0].code is Code.BUSY
    assert told(book, 1000) is Fate.UNKNOWN
    book.decide(session(5), Fate.ABORTED, "", 0.0)
    book.open(session(1000), SECRET)
    assert told(book, 1000) is None
