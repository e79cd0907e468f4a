"""Every way to end has its exit code, one JSON object and one sentence that says what happened and what to do."""

import json

import pytest

from multifd.cli.ending import ExitCode, InterruptedByUserError, UsageError, exit_code_of, failed, sentence
from multifd.errors import (
    CorruptError,
    MigrationCancelledError,
    MigrationFailedError,
    MigrationInDoubtError,
    MigrationRefusedError,
    RefusedError,
    StorageError,
    TransportError,
)
from multifd.stats import Outcome, Report


def report(outcome: Outcome = Outcome.FAILED) -> Report:
    return Report(side="source", outcome=outcome, cause="the cause")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (MigrationFailedError("no", report()), 1),
        (MigrationRefusedError("no", report()), 3),
        (RefusedError(()), 3),
        (MigrationInDoubtError("no", report()), 4),
        (MigrationCancelledError("the peer cancelled", report()), 1),
        (InterruptedByUserError("interrupted"), 130),
        (KeyboardInterrupt(), 130),
        (TransportError("no"), 1),
        (OSError("no"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """The table in docs/guides/cli.md."""
    assert exit_code_of(error) == code
    assert failed(error).code is ExitCode(code)


def test_a_failure_with_a_report_gives_the_report_as_json() -> None:
    """Outcome and cause are there, and so is the rest of the story."""
    data = json.loads(json.dumps(failed(MigrationFailedError("the disk is full", report())).data))
    assert data["outcome"] == "failed"
    assert data["cause"] == "the disk is full"
    assert data["side"] == "source"


def test_a_failure_without_a_report_still_says_outcome_and_cause() -> None:
    """Errors before the session began."""
    assert failed(CorruptError("broken")).data == {"outcome": "failed", "cause": "broken"}
    assert failed(UsageError("no FILE")).data == {"outcome": "usage", "cause": "no FILE"}


def test_an_interrupted_migration_counts_as_cancelled() -> None:
    """130 for the shell, `cancelled` for programs."""
    assert failed(InterruptedByUserError("interrupted", report(Outcome.CANCELLED))).data["outcome"] == "cancelled"


def test_the_remedy_is_that_of_the_cause() -> None:
    """A failed migration wraps what went wrong."""
    error = MigrationFailedError("no space", report())
    error.__cause__ = StorageError("no space")
    assert "make room" in sentence(error)
    assert "make room" in failed(error).data["hint"]
    assert sentence(MigrationFailedError("no space", report())) == "no space"


def test_the_sentence_is_one_line_and_says_what_to_do_where_it_can() -> None:
    """No new lines, no control characters, the remedy after it."""
    words = sentence(StorageError("no space\nleft.\x1b"))
    assert words.startswith("no space left.\\x1b; ")
    assert "make room" in words
    assert sentence(CorruptError("broken")) == "broken"
    assert sentence(OSError()) == "OSError"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("can't connect to tcp://there:1: Connection refused", "check the address"),
        ("can't listen on tcp://here:1: strange", "take another address"),
        ("the main connection was lost", "start both again"),
        ("the far relay: can't connect to tcp://there:1: Connection refused", "check the address"),
        ("the far relay: can't connect to tcp://there:1: the peer's certificate is not ours", "directories for TLS"),
    ],
)
def test_each_failure_of_a_connection_has_its_own_hint(text: str, words: str) -> None:
    """Whether it could not be made, could not be waited for, or broke."""
    assert words in failed(TransportError(text)).data["hint"]


@pytest.mark.parametrize(
    "text",
    ['there is no "x"', 'can\'t use "x" as a saved machine: it has no manifest.json', '"x" is damaged: vm at 0: it is'],
)
def test_what_cannot_be_read_asks_for_no_room(text: str) -> None:
    """Room is for what is written."""
    assert "right path" in failed(StorageError(text)).data["hint"]


def test_an_error_that_says_where_to_look_has_no_hint() -> None:
    """It would say something else."""
    assert "hint" not in failed(TransportError("the destination ended main: see its own log")).data
