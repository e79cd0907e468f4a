"""What the machines ask the engine to do, as small frozen dataclasses. A machine decides; the engine acts, in the order
given.
"""

from __future__ import annotations

from dataclasses import dataclass

from multifd.errors import MultifdError
from multifd.messages import BlockInfo, DeviceInfo, KindInfo, Message


@dataclass(frozen=True, slots=True)
class Send:
    """Write this message on main."""

    message: Message


@dataclass(frozen=True, slots=True)
class Finished:
    """The machine is in a final state (or in doubt); `error` is None if it ended well. Nothing follows."""

    error: MultifdError | None


# -- source ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenChannels:
    """Open data channels 1..count with this session's id and secret."""

    count: int
    session: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class BeginRound:
    """Collect what is dirty in a class and send it; then call `handle_round_sent`.

    Without `sweep` nothing is collected: the round is for slots that are being sent again.
    """

    class_name: str
    live: bool
    sweep: bool = True


@dataclass(frozen=True, slots=True)
class SaveInitial:
    """Have a device save its initial phase under this epoch."""

    device: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Survey:
    """Look at what is dirty and what devices still have; then call `handle_survey`."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """Ask the owner to slow down to this level (0 full speed, 1 standing still)."""

    level: float


@dataclass(frozen=True, slots=True)
class StopOwner:
    """Let running device passes end, stop the owner, ask every device once more; then call `handle_owner_stopped`."""


@dataclass(frozen=True, slots=True)
class StartOwner:
    """Start the owner: at the source because the switchover was called off, at the destination after COMMIT."""


@dataclass(frozen=True, slots=True)
class SaveStopCopy:
    """Have every device save its stop-copy phase; then, with the last rounds, call `handle_all_sent`."""


@dataclass(frozen=True, slots=True)
class ResendSlot:
    """The destination did not commit this slot: a live one is dirty again, any other is sent again."""

    channel: int
    sequence: int


@dataclass(frozen=True, slots=True)
class GrantCredit:
    """The destination takes this many bytes of a device's chunks, in all."""

    device: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Release:
    """The destination has everything: have the owner give up the right to run; then call `handle_released`."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand this to a device, whose counterpart has said it; when it has dealt with it call `handle_heard`."""

    device: int
    data: bytes


@dataclass(frozen=True, slots=True)
class AskForOutcome:
    """Ask OUTCOME on new connections; then call `handle_outcome` or `handle_no_answer`."""


# -- destination -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decide:
    """Find out whether the offer can be taken; then call `handle_decision`."""

    blocks: tuple[BlockInfo, ...]
    devices: tuple[DeviceInfo, ...]
    kinds: tuple[KindInfo, ...]
    preflight: bool


@dataclass(frozen=True, slots=True)
class Prepare:
    """Everything has arrived and is good: have the owner make it last; then call `handle_prepared`."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The source's device has dealt with so many of its counterpart's messages, in all."""

    device: int
    count: int


SourceAction = (
    Send | Finished | OpenChannels | BeginRound | SaveInitial | Survey | Throttle | StopOwner | StartOwner |
    SaveStopCopy | ResendSlot | GrantCredit | Release | Deliver | AskForOutcome
)  # fmt: skip
DestinationAction = Send | Finished | Decide | Prepare | StartOwner | Heard
