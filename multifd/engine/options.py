"""What a user can choose. Sizes in bytes, times in seconds; defaults are for a LAN."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from multifd import limits
from multifd.codec import CODECS, NONE, check_choice
from multifd.engine.tls import Tls

DEVICE_CREDIT_BYTES_MIN = limits.CHUNK_BYTES_MAX + limits.CHUNK_COST_BYTES


class GiveUp(enum.Enum):
    """What to do when the migration does not converge before its deadline."""

    FAIL = "fail"
    """End; the owner runs on at the source."""
    SWITCH = "switch"
    """Switch over all the same, whatever the downtime, if the devices that take part are ready."""


class OnRearm(enum.Enum):
    """What to do when a device re-arms after the decision to switch over, before stop-copy."""

    RETURN = "return"
    """Back to precopy, at most `SWITCHOVER_RETURNS_MAX` times."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Options of a source. `ValueError` if one can't be."""

    channels: int = 4
    codec: str = NONE
    """`none`, `zstd` (level 1), `zstd:1` to `zstd:9`, `lz4`, or `auto`: for each slot whatever is quickest on this
    link, of what both sides have."""
    explicit_switchover: bool = True
    downtime_limit_s: float = 0.3
    deadline_s: float = 600.0
    """Until the decision to switch over; when it passes `give_up` says what happens."""
    bandwidth_limit: int | None = None
    """Payload bytes per second over all channels; also in the stop."""
    give_up: GiveUp = GiveUp.FAIL
    on_rearm: OnRearm = OnRearm.RETURN
    auto_converge: bool = False
    """Call the owner's `throttle`, step by step, when memory gets dirty faster than it is sent."""
    slot_bytes: int = limits.SLOT_BYTES
    zero_detection: bool = True
    """Look for zero pages in RAM, and send their extents in place of them."""
    congestion_control: str | None = None
    """TCP congestion control of the data channels, e.g. `cubic`; None is the system's."""
    socket_buffer: int | None = None
    """SO_SNDBUF and SO_RCVBUF of the data channels; None: at most 1 MiB where one was accepted from the
    same host, else the kernel tunes.
    """
    tls: Tls | None = None
    """`Tls.load(DIR, server=False)`: all connections under TLS; None is plain."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that can't be."""
        _check_range("channels", self.channels, 1, limits.CHANNELS_MAX)
        _check_codec(self.codec)
        _check_range("slot_bytes", self.slot_bytes, limits.SLOT_BYTES_MIN, limits.SLOT_BYTES_MAX)
        _check_range("downtime_limit_s", self.downtime_limit_s, 0, limits.SECONDS_MAX)
        _check_range("deadline_s", self.deadline_s, 0, limits.SECONDS_MAX)
        if self.tls is not None and self.tls.server:
            raise ValueError("tls is a server's; a source connects, so that it needs one loaded with server=False")
        _check_positive("bandwidth_limit", self.bandwidth_limit)
        _check_positive("socket_buffer", self.socket_buffer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationOptions:
    """Options of a destination. `ValueError` if one can't be."""

    channels_max: int = 16
    codecs: tuple[str, ...] = ("zstd", "lz4")
    """Codecs that it admits besides `none`."""
    explicit_switchover: bool = True
    """Whether it is able to."""
    device_credit: int = limits.DEVICE_CREDIT_BYTES
    end_if_refused: bool = False
    """Have `run` end with `MigrationRefusedError` when an offer is refused, as fits a destination that awaits one known
    source; else it goes on waiting for another."""
    populate: bool = True
    """Populate the blocks' memory ahead of the data, with huge pages where possible, while the first slots arrive. Turn
    it off for memory that is populated already, or of which most will never be used."""
    congestion_control: str | None = None
    socket_buffer: int | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that can't be."""
        _check_range("channels_max", self.channels_max, 1, limits.CHANNELS_MAX)
        _check_codecs("codecs", self.codecs, tuple(CODECS))
        if self.device_credit < DEVICE_CREDIT_BYTES_MIN:  # the largest chunk could never be sent
            raise ValueError(f"device_credit is {self.device_credit}; at least {DEVICE_CREDIT_BYTES_MIN} is possible")
        _check_positive("socket_buffer", self.socket_buffer)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # true for NaN
        raise ValueError(f"{name} is {value}; {low:g} to {high:g} is possible")


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; None or at least 1 is possible")


def _check_codec(chosen: str) -> None:
    try:
        check_choice(chosen)
    except ValueError as error:
        raise ValueError(f"codec: {error}") from None


def _check_codecs(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    for codec in chosen:
        if codec not in known:
            raise ValueError(f"{name}: there is no {codec!r}; there are {', '.join(known)}")
