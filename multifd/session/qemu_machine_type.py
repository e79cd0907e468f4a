"""What the name of a machine type tells: it is the only hint at versions on QEMU's wire (proto/qemu.md sections 5, 10
and 12).

A versioned type keeps the behaviour of its release in every later QEMU, so that a feature that came with a release is
there from that version of the type on, whatever binary runs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from multifd.elements import AckMode, SyncDialect, ZeroPages

Version = tuple[int, int]

PER_ROUND_SINCE: Version = (8, 1)
MULTIFD_ZERO_SINCE: Version = (9, 0)
SWITCHOVER_START_SINCE: Version = (10, 0)
COUNTED_ACK_SINCE: Version = (11, 1)

# -rhel9.4.0 and -noble are versions of a distribution: they don't match
_VERSIONED = re.compile(r".*-([0-9]{1,3})\.([0-9]{1,3})(?:\.[0-9]{1,3})?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type and what follows from it. `sync`, `zero_pages` and `switchover_start` are how a source talks to a
    QEMU that has this machine; `ack` is what a source that has it waits for.
    """

    name: str
    version: Version | None
    """None if the name has none: isapc, microvm, none, and types of distributions (pc-q35-rhel9.4.0)."""
    sync: SyncDialect
    ack: AckMode | None
    """LEGACY or COUNTED; None if the name doesn't tell."""
    zero_pages: ZeroPages
    """What is safe to send: MULTIFD or LEGACY."""
    switchover_start: bool
    assumed: str
    """What is assumed without a version, and why, as a sentence; empty if the name has one."""


def parse_version(name: str) -> Version | None:
    """`pc-q35-10.0` → (10, 0); None if the name doesn't end with a version of QEMU."""
    match = _VERSIONED.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def machine_type(name: str) -> MachineType:
    """All that a machine type's full name tells."""
    version = parse_version(name)
    if version is None:
        # In the wrong dialect an old destination fails at once, a new one hangs: hence the new one's is assumed. Zero
        # records are understood by all.
        return MachineType(
            name, None, SyncDialect.PER_ROUND, None, ZeroPages.LEGACY, False,
            f"machine type {name!r:.80} has no version of QEMU: taken for one of 8.1 or newer, which marks sync points "
            "once a round; zero pages go as records, which every version understands",
        )  # fmt: skip
    return MachineType(
        name,
        version,
        SyncDialect.PER_ROUND if version >= PER_ROUND_SINCE else SyncDialect.PER_SECTION,
        AckMode.COUNTED if version >= COUNTED_ACK_SINCE else AckMode.LEGACY,
        ZeroPages.MULTIFD if version >= MULTIFD_ZERO_SINCE else ZeroPages.LEGACY,
        version >= SWITCHOVER_START_SINCE,
        "",
    )
