"""What an emulated device can be told to be like, and to do wrong. Plain data; knows nothing of the device."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass

from multifd.limits import CHUNK_BYTES_MAX, KIB


class Step(enum.StrEnum):
    """Where a device can be told to fail or to hang."""

    SAVE_INITIAL = "save-initial"
    SAVE_LIVE = "save-live"
    SAVE_STOP_COPY = "save-stop-copy"
    LOAD_INITIAL = "load-initial"
    LOAD_LIVE = "load-live"
    LOAD_STOP_COPY = "load-stop-copy"
    SET_UP = "set-up"
    STATE_STOP = "state-stop"
    STATE_RUNNING = "state-running"
    STATE_PRE_COPY = "state-pre-copy"
    STATE_STOP_COPY = "state-stop-copy"
    STATE_RESUMING = "state-resuming"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedOptions:
    """What an emulated device is like. Source and destination may be given the same; each uses what concerns it."""

    initial_bytes: int = 0
    live_bytes: int = 0
    """Dirty when precopy begins."""
    dirty_bytes_per_s: float = 0.0
    """How fast live state gets dirty from then on, while the owner runs."""
    stop_copy_bytes: int = 0
    """What can be saved only once it is stopped; live state that is dirty then comes on top."""
    setup_s: float = 0.0
    """Set-up at the destination after every pass of the initial phase."""
    save_s_per_mib: float = 0.0
    load_s_per_mib: float = 0.0
    rearm_after_s: tuple[float, ...] = ()
    """Re-arms, each so long after the end of the first initial phase; every one has `initial_bytes` anew."""
    rearm_at_stop: int = 0
    """How many of the owner's stops (`EmulatedDevice.owner_stopped`) make it re-arm."""
    wrong_estimate: float = 1.0
    """Factor by which `pending` and `expected_bytes` lie."""
    unknown_estimate: bool = False
    """It can't say how much is left, except that a re-arm is always told."""
    fail_at: Step | None = None
    """Raise when this step has begun: a save after its first chunk, a load before it takes one."""
    hang_at: Step | None = None
    """Never return from this step (it can be cancelled)."""
    chunk_bytes: int = 256 * KIB
    explicit_switchover: bool = True
    token: str = "multifd.example/emulated;1"  # noqa: S105 - a compatibility token is no secret
    declared_stop_s: float | None = None
    """`Device.stop_seconds`: what it says that it needs in the stop, true or not."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{field.name} is negative: {value}")
        if not 1 <= self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}, not 1..{CHUNK_BYTES_MAX}")
        if (self.rearm_after_s or self.rearm_at_stop) and not self.initial_bytes:
            raise ValueError("a device without initial_bytes has nothing to re-arm with")
