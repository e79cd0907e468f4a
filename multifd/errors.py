"""The errors of multifd. Knows nothing of any layer; every layer raises these.

    MultifdError
    ├── ProtocolError            somebody broke proto/: has .where and .expected
    │   ├── LocalProtocolError   we did (a bug here, or a call in the wrong state)
    │   └── RemoteProtocolError  the peer did
    ├── RefusedError             a block, device, kind or session was refused; .refusals has all reasons
    ├── CorruptError             payload changed under way after the owner was stopped
    ├── DeviceError              a device could not save or load; .device
    ├── OwnerError               the owner's stop or start failed
    ├── TrackingError            memory can't be tracked in the way that was asked for
    ├── StorageError             memory or a file at the destination could not take the data
    ├── TransportError           a connection could not be made or was lost
    ├── CredentialsError         a file that TLS needs is missing or of no use; nothing was connected
    ├── DeadlineError            a wait ended; .waited_for
    ├── ConvergenceError         memory got dirty faster than it could be sent, until the migration's deadline
    ├── RearmError               a device re-armed when that could not be granted any more
    ├── CalledOffError           somebody cancelled
    ├── InDoubtError             COMMIT was sent and nobody says what became of it
    ├── PeerError                the peer ended the session, for its own reason
    └── MigrationError           how a session ended, with .report
        ├── MigrationFailedError
        ├── MigrationRefusedError
        ├── MigrationCancelledError
        └── MigrationInDoubtError  nobody knows which side runs: ask again (see docs/guides/in-doubt.md)

Every class carries the reason code that goes on the wire for it (proto/control.md section 4).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from multifd.messages import Refusal
    from multifd.stats import Report


class Code(enum.IntEnum):
    """Reason codes (proto/control.md section 4)."""

    PROTOCOL = 1
    VERSION = 2
    FEATURE = 3
    REFUSED = 4
    BUSY = 5
    DEADLINE = 6
    CANCELLED = 7
    CORRUPT = 8
    DEVICE = 9
    OWNER = 10
    TRANSPORT = 11
    STORAGE = 12
    INTERNAL = 13
    REARM = 14
    CONVERGENCE = 15


class MultifdError(Exception):
    """Base of all; `code` is what the peer is told."""

    code: Code = Code.INTERNAL


class ProtocolError(MultifdError):
    """A rule of `proto/` was broken.

    `where` names the frame, message or header field; `expected` says what would have been right.
    """

    code = Code.PROTOCOL
    fault: ClassVar[str] = "somebody"

    def __init__(self, where: str, expected: str, got: object = None) -> None:
        self.where = where
        self.expected = expected
        self.got = got
        shown = "" if got is None else f", got {got!r:.100}"
        super().__init__(f"{self.fault} broke the protocol at {where}: expected {expected}{shown}")


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a call in a state that does not allow it, or a value out of bounds."""

    fault = "this side"


class RemoteProtocolError(ProtocolError):
    """The peer sent what `proto/` does not allow."""

    fault = "the peer"


class RefusedError(MultifdError):
    """The destination refused. `refusals` has every reason, not the first; `cause` replaces their text."""

    code = Code.REFUSED

    def __init__(self, refusals: tuple[Refusal, ...], cause: str = "") -> None:
        self.refusals = refusals
        codes = {refusal.code for refusal in refusals}
        self.code = codes.pop() if len(codes) == 1 else Code.REFUSED
        super().__init__(cause or "; ".join(str(refusal) for refusal in refusals) or "refused")


class CorruptError(MultifdError):
    """Payload that nobody could have been writing arrived changed, more often than is repaired."""

    code = Code.CORRUPT


class DeviceError(MultifdError):
    """A device failed while saving, loading or changing state. `device` is its name (`id/instance`)."""

    code = Code.DEVICE

    def __init__(self, device: str, cause: str) -> None:
        self.device = device
        super().__init__(f"device {device}: {cause}")


class OwnerError(MultifdError):
    """The owner of the state could not be stopped or started."""

    code = Code.OWNER


class TrackingError(MultifdError):
    """The memory can't be tracked in the way that was asked for. Nothing falls back silently: the message says what to
    ask for instead.
    """

    code = Code.STORAGE


class StorageError(MultifdError):
    """The destination's memory or file could not take the data (a full disk, a file that exists)."""

    code = Code.STORAGE


class TransportError(MultifdError):
    """A connection could not be made or was lost."""

    code = Code.TRANSPORT


class CredentialsError(MultifdError):
    """A certificate, key or name that TLS needs is missing or of no use. The text says which and what to do."""

    code = Code.TRANSPORT


class DeadlineError(MultifdError):
    """A wait ended. `waited_for` says what did not come."""

    code = Code.DEADLINE

    def __init__(self, waited_for: str, seconds: float) -> None:
        self.waited_for = waited_for
        super().__init__(f"gave up after {seconds:.3g} s waiting for {waited_for}")


class ConvergenceError(MultifdError):
    """The migration did not converge before its deadline; the text says what it waited for."""

    code = Code.CONVERGENCE


class RearmError(MultifdError):
    """A device re-armed when that could not be granted any more."""

    code = Code.REARM


class CalledOffError(MultifdError):
    """Somebody cancelled the migration."""

    code = Code.CANCELLED


class InDoubtError(MultifdError):
    """COMMIT was sent and nobody says what became of it."""


class PeerError(MultifdError):
    """The peer ended the session; `code` and the text are its own."""

    def __init__(self, code: Code, cause: str) -> None:
        self.code = code
        super().__init__(cause)


class MigrationError(MultifdError):
    """How a session ended when it did not complete. `report` is the whole story."""

    def __init__(self, cause: str, report: Report) -> None:
        self.report = report
        super().__init__(cause)


class MigrationFailedError(MigrationError):
    """The migration failed; the owner runs on at the source."""


class MigrationRefusedError(MigrationError):
    """The destination refused before any state was sent."""

    code = Code.REFUSED


class MigrationCancelledError(MigrationError):
    """Somebody cancelled; the owner runs on at the source."""

    code = Code.CANCELLED


class MigrationInDoubtError(MigrationError):
    """COMMIT was sent and nobody answered: the owner runs nowhere at the source until this is resolved."""
