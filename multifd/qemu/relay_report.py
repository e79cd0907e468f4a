"""What a relay tells at its end: `QemuReport` as seen from the source's side, and what only a relay has."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from multifd.qemu.report import ChannelTally, QemuReport


@dataclass(slots=True)
class RelayReport(QemuReport):
    """`packets`, `bytes_sent`, `security` and `dialect` are what came from the source."""

    to: str = ""
    out_packets: ChannelTally = field(default_factory=ChannelTally)
    out_compression: str = "none"
    out_security: str = ""
    guest: str = ""
    """Where the guest is, as far as the relay knows."""
    shut: int | None = None
    """What the far end said; None if it said nothing."""
    run_state: str = ""
    """What the guest was doing when it was stopped."""
    continued: bool | None = None
    """Whether the far end's guest was told to run, and does; None if that was not for the relay to do."""
    released_s: float | None = None
    """From the first sign of the guest's stop until the far end had everything."""
    decided_s: float | None = None
    """From there to its SHUT 0."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return QemuReport.to_json(self) | {
            "to": self.to,
            "out": {
                "packets": asdict(self.out_packets),
                "compression": self.out_compression,
                "security": self.out_security,
            },
            "guest": self.guest,
            "shut": self.shut,
            "run_state": self.run_state,
            "continued": self.continued,
            "released_s": None if self.released_s is None else round(self.released_s, 4),
            "decided_s": None if self.decided_s is None else round(self.decided_s, 4),
        }
