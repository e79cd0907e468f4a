"""A command for files speaks of files, and of who called it off."""

from multifd.cli.wording import Wording
from multifd.errors import Code, MigrationFailedError, MigrationRefusedError, PeerError
from multifd.stats import Outcome, Report

WORDING = Wording(peer="the receiver", block="file")


def test_refused_blocks_are_files() -> None:
    """In the text and in the report; other things keep their names."""
    refusals = ("block a: it exists", "block b: no room", "device nic/0: unknown")
    report = Report(side="source", outcome=Outcome.REFUSED, refusals=refusals)
    told = WORDING.reworded(MigrationRefusedError("; ".join(refusals), report))
    assert isinstance(told, MigrationRefusedError)
    assert str(told) == told.report.cause == "file a: it exists; file b: no room; device nic/0: unknown"
    assert told.report.refusals == ("file a: it exists", "file b: no room", "device nic/0: unknown")


def test_who_called_it_off_is_named() -> None:
    """If it was the other side's wish, and only then."""
    report = Report(side="source")
    for code, text in (
        (Code.CANCELLED, "the receiver called it off (interrupted by the user)"),
        (Code.INTERNAL, "interrupted by the user"),
    ):
        error = MigrationFailedError("interrupted by the user", report)
        error.__cause__ = PeerError(code, "interrupted by the user")
        told = WORDING.reworded(error)
        assert str(told) == text
        assert told.__cause__ is error.__cause__
