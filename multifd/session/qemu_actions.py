"""What the machines of QEMU's dialect ask the engine to do, as small frozen dataclasses (proto/qemu.md section 14).
A machine decides; the engine acts, in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass

from multifd.elements import (
    Configuration,
    MachineState,
    Offsets,
    RamBlock,
    ReturnMessage,
    SectionHeader,
    StreamElement,
    ZeroPages,
)
from multifd.errors import MultifdError


@dataclass(frozen=True, slots=True)
class Finished:
    """The machine is in a final state; `error` is None if it ended well. Nothing follows.

    A destination with an error throws away what it has, stored or not. A source closes its channels first, then main,
    each with a close-notify under TLS.
    """

    error: MultifdError | None


# -- destination -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrepareBlocks:
    """Make room for these blocks, all zero; then call `handle_prepared`."""

    configuration: Configuration
    ram: SectionHeader
    blocks: tuple[RamBlock, ...]


@dataclass(frozen=True, slots=True)
class StartChannels:
    """All channels are there and the blocks prepared: workers may read packets."""


@dataclass(frozen=True, slots=True, eq=False)
class ZeroRam:
    """These pages of a block are zero. Done before the next action."""

    block: str
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class WriteRam:
    """The contents of one page. Done before the next action."""

    block: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """All channels that stopped at their SYNC read on.

    `final`: main is at its end. Only packets without pages may still come; a worker that has taken pages since its last
    SYNC, or takes any now, reports `RemoteProtocolError` by `handle_channel_ended`. What it took is in no order.
    """

    final: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Write this message on the return path."""

    message: ReturnMessage


@dataclass(frozen=True, slots=True)
class Store:
    """Everything is there: verify it, put it to disk, then call `handle_stored` (or `handle_failure`)."""

    state: MachineState


# -- source ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Write these elements on main, in this order. The first one is what follows the connect; when those of the `last`
    one have left this side call `handle_all_sent`.
    """

    elements: tuple[StreamElement, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class OpenChannels:
    """Open channels 0..count-1, each with its handshake at once; then call `handle_opened`."""

    count: int
    uuid: bytes


@dataclass(frozen=True, slots=True)
class SendPages:
    """Send all of RAM, each page once, in packets; then call `handle_pages_sent`.

    With `ZeroPages.LEGACY` zero pages go as `ZeroRecords` on main, inside the PART that is open.
    """

    zero_pages: ZeroPages


@dataclass(frozen=True, slots=True)
class SyncChannels:
    """Have every channel send what it has queued and then a SYNC packet; then call `handle_sync_sent`."""


QemuDestinationAction = PrepareBlocks | StartChannels | ZeroRam | WriteRam | Release | Reply | Store | Finished
QemuSourceAction = Write | OpenChannels | SendPages | SyncChannels | Finished
