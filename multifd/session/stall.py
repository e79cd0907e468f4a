"""Tells a stall: slots are under way and the destination settles none."""

from __future__ import annotations

from dataclasses import dataclass

from multifd import limits


@dataclass(slots=True)
class StallWatch:
    """Counts of slots over all channels; times are the caller's `now`."""

    sent: int = 0
    settled: int = 0
    moved_at: float = 0.0

    @property
    def behind(self) -> int:
        """Slots sent and not settled."""
        return self.sent - self.settled

    @property
    def due_at(self) -> float | None:
        """When it is a stall if nothing moves; None while nothing is under way."""
        return self.moved_at + limits.STALL_DEADLINE_S if self.behind > 0 else None

    def handle_sent(self, slots: int, now: float) -> None:
        """So many were sent, in all."""
        if self.behind <= 0:
            self.moved_at = now
        self.sent = slots

    def handle_settled(self, slots: int, now: float) -> None:
        """So many were settled, in all."""
        if slots > self.settled:
            self.settled = slots
            self.moved_at = now
