"""How a command ends: its exit code, and the one JSON object or the one sentence that says what happened.

Prints nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from multifd.cli.hints import hint_of
from multifd.cli.names import printable
from multifd.errors import (
    MigrationCancelledError,
    MigrationError,
    MigrationInDoubtError,
    MigrationRefusedError,
    RefusedError,
)
from multifd.stats import Report


class ExitCode(enum.IntEnum):
    """What the process exits with; the same for every command (docs/guides/cli.md)."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    IN_DOUBT = 4
    INTERRUPTED = 130


EXIT_CODES_HELP = """\
exit codes:
  0    completed
  1    failed or called off: nothing has changed on either side
  2    the command line makes no sense
  3    refused by the destination before anything was sent
  4    in doubt: nobody knows which side has it (docs/guides/in-doubt.md)
  130  interrupted: nothing has changed on either side
"""


class UsageError(Exception):
    """The command line asks for something that makes no sense. The text says what, and what would."""


class InterruptedByUserError(Exception):
    """SIGINT or SIGTERM ended the command before its migration completed; `report` if a session had begun."""

    def __init__(self, what: str, report: Report | None = None) -> None:
        self.report = report
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Ending:
    """What is left of a command: `data` for programs, `text` for people, and a sentence, `fault`, if it failed."""

    code: ExitCode
    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    fault: str = ""


_OUTCOME_WORDS = {
    ExitCode.COMPLETED: "completed",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "usage",
    ExitCode.REFUSED: "refused",
    ExitCode.IN_DOUBT: "in-doubt",
    ExitCode.INTERRUPTED: "cancelled",
}


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code that `error` stands for."""
    match error:
        case UsageError():
            return ExitCode.USAGE
        case InterruptedByUserError() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case MigrationRefusedError() | RefusedError():
            return ExitCode.REFUSED
        case MigrationInDoubtError():
            return ExitCode.IN_DOUBT
        case _:
            return ExitCode.FAILED


def sentence(error: BaseException) -> str:
    """What happened and, where there is something, what to do, in one line."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    hint = hint_of(error)
    return f"{text.rstrip('.')}; {hint}" if hint else text


def failed(error: BaseException) -> Ending:
    """The ending of a command that `error` ended. Errors that carry a report give it to the JSON object; `hint` is in
    it if there is something to do.
    """
    code = exit_code_of(error)
    report = error.report if isinstance(error, MigrationError | InterruptedByUserError) else None
    data = report.to_json() if report is not None else {}
    outcome = "cancelled" if isinstance(error, MigrationCancelledError) else _OUTCOME_WORDS[code]
    data |= {"outcome": outcome, "cause": str(error) or type(error).__name__}
    hint = hint_of(error)
    return Ending(code, data | ({"hint": hint} if hint else {}), fault=sentence(error))
