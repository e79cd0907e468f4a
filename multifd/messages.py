"""The messages of the main channel as frozen dataclasses (proto/control.md section 2). No bytes here: `wire.control`
reads and writes them.

Field order and names are those of the spec's table. Numbers of blocks, devices, kinds and channels count from 1.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from multifd.errors import Code

EXPLICIT_SWITCHOVER = "explicit-switchover"
"""The feature's name in HELLO."""
ANY_CODEC = "any-codec"
"""The feature with which slots may have any codec that the destination's HELLO lists."""
DEVICE_MESSAGES = "device-messages"
"""The feature with which devices at the destination may say something to those at the source."""


class What(enum.IntEnum):
    """What a refusal is about."""

    BLOCK = 1
    DEVICE = 2
    KIND = 3
    SESSION = 4


class Fate(enum.IntEnum):
    """The destination's answer to OUTCOME."""

    STARTED = 1
    ABORTED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """A block in INVENTORY. `length` in bytes, any; `page_size` a power of two."""

    name: str
    length: int
    page_size: int


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device in INVENTORY."""

    id: str
    instance: int
    schema_version: int
    token: str
    explicit_switchover: bool
    expected_bytes: int | None

    @property
    def name(self) -> str:
        """`id/instance`."""
        return f"{self.id}/{self.instance}"


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A slot kind in INVENTORY; its number is its place."""

    name: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why the destination does not take what the source offers."""

    what: What
    name: str
    code: Code
    cause: str

    def __str__(self) -> str:
        return f"{self.what.name.lower()} {self.name}: {self.cause}"


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """What was decided for one device. `credit` in bytes: the first grant."""

    takes_part: bool
    credit: int


@dataclass(frozen=True, slots=True)
class Hello:
    """HELLO: who speaks, what it wants or is able to. `secret` is zeros from the source."""

    versions: tuple[int, int]
    session: bytes
    secret: bytes
    features: tuple[str, ...]
    channels: int
    software: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """INVENTORY: one page of what the source offers."""

    page: int
    pages: int
    blocks: tuple[BlockInfo, ...]
    devices: tuple[DeviceInfo, ...]
    kinds: tuple[KindInfo, ...]
    preflight: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """VERDICT: what the destination takes; all refusals at once."""

    accepted: bool
    channels: int
    refusals: tuple[Refusal, ...]
    devices: tuple[DeviceVerdict, ...]


@dataclass(frozen=True, slots=True)
class Attached:
    """ATTACHED: all data channels are there, state may flow."""

    channels: int


@dataclass(frozen=True, slots=True)
class Sync:
    """SYNC: the end of a class's round; `counts` are all slots sent on each channel so far."""

    class_name: str
    round: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SyncDone:
    """SYNC_DONE: all slots before that SYNC are settled."""

    class_name: str
    round: int


@dataclass(frozen=True, slots=True)
class Settled:
    """SETTLED: slots settled on each channel, since the start."""

    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resend:
    """RESEND: this slot did not match its checksum and was not committed."""

    channel: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Credit:
    """CREDIT: bytes of chunks that the destination takes for a device, since the start."""

    device: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """DEVICE_STATUS: how far a device's load is; times in seconds, since the start."""

    device: int
    epoch: int
    ready: bool
    loaded_bytes: int
    load_s: float
    setup_s: float
    doing: str


@dataclass(frozen=True, slots=True)
class SwitchoverReady:
    """SWITCHOVER_READY: every device that takes part is ready for the epoch named."""

    epochs: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class StopCopy:
    """STOP_COPY: the owner is stopped, what follows is final."""

    epochs: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class End:
    """END: all counts of the session, and how many RESENDs were answered by then."""

    counts: tuple[int, ...]
    chunks: Mapping[int, int]
    resends: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """LOADED: everything is here, verified and safe. `parts`: name to seconds."""

    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Commit:
    """COMMIT: the source has given up the right to run."""


@dataclass(frozen=True, slots=True)
class Started:
    """STARTED: the owner runs at the destination. `parts`: name to seconds."""

    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Aborted:
    """ABORTED: the destination does not run and never will in this session."""

    code: Code
    cause: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """CANCEL: the source ends the session and runs on."""

    code: Code
    cause: str


@dataclass(frozen=True, slots=True)
class AskOutcome:
    """OUTCOME."""

    session: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class OutcomeIs:
    """OUTCOME_IS: the answer to OUTCOME."""

    outcome: Fate
    cause: str


@dataclass(frozen=True, slots=True)
class DeviceMessage:
    """DEVICE_MESSAGE: what a device at the destination says to the one at the source."""

    device: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DeviceHeard:
    """DEVICE_HEARD: messages that the device at the source has dealt with, since the start."""

    device: int
    count: int


Message = (
    Hello | Inventory | Verdict | Attached | Sync | SyncDone | Settled | Resend | Credit | DeviceStatus |
    SwitchoverReady | StopCopy | End | Loaded | Commit | Started | Aborted | Cancel | AskOutcome | OutcomeIs |
    DeviceMessage | DeviceHeard
)  # fmt: skip
"""Any message of the main channel."""
