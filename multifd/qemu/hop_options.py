"""What a user of two relays can choose, beside what `QemuRelayOptions` has for one."""

from __future__ import annotations

from dataclasses import dataclass

from multifd.engine.options import SourceOptions
from multifd.limits import SECONDS_MAX
from multifd.qemu.relay_options import QemuRelayOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class NearOptions(QemuRelayOptions):
    """Options of the near relay. `channels`, `compression`, `description`, `tls` and `in_qmp` are for the source's
    QEMU, `out_tls` for the far relay, which knows what its own QEMU was told. `ValueError` for a value that can't be.
    """

    relay_channels: int = 4
    """Connections to the far relay, beside main: any number, whatever `channels` is."""
    codec: str = "none"
    """Between the relays, as in `SourceOptions`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that can't be."""
        QemuRelayOptions.__post_init__(self)
        self.source_options()

    def source_options(self) -> SourceOptions:
        """For the native dialect. It never decides: what it carries ends when two QEMUs are done."""
        return SourceOptions(
            channels=self.relay_channels,
            codec=self.codec,
            explicit_switchover=False,
            downtime_limit_s=SECONDS_MAX,
            deadline_s=SECONDS_MAX,
            congestion_control=self.congestion_control,
            socket_buffer=self.socket_buffer,
            tls=self.out_tls,
        )
