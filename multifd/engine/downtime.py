"""The downtime, from asking the owner to stop to STARTED, split at named moments. Times are the loop's."""

from __future__ import annotations


class DowntimeClock:
    """Begun at most once at a time; a switchover that is called off begins anew."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0
        self._parts: dict[str, float] = {}
        self._ended: float | None = None

    def begin(self, now: float) -> None:
        """The owner is being asked to stop."""
        self._began = self._last = now
        self._ended = None
        self._parts = {}

    def mark(self, part: str, now: float) -> None:
        """The part that began at the last mark ends."""
        if self._began is not None and self._ended is None:
            self._parts[part] = self._parts.get(part, 0.0) + now - self._last
            self._last = now

    def end(self, part: str, now: float) -> None:
        """The last part ends: an owner runs again, here or there."""
        self.mark(part, now)
        self._ended = self._last if self._began is not None else None

    @property
    def total_ms(self) -> float | None:
        """All of it; None if the owner was never stopped."""
        if self._began is None:
            return None
        return round(((self._ended or self._last) - self._began) * 1e3, 3)

    @property
    def parts_ms(self) -> dict[str, float]:
        """By part, in order."""
        return {name: round(seconds * 1e3, 3) for name, seconds in self._parts.items()}
