"""Progress as an async iterator: a slow reader misses old snapshots and holds up nobody. Loop only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from multifd import limits
from multifd.stats import Progress


class ProgressFeed:
    """One publisher, any number of readers. A reader that comes late gets the newest snapshot first."""

    def __init__(self) -> None:
        self._readers: list[tuple[deque[Progress], asyncio.Event]] = []
        self._newest: Progress | None = None
        self._closed = False

    def publish(self, progress: Progress) -> None:
        """A new snapshot for all readers."""
        self._newest = progress
        for snapshots, changed in self._readers:
            snapshots.append(progress)
            changed.set()

    def close(self) -> None:
        """No more: the readers' loops end after what they have not read yet."""
        self._closed = True
        for _, changed in self._readers:
            changed.set()

    async def read(self) -> AsyncIterator[Progress]:
        """Snapshots until the end of the session."""
        snapshots: deque[Progress] = deque(maxlen=limits.PROGRESS_MAX)
        changed = asyncio.Event()
        if self._newest is not None:
            snapshots.append(self._newest)
        reader = (snapshots, changed)
        self._readers.append(reader)
        try:
            while True:
                while snapshots:
                    yield snapshots.popleft()
                if self._closed:
                    return
                changed.clear()
                await changed.wait()
        finally:
            self._readers.remove(reader)
