"""Populates a destination's memory in a thread of its own, ahead of the data: page faults cost three to five times more
than all else that a destination does. The data does not wait for it: what it has not reached faults as it arrives.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from multifd.memory import Block
from multifd.memory.populate import populate


class Populator:
    """One session's. `start` and `stop` once each."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._got: dict[str, str] = {}

    def start(self, blocks: Sequence[Block]) -> None:
        """*loop*: begin with the blocks that have memory, in their order."""
        self._thread = threading.Thread(target=self._run, args=(tuple(blocks),), name="multifd-populate", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """*loop*: populate no more, from now: the source's owner is stopped, and every processor is wanted."""
        self._stop.set()

    def stop(self) -> dict[str, str]:
        """*pool*: end, soon; block name to what it got, in words."""
        self._stop.set()
        self.join()
        return self._got

    def join(self) -> None:
        """*pool*: wait until it is through."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if block.memory is not None:
                self._got[block.name] = populate(block.memory, self._stop)
