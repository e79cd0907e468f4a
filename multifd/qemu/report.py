"""What a session with a QEMU tells at its end, from either side: `multifd.stats.Report` where the same thing means the
same, and what only this dialect has. Plain data; whoever drove the session fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multifd.elements import PAGE_BYTES, MachineState
from multifd.stats import Report


@dataclass(slots=True)
class ChannelTally:
    """What went over one channel, or over all of them. `wire_bytes` has headers and payload, without TLS."""

    packets: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    syncs: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0

    @classmethod
    def total(cls, tallies: Sequence[ChannelTally]) -> ChannelTally:
        """Of several channels."""
        return cls(
            sum(each.packets for each in tallies),
            sum(each.normal_pages for each in tallies),
            sum(each.zero_pages for each in tallies),
            sum(each.syncs for each in tallies),
            sum(each.payload_bytes for each in tallies),
            sum(each.wire_bytes for each in tallies),
        )


@dataclass(slots=True)
class Dialect:
    """What was really in use, in the words of the options that would choose it. Empty: it never showed."""

    sync: str = ""
    ack: str = ""
    zero_pages: tuple[str, ...] = ()
    compression: str = "none"
    return_path: bool = False
    switchover_start: bool = False
    description: bool = False


@dataclass(slots=True)
class Acks:
    """SWITCHOVER_ACK: how many the rules asked for, how many were given, and how long the first was held back."""

    owed: int = 0
    given: int = 0
    held_s: float = 0.0


@dataclass(slots=True)
class QemuReport(Report):
    """The whole story. `bytes_sent` is what came or went on all channels, headers included."""

    path: str = ""
    """Where the machine is, or came from."""
    machine: str = ""
    page_size: int = PAGE_BYTES
    uuid: str = ""
    dialect: Dialect = field(default_factory=Dialect)
    acks: Acks = field(default_factory=Acks)
    without_ram: bool = False
    """x-ignore-shared: the contents of main memory were not sent."""
    blocks: dict[str, int] = field(default_factory=dict)
    """Name → bytes, in the source's order."""
    digests: dict[str, str] = field(default_factory=dict)
    """Name → SHA-256 of the block's final contents; empty if they were not made."""
    sections: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, instance and bytes of each device section, in their order."""
    packets: ChannelTally = field(default_factory=ChannelTally)
    main_bytes: int = 0
    """Of the main stream, from its file header on."""
    zero_records: int = 0
    """Pages that main told to be zero."""
    page_records: int = 0
    """Pages whose contents came on main."""
    parts: int = 0
    """PARTs of RAM."""
    syncs: int = 0
    """Sync points passed."""
    prepare_s: float = 0.0
    """Before the first connection, in finding the pages of a saved machine; not part of `elapsed_s`."""
    waited_s: float = 0.0
    """Until the peer was there."""
    stop_s: float | None = None
    """From the first sign of the guest's stop in the stream to SHUT 0, at most a little less than it stood still."""
    commit_s: float | None = None
    """Of that, from the last byte of the stream to SHUT 0: all verified and on the disk."""
    digest_s: float = 0.0
    """For the digests, after SHUT 0."""
    early_flushes: int = 0
    """How often what had arrived was written to the disk while the guest still ran."""
    notes: tuple[str, ...] = ()
    """What a person should know of this session, in sentences."""

    @property
    def commit_share(self) -> float | None:
        """Part of the stop that was spent on what must happen before SHUT 0, 0 to 1."""
        return self.commit_s / self.stop_s if self.commit_s is not None and self.stop_s else None

    def describe(self, state: MachineState) -> None:
        """Take over what a machine's state says of itself."""
        self.machine = state.configuration.machine
        self.page_size = state.configuration.page_size
        self.blocks = {block.name: block.length for block in state.blocks}
        every = (*state.early, *state.sections)
        self.sections = [(each.header.name, each.header.instance, len(each.body)) for each in every]
        self.dialect.switchover_start = state.switchover_start
        self.dialect.description = state.description is not None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: of what `Report` has only what this dialect knows. Names as in `multifd qemu inspect`
        where both have them.
        """
        share = self.commit_share
        return {
            "side": self.side,
            "outcome": self.outcome.value,
            "cause": self.cause,
            "path": self.path,
            "machine": self.machine,
            "page_size": self.page_size,
            "uuid": self.uuid,
            "dialect": _plain(self.dialect),
            "switchover_ack": _plain(self.acks),
            "security": self.security,
            "congestion_control": self.congestion_control,
            "channels": self.channels,
            "without_ram": self.without_ram,
            "blocks": [
                {"name": name, "bytes": length, "sha256": self.digests.get(name)}
                for name, length in self.blocks.items()
            ],
            "sections": [
                {"name": name, "instance": instance, "bytes": length} for name, instance, length in self.sections
            ],
            "packets": _plain(self.packets),
            "main": {
                "bytes": self.main_bytes,
                "zero_pages": self.zero_records,
                "normal_pages": self.page_records,
                "parts": self.parts,
                "syncs": self.syncs,
            },
            "bytes": self.bytes_sent + self.main_bytes,
            "prepare_s": round(self.prepare_s, 4),
            "elapsed_s": round(self.elapsed_s, 4),
            "waited_s": round(self.waited_s, 4),
            "transfer_s": round(self.transfer_s, 4),
            "throughput_gbytes_per_s": round(self.throughput_gbytes_per_s, 4),
            "downtime_ms": self.downtime_ms,
            "stop_s": None if self.stop_s is None else round(self.stop_s, 4),
            "commit_s": None if self.commit_s is None else round(self.commit_s, 4),
            "commit_share": None if share is None else round(share, 4),
            "digest_s": round(self.digest_s, 4),
            "early_flushes": self.early_flushes,
            "waiting_for": list(self.waiting_for),
            "notes": list(self.notes),
        }


def _plain(value: Dialect | Acks | ChannelTally) -> dict[str, Any]:
    fields = {name: getattr(value, name) for name in value.__slots__}
    return {name: list(each) if isinstance(each, tuple) else each for name, each in fields.items()}
