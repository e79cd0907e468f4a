"""What QEMU's dialect is made of, as frozen dataclasses: elements of the main stream, messages of the return path,
packets of the channels (proto/qemu.md). `messages` has those of the native dialect.

Parts that read, decide and write meet here; nothing in this module knows bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAGE_BYTES = 4096
"""The page size of a guest whose configuration does not say another (every x86)."""

Offsets = npt.NDArray[np.int64]
"""Offsets of pages within a block, bytes, shape (n,)."""


class Phase(enum.IntEnum):
    """Which part of a section's life an element is; the number is its type on the wire (proto/qemu.md section 2)."""

    START = 1
    PART = 2
    END = 3
    FULL = 4


class Compression(enum.IntEnum):
    """`multifd-compression`; the number is its bits in a packet's flags (proto/qemu.md section 6)."""

    NONE = 0x00
    ZLIB = 0x02
    ZSTD = 0x04


class SyncDialect(enum.Enum):
    """What marks a sync point on main (proto/qemu.md section 5)."""

    PER_SECTION = "per-section"
    PER_ROUND = "per-round"


class ZeroPages(enum.Enum):
    """How zero pages travel: listed in channel packets, as records on main, or as any other page (section 4)."""

    MULTIFD = "multifd"
    LEGACY = "legacy"
    NONE = "none"


class AckMode(enum.Enum):
    """What a destination owes of `SwitchoverAck` (proto/qemu.md section 10)."""

    OFF = "off"
    LEGACY = "legacy"
    """Exactly one, for all devices together."""
    COUNTED = "counted"
    """One for each request of a device; none if none asks."""


class CommandNumber(enum.IntEnum):
    """Commands of the main stream (proto/qemu.md section 3)."""

    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    SWITCHOVER_START = 11


# -- main stream (proto/qemu.md sections 2 to 5) -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file header and CONFIGURATION. `machine` is the full versioned machine type."""

    machine: str
    page_bits: int | None = None
    capabilities: tuple[str, ...] | None = None
    """None where the stream has no such subsection."""
    uuid: bytes | None = None

    @property
    def page_size(self) -> int:
        """Bytes of a target page."""
        return PAGE_BYTES if self.page_bits is None else 1 << self.page_bits


@dataclass(frozen=True, slots=True)
class Command:
    """A command and its payload."""

    number: CommandNumber
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """What a START or FULL says of its section. `number` is the source's own numbering."""

    number: int
    name: str
    instance: int
    version: int


@dataclass(frozen=True, slots=True)
class MappedRam:
    """Where a block lies in a mapped-ram file: absolute offsets of its bitmap and of its pages, bytes."""

    page_size: int
    bitmap_offset: int
    pages_offset: int


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A block of the list in RAM's START. `length` is the used length, bytes."""

    name: str
    length: int
    page_size: int | None = None
    """Only with postcopy-ram and huge pages."""
    address: int | None = None
    """Guest physical; only with x-ignore-shared."""
    mapped: MappedRam | None = None
    """Only in a mapped-ram file."""


@dataclass(frozen=True, slots=True)
class RamBegins:
    """A START, PART or END of RAM begins; records follow."""

    phase: Phase
    section: SectionHeader


@dataclass(frozen=True, slots=True)
class BlockList:
    """All blocks, in the source's order. Only in START."""

    blocks: tuple[RamBlock, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ZeroRecords:
    """Pages of one block that are zero: as many records as came together."""

    block: str
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class PageRecord:
    """A page on main; sources with multifd send none before postcopy."""

    block: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SyncMark:
    """MULTIFD_FLUSH: a sync point of the per-round dialect."""


@dataclass(frozen=True, slots=True)
class RamEnds:
    """EOS: the last record of a START, PART or END. In the per-section dialect a sync point. Its footer may lag."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Section:
    """A whole START, PART, END or FULL of anything but RAM; `body` is what lies between header and footer."""

    phase: Phase
    header: SectionHeader
    body: bytes


@dataclass(frozen=True, slots=True)
class EndOfState:
    """The byte 00 after the last section."""


@dataclass(frozen=True, slots=True)
class Description:
    """VMDESCRIPTION: JSON, as it came."""

    text: bytes


StreamElement = (
    Configuration
    | Command
    | RamBegins
    | BlockList
    | ZeroRecords
    | PageRecord
    | SyncMark
    | RamEnds
    | Section
    | EndOfState
    | Description
)


@dataclass(frozen=True, slots=True)
class DescribedSection:
    """A FULL section as VMDESCRIPTION tells it. `length` of its body, bytes."""

    name: str
    instance: int
    length: int


# -- return path (proto/qemu.md section 9) -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shut:
    """The end: 0 commits, anything else leaves the guest at the source."""

    status: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a PING, with its value."""

    value: int


@dataclass(frozen=True, slots=True)
class SwitchoverAck:
    """One obstacle less for the source's switchover."""


ReturnMessage = Shut | Pong | SwitchoverAck


# -- channels (proto/qemu.md sections 1 and 6) -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handshake:
    """The first 64 bytes of a channel. `uuid` is 16 bytes, all zero for a machine without; `channel` counts from 0."""

    uuid: bytes
    channel: int


@dataclass(frozen=True, slots=True, eq=False)
class RamPacket:
    """The header of a packet of pages, a SYNC, or both: pages of `block` whose contents follow (`normal`), in this
    order, and pages that are zero.
    """

    block: str
    """Empty if the packet lists no pages."""
    normal: Offsets
    zero: Offsets
    number: int = 0
    sync: bool = False
    compression: Compression = Compression.NONE
    payload_bytes: int = 0
    """On the wire; 0 without normal pages, whatever the header says."""


@dataclass(frozen=True, slots=True)
class DevicePacket:
    """A piece of a device's state; `name` and `instance` are those of its section on main."""

    name: str
    instance: int
    payload: bytes


Packet = RamPacket | DevicePacket


# -- a saved machine ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MachineState:
    """All of a machine but the contents of its RAM: what a destination has when a stream has ended, and what a source
    sends (proto/qemu.md sections 12 and 13).
    """

    configuration: Configuration
    early: tuple[Section, ...]
    """All but RAM that came before RAM's END, in its order: FULL sections, START and PART of other live devices."""
    ram: SectionHeader
    blocks: tuple[RamBlock, ...]
    switchover_start: bool
    sections: tuple[Section, ...]
    """Everything after RAM's END, in its order."""
    description: bytes | None
    """VMDESCRIPTION, None if it is suppressed."""
    uuid: bytes = bytes(16)
    """From the channels' handshakes."""
