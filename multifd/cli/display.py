"""Live progress for people, on stderr: a bar on a terminal, plain lines elsewhere.

Knows nothing of sessions; reads `Progress` only.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from multifd.cli.names import printable
from multifd.cli.sizes import format_bytes, format_part
from multifd.stats import Progress

FILE_STATES = ("precopy", "switching", "stop-copy", "loading", "loaded", "starting", "committed")  # of either side
PLAIN_INTERVAL_S = 1.0  # a log keeps every line: one a second is enough to see a stall
LIVE_INTERVAL_S = 0.1  # faster than this nobody reads


class Display(Protocol):
    """Where a command shows how it goes."""

    def note(self, text: str) -> None:
        """One line that stays."""
        ...

    def show(self, progress: Progress) -> None:
        """The newest look at the migration; most of them may be dropped."""
        ...

    def close(self) -> None:
        """Nothing more comes. Idempotent."""
        ...


def facts(progress: Progress) -> list[str]:
    """What there is to say about `progress`, most important first; unknown things are left out."""
    words = [progress.state.lower().replace("_", " ")]
    if progress.round:
        words.append(f"round {progress.round}")
    words.append(f"{format_bytes(progress.bytes_sent)} moved")
    if progress.rate > 0:
        words.append(f"{format_bytes(int(progress.rate))}/s")
    if progress.bytes_left:
        words.append(f"{format_bytes(progress.bytes_left)} left")
    if progress.expected_downtime_s is not None:
        words.append(f"expected downtime {progress.expected_downtime_s * 1000:.0f} ms")
    return words


def waits(progress: Progress) -> str:
    """What the switchover waits for, or nothing."""
    return printable("waits for " + "; ".join(progress.waiting_for)) if progress.waiting_for else ""


def fraction(progress: Progress) -> float:
    """How much is the same on both sides, 0 to 1, about. A destination knows no rounds, only what has arrived."""
    if not progress.bytes_total:
        return 0.0
    same = progress.bytes_total - progress.bytes_left if progress.round else progress.bytes_sent
    return min(max(same / progress.bytes_total, 0.0), 1.0)


def migration_facts(progress: Progress) -> list[str]:
    """As `facts`, and what it waits for."""
    return [*facts(progress), *filter(None, [waits(progress)])]


def file_facts(progress: Progress) -> list[str]:
    """The same about files. Nothing before the first byte, since a session that is refused moves none."""
    if not progress.bytes_total or not progress.bytes_sent or progress.state not in FILE_STATES:
        return []
    if progress.state != "precopy":
        return [f"all of {format_bytes(progress.bytes_total)} copied", "making it last"]
    done = min(progress.bytes_sent, progress.bytes_total)
    words = [format_part(done, progress.bytes_total)]
    if progress.rate > 0:
        words.append(f"{format_bytes(int(progress.rate))}/s")
        words.append(f"at most {math.ceil((progress.bytes_total - done) / progress.rate)} s left")
    return words


def file_fraction(progress: Progress) -> float:
    """How much of the files was sent, 0 to 1, at least: holes, and what a codec saves, are in the total alone."""
    return sent_fraction(progress) if progress.state == "precopy" else 1.0


def sent_fraction(progress: Progress) -> float:
    """The bytes that were moved as a part of all, 0 to 1."""
    return min(progress.bytes_sent / progress.bytes_total, 1.0) if progress.bytes_total else 0.0


def rate_and_waits(progress: Progress) -> list[str]:
    """How fast it goes and what it waits for, as far as there is something to say."""
    rate = [f"{format_bytes(progress.rate)}/s"] if progress.rate > 0 else []
    return [*rate, *filter(None, [waits(progress)])]


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a look: words, none if there is nothing to show yet, and how full the bar is."""

    words: Callable[[Progress], list[str]]
    fraction: Callable[[Progress], float]


MIGRATION = View(migration_facts, fraction)
FILES = View(file_facts, file_fraction)


class PlainDisplay:
    """Lines: at most one a second, and one for every change of state."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic, view: View = MIGRATION) -> None:
        self._stream = stream
        self._clock = clock
        self._view = view
        self._state: str | None = None
        self._next_at = 0.0

    def note(self, text: str) -> None:
        """Print it."""
        print(printable(text), file=self._stream, flush=True)

    def show(self, progress: Progress) -> None:
        """Print a line if one is due."""
        now = self._clock()
        if progress.state == self._state and now < self._next_at:
            return
        words = self._view.words(progress)
        if not words:
            return
        self._state = progress.state
        self._next_at = now + PLAIN_INTERVAL_S
        self.note(f"{progress.elapsed_s:.1f} s: {', '.join(words)}")

    def close(self) -> None:
        """Nothing to give back."""


class LiveDisplay:
    """A bar with two lines under it, drawn over itself."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic, view: View = MIGRATION) -> None:
        self._console = console
        self._clock = clock
        self._view = view
        self._live: Live | None = None
        self._next_at = 0.0

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(Text(printable(text)))

    def show(self, progress: Progress) -> None:
        """Draw, if it is time to."""
        now = self._clock()
        if now < self._next_at or not self._view.words(progress):
            return
        self._next_at = now + LIVE_INTERVAL_S
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self.picture(progress), refresh=True)

    def picture(self, progress: Progress) -> Group:
        """What is drawn for `progress`."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=self._view.fraction(progress), width=40),
            Text(f"{self._view.fraction(progress):4.0%}", style="bold"),
            Text(f"{progress.elapsed_s:.1f} s", style="dim"),
        )
        words, waiting = self._view.words(progress), waits(progress)
        lines = [Text(" · ".join(word for word in words if word != waiting))]
        if waiting in words:
            lines.append(Text(waiting, style="yellow"))
        return Group(bar, *lines)

    def close(self) -> None:
        """Take the bar away: the report says it all."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def open_display(stream: TextIO | None = None, view: View = MIGRATION) -> Display:
    """The display for `stream` (stderr): live if it is a terminal that can move its cursor."""
    stream = stream or sys.stderr
    console = Console(file=stream, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console, view=view)
    return PlainDisplay(stream, view=view)
