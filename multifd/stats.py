"""What a migration tells about itself: progress while it runs, one report at its end. Plain data; knows nothing of the
layers that fill it.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any

from multifd.slot import SlotTally


class Outcome(enum.Enum):
    """How a session ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    IN_DOUBT = "in-doubt"
    PREFLIGHTED = "preflighted"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a running migration. Rates in bytes per second, times in seconds since `run` was called."""

    state: str
    elapsed_s: float
    round: int = 0
    """Rounds of memory begun."""
    bytes_sent: int = 0
    """Payload bytes on the wire (destination: received)."""
    bytes_total: int = 0
    """Size of all blocks."""
    bytes_left: int = 0
    """Of the round that is under way, about."""
    rate: float = 0.0
    """Payload bytes per second over the last moments."""
    expected_downtime_s: float | None = None
    waiting_for: tuple[str, ...] = ()
    """Why it has not switched over, one entry per device, block or rule; empty when nothing is in the way."""


@dataclass(slots=True)
class DeviceReport:
    """One device's part in the switchover."""

    name: str
    took_part: bool
    epoch: int = 0
    waited_ms: float = 0.0
    """How long all else was ready to switch and this device was not."""
    bytes: int = 0
    chunks: int = 0
    load_ms: float = 0.0
    set_up_ms: float = 0.0


@dataclass(slots=True)
class Report:
    """The whole story of a session, from one side."""

    side: str
    outcome: Outcome = Outcome.FAILED
    cause: str = ""
    session: str = ""
    channels: int = 0
    rounds: int = 0
    bytes_sent: int = 0
    """Payload bytes on the wire (destination: received)."""
    elapsed_s: float = 0.0
    transfer_s: float = 0.0
    """From the first slot to END."""
    downtime_ms: float | None = None
    """Source: from asking the owner to stop to STARTED. None if the owner was never stopped."""
    downtime_parts_ms: dict[str, float] = field(default_factory=dict)
    switchover: list[DeviceReport] = field(default_factory=list)
    explicit_switchover: bool = False
    kinds: dict[str, SlotTally] = field(default_factory=dict)
    mismatches: int = 0
    """Slots of live memory that changed while being sent, and were counted as dirty."""
    corrupt_resends: int = 0
    switchover_returns: int = 0
    trackers: dict[str, str] = field(default_factory=dict)
    """Block name → mode of dirty tracking really in use."""
    populated: dict[str, str] = field(default_factory=dict)
    """Destination: block name → how its memory was populated ahead of the data, in words."""
    codec: str = "none"
    """As the source asked for it; its destination does not know a level."""
    codecs: dict[str, SlotTally] = field(default_factory=dict)
    """Slots with payload by what encoded it; those that could have been and did not occur have 0 slots."""
    security: str = ""
    """Of the connections: `plain`, or TLS's version and cipher; empty if there was none."""
    congestion_control: str = ""
    waiting_for: tuple[str, ...] = ()
    """What stood in the way of the switchover when the session ended without it."""
    refusals: tuple[str, ...] = ()

    @property
    def throughput_gbytes_per_s(self) -> float:
        """Payload on the wire over the transfer's time, 1e9 bytes per second."""
        return self.bytes_sent / self.transfer_s / 1e9 if self.transfer_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `switchover` becomes a map by device name."""
        data = dataclasses.asdict(self)
        data["outcome"] = self.outcome.value
        data["throughput_gbytes_per_s"] = round(self.throughput_gbytes_per_s, 4)
        data["switchover"] = {device.pop("name"): device for device in data["switchover"]}
        data["waiting_for"] = list(self.waiting_for)
        data["refusals"] = list(self.refusals)
        return data
