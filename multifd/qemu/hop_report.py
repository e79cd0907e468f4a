"""What two relays tell at their ends. The near one sees the source's QEMU, and reports what `QemuRelay` does; the far
one passes bytes on that it does not look into.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from multifd.kinds.chunk import NAME as CHUNK
from multifd.qemu.relay_report import RelayReport
from multifd.slot import SlotTally
from multifd.stats import Report


@dataclass(slots=True)
class Hop:
    """The session between the two relays. Its own times of a stop mean nothing: they are not a guest's."""

    session: str = ""
    channels: int = 0
    codec: str = "none"
    security: str = ""
    chunks: int = 0
    bytes: int = 0
    """What it carried, main and channels together."""
    wire_bytes: int = 0
    """What that was between the relays."""
    corrupt_resends: int = 0

    @classmethod
    def of(cls, report: Report | None) -> Self:
        """What a report of the native dialect says of it."""
        if report is None:
            return cls()
        tally = report.kinds.get(CHUNK, SlotTally())
        return cls(
            session=report.session,
            channels=report.channels,
            codec=report.codec,
            security=report.security,
            chunks=tally.slots,
            bytes=tally.bytes,
            wire_bytes=tally.wire_bytes,
            corrupt_resends=report.corrupt_resends,
        )


@dataclass(slots=True)
class NearReport(RelayReport):
    """Of the near relay. `out_packets` are what was given to the far relay."""

    hop: Hop = field(default_factory=Hop)

    @classmethod
    def of(cls, report: RelayReport, carried: Report | None) -> Self:
        """With what is told of the session to the far relay."""
        fields = {each.name: getattr(report, each.name) for each in dataclasses.fields(report)}
        return cls(**fields | {"side": "near relay", "hop": Hop.of(carried)})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return RelayReport.to_json(self) | {"hop": dataclasses.asdict(self.hop)}


@dataclass(slots=True)
class FarReport(Report):
    """Of the far relay."""

    to: str = ""
    machine: str = ""
    """Its machine type; empty if nothing came."""
    main_bytes: int = 0
    channel_bytes: int = 0
    out_channels: int = 0
    """Of the QEMU here."""
    out_security: str = ""
    guest: str = ""
    """Where the guest is, as far as this relay knows."""
    shut: int | None = None
    """What the QEMU here said; None if it said nothing."""
    continued: bool | None = None
    """Whether the guest was told to run, and does; None if that was not for this relay to do."""
    hop: Hop = field(default_factory=Hop)
    notes: tuple[str, ...] = ()
    """What a person should know of this run, sentences."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "side": self.side,
            "outcome": self.outcome.value,
            "cause": self.cause,
            "to": self.to,
            "machine": self.machine,
            "main": {"bytes": self.main_bytes},
            "out": {"channels": self.out_channels, "bytes": self.channel_bytes, "security": self.out_security},
            "guest": self.guest,
            "shut": self.shut,
            "continued": self.continued,
            "hop": dataclasses.asdict(self.hop),
            "elapsed_s": round(self.elapsed_s, 4),
            "transfer_s": round(self.transfer_s, 4),
            "refusals": list(self.refusals),
            "notes": list(self.notes),
        }
