"""The words in which a command speaks of its migration: the engine knows blocks and owners, people know files."""

from __future__ import annotations

from dataclasses import dataclass

from multifd.cli.hints import called_off_by_peer
from multifd.errors import MigrationError


@dataclass(frozen=True, slots=True)
class Wording:
    """Of one side of one command."""

    peer: str = "the other side"
    interrupted: str = "interrupted; everything runs on at the source"
    """What is so after a signal."""
    block: str = "block"
    """What a block is called."""

    def reworded(self, error: MigrationError) -> MigrationError:
        """The same end of the same session, in these words: a new exception with the cause and report of `error`."""
        report, text = error.report, str(error)
        told = tuple(self._renamed(refusal) for refusal in report.refusals)
        if report.refusals and text == "; ".join(report.refusals):
            text = "; ".join(told)
        if called_off_by_peer(error):
            text = f"{self.peer} called it off ({text})"
        report.refusals, report.cause = told, text
        new = type(error)(text, report)
        new.__cause__ = error.__cause__
        return new

    def _renamed(self, refusal: str) -> str:
        rest = refusal.removeprefix("block ")
        return refusal if rest == refusal else f"{self.block} {rest}"
