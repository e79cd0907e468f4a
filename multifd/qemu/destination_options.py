"""What a user of `QemuDestination` can choose."""

from __future__ import annotations

from dataclasses import dataclass

from multifd import limits
from multifd.elements import Compression
from multifd.engine.tls import Tls
from multifd.qemu.common_options import CHANNELS, check_channels
from multifd.session.qemu_ack import CHOICES


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuDestinationOptions:
    """Options of a destination of a QEMU. Nothing of it is on the wire before it is used: `channels`, `compression`,
    `switchover_ack` and TLS must be what the source was told by its own management. `ValueError` if one can't be.
    """

    channels: int = CHANNELS
    compression: Compression = Compression.NONE
    switchover_ack: str = "off"
    """off; on: the mode follows the machine type; legacy: one acknowledgement for all devices; counted: one for each
    request of a device.
    """
    hold_ack_s: float = 0.0
    """How long each acknowledgement is held back when it is due: the source stays live for as long."""
    description: bool = True
    """Whether a VM description ends the stream; not with a machine that has suppress-vmdesc=on."""
    allow_ignore_shared: bool = False
    """Take a stream with x-ignore-shared, which carries no main memory."""
    digests: bool = True
    """Whether to make digests of the blocks when the source is done."""
    tls: Tls | None = None
    """A server's; for a destination that is given an address. A listener has its own."""
    congestion_control: str | None = None
    """TCP congestion control of the channels, e.g. `cubic`; None is the system's."""
    socket_buffer: int | None = None
    """SO_RCVBUF of the channels; None: at most 512 KiB where one was accepted from the
    same host, else the kernel tunes.
    """

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that can't be."""
        check_channels(self.channels, self.socket_buffer)
        if self.switchover_ack not in CHOICES:
            raise ValueError(f"switchover_ack is {self.switchover_ack!r}; {', '.join(CHOICES)} are possible")
        if not 0 <= self.hold_ack_s <= limits.SECONDS_MAX:
            raise ValueError(f"hold_ack_s is {self.hold_ack_s}; 0 to {limits.SECONDS_MAX:g} is possible")
