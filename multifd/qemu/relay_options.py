"""What a user of `QemuRelay` can choose."""

from __future__ import annotations

from dataclasses import dataclass

from multifd.elements import Compression
from multifd.engine.tls import Tls
from multifd.qemu.common_options import CHANNELS, check_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuRelayOptions:
    """Options of a relay between two QEMUs. Nothing of it is on the wire before it is used: `channels` must be what
    both were told by their own management, compression and TLS what each of them was. `ValueError` if one can't be.
    """

    channels: int = CHANNELS
    compression: Compression = Compression.NONE
    """The source's."""
    out_compression: Compression | None = None
    """The far end's; None is the source's. Packets go on as they are where the two are the same."""
    description: bool = True
    """Whether a VM description ends the stream; not with a machine that has suppress-vmdesc=on."""
    tls: Tls | None = None
    """A server's, for the source; for a relay that is given an address. A listener has its own."""
    out_tls: Tls | None = None
    """A client's, for the far end."""
    out_qmp: str | None = None
    """The monitor of the far end's QEMU, started with -S: its guest is continued when the source is done."""
    in_qmp: str | None = None
    """The monitor of the source's QEMU: whether it is done is then asked, and not taken from its closing main."""
    congestion_control: str | None = None
    """TCP congestion control of the channels, e.g. `cubic`; None is the system's."""
    socket_buffer: int | None = None
    """SO_SNDBUF and SO_RCVBUF of the channels; None: at most 512 KiB where one was accepted from the
    same host, else the kernel tunes.
    """

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that can't be."""
        check_channels(self.channels, self.socket_buffer)

    @property
    def far_compression(self) -> Compression:
        """What the far end gets."""
        return self.compression if self.out_compression is None else self.out_compression
