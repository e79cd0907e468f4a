"""While the guest still runs: have what has arrived written to the disk, so that little is left to be waited for when
it stands still.
"""

from __future__ import annotations

import time

from multifd import limits
from multifd.qemu.target import MachineTarget
from multifd.qemu.target_calls import TargetCalls


class EarlyFlush:
    """*loop*: one session's. A flush is due at a sync point, and when much has come; one at a time."""

    def __init__(self, target: MachineTarget, calls: TargetCalls) -> None:
        self.count = 0
        """How often it was done."""
        self._target = target
        self._calls = calls
        self._under_way = False
        self._syncs = self._bytes = 0
        """What there was of them at the last one."""
        self._ended_at = 0.0

    def is_due(self, *, syncs: int, received: int, now: float) -> bool:
        """Whether to call `run` now."""
        waits = self._under_way or now - self._ended_at < limits.QEMU_FLUSH_PAUSE_S
        has_reason = syncs > self._syncs or received - self._bytes >= limits.QEMU_FLUSH_BYTES
        if waits or not has_reason or received == self._bytes:
            return False
        self._under_way = True
        self._syncs, self._bytes = syncs, received
        return True

    async def run(self) -> None:
        """Flush once. Raises what the target does."""
        try:
            await self._calls.call("can't write to the disk", self._target.flush)
            self.count += 1
        finally:
            self._under_way = False
            self._ended_at = time.monotonic()
