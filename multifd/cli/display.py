"""Live progress for people, on stderr: a bar on a terminal, plain lines elsewhere.

Knows nothing of sessions; reads `Progress` only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from multifd.cli.names import printable
from multifd.cli.sizes import format_bytes
from multifd.stats import Progress

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


class PlainDisplay:
    """Lines: at most one a second, and one for every change of state."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
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
        self._state = progress.state
        self._next_at = now + PLAIN_INTERVAL_S
        self.note(
            ", ".join(
                [f"{progress.elapsed_s:.1f} s: {facts(progress)[0]}", *facts(progress)[1:], waits(progress)]
            ).rstrip(", ")
        )

    def close(self) -> None:
        """Nothing to give back."""


class LiveDisplay:
    """A bar with two lines under it, drawn over itself."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._next_at = 0.0

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(Text(printable(text)))

    def show(self, progress: Progress) -> None:
        """Draw, if it is time to."""
        now = self._clock()
        if now < self._next_at:
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
            ProgressBar(total=1.0, completed=fraction(progress), width=40),
            Text(f"{fraction(progress):4.0%}", style="bold"),
            Text(f"{progress.elapsed_s:.1f} s", style="dim"),
        )
        lines = [Text(" · ".join(facts(progress)))]
        if progress.waiting_for:
            lines.append(Text(waits(progress), style="yellow"))
        return Group(bar, *lines)

    def close(self) -> None:
        """Take the bar away: the report says it all."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def open_display(stream: TextIO | None = None) -> Display:
    """The display for `stream` (stderr): live if it is a terminal that can move its cursor."""
    stream = stream or sys.stderr
    console = Console(file=stream, highlight=False)
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(stream)
