"""The interface of dirty trackers, and the one that tracks nothing. One facility per file beside this one: kernel.py,
software.py.
"""

from __future__ import annotations

import abc

from multifd.memory.extents import Extents, empty

HINT = 'pass tracker="software" and mark what is written, or tracker="none" if nobody writes while it is sent'
"""What to do where the kernel does not track."""


class Tracker(abc.ABC):
    """Knows which parts of one block were written since they were last collected.

    Calls come from one thread at a time. `start` begins: what was written before it does not count (the first sweep
    sends everything anyway). After `stop` it can be started again.
    """

    mode: str
    """What it really is, for the report: `kernel (userfaultfd, anonymous)`, `software`, `none (static)`, ..."""

    @abc.abstractmethod
    def start(self) -> None:
        """Begin to track, or, if it runs already, begin anew. Raise `TrackingError` if it can't be done."""

    @abc.abstractmethod
    def collect(self) -> Extents:
        """Get and clear in one step: extents written since the last `collect` or `start`, whole pages but for a block's
        odd end.

        A write that happens meanwhile is in this answer or in the next, never in neither.
        """

    @abc.abstractmethod
    def count(self) -> int:
        """Dirty bytes now, about, without clearing anything."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End, and give back what it holds. Idempotent."""


class StaticTracker(Tracker):
    """For data that nobody writes: nothing is ever dirty."""

    mode = "none (static)"

    def start(self) -> None:
        """Nothing to do."""

    def collect(self) -> Extents:
        """Nothing is dirty."""
        return empty()

    def count(self) -> int:
        """Nothing is dirty."""
        return 0

    def stop(self) -> None:
        """Nothing to do."""
