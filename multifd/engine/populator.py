"""Populates a destination's memory in a thread of its own, ahead of the data: page faults cost three to five times more
than all else that a destination does. The data does not wait for it: what it has not reached faults as it arrives.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from multifd import limits
from multifd.memory import Block
from multifd.memory.populate import populate


class Populator:
    """One session's. `start` and `stop` once each. `got` is, by block, how it was populated, in words."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.got: dict[str, str] = {}

    def start(self, blocks: Sequence[Block]) -> None:
        """*loop*: begin with the blocks that have memory, in their order."""
        self._thread = threading.Thread(target=self._run, args=(tuple(blocks),), name="multifd-populate", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """*loop*: populate no more, from now: the source's owner is stopped, and every processor is wanted."""
        self._stop.set()

    def stop(self) -> bool:
        """*pool*: end, soon. False if it did not within `CLOSE_DEADLINE_S`."""
        self._stop.set()
        return self.join(limits.CLOSE_DEADLINE_S)

    def join(self, seconds: float) -> bool:
        """*pool*: wait until it is through; False if it is not, after so many seconds."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if block.memory is not None:
                self.got[block.name] = populate(block.memory, self._stop)
