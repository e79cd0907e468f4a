"""What a user of `QemuSource` can choose."""

from __future__ import annotations

from dataclasses import dataclass

from multifd import limits
from multifd.elements import Compression, SyncDialect, ZeroPages
from multifd.engine.tls import Tls
from multifd.qemu.common_options import CHANNELS, check_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuSourceOptions:
    """Options of a source to a QEMU. Nothing of it is on the wire before it is used: `channels`, `compression` and TLS
    must be what the destination was told by its own management. `ValueError` if one can't be.
    """

    channels: int = CHANNELS
    compression: Compression = Compression.NONE
    zero_pages: ZeroPages | None = None
    """None: as the machine type allows."""
    sync: SyncDialect | None = None
    """None: by the machine type."""
    tls: Tls | None = None
    """A client's."""
    shut_deadline_s: float = limits.QEMU_SHUT_DEADLINE_S
    """How long the destination may take to load its devices."""
    congestion_control: str | None = None
    """TCP congestion control of the channels, e.g. `cubic`; None is the system's."""
    socket_buffer: int | None = None
    """SO_SNDBUF of the channels; None lets the kernel tune."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that can't be."""
        check_channels(self.channels, self.socket_buffer)
        if not 0 < self.shut_deadline_s <= limits.SECONDS_MAX:
            raise ValueError(f"shut_deadline_s is {self.shut_deadline_s}; up to {limits.SECONDS_MAX:g} is possible")
