"""The interface that a device implements to be migrated. Knows nothing of slots, channels or sockets.

States are those of the VFIO migration uAPI (v2); phases are what is sent in them:

    source       RUNNING ──► PRE_COPY (phases INITIAL, LIVE) ──► STOP_COPY (phase STOP_COPY) ──► STOP
    destination  STOP ──► RESUMING (load in index order, set-up after each phase's LAST) ──► STOP ──► RUNNING

All methods but `pending` are called by the engine in one worker thread a device, which runs an event loop of its own: a
method may block, await or both without holding up memory, another device or the engine. A device starts no threads of
its own.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from multifd.slot import Buffer

FLUSH: Final[Buffer] = memoryview(b"")
"""What `save` may yield in place of a chunk: what it has yielded before is sent now, and does not wait for the next
chunk. For a device that is about to wait for something.
"""
Say = Callable[[Buffer], Awaitable[None]]
"""Sends a message, 1 to `DEVICE_MESSAGE_BYTES_MAX` bytes, to the device at the source. They arrive in their order.
Waits while `DEVICE_MESSAGES_MAX` of them have not been heard there. To be called in the device's worker.
"""


class Phase(enum.IntEnum):
    """What a chunk belongs to (proto/native.md section 3.3)."""

    INITIAL = 1
    """What the destination needs before its slow set-up. Sent while the owner runs; again, under the next epoch, after
    a re-arm.
    """
    LIVE = 2
    """What changed since; any number of passes while the owner runs."""
    STOP_COPY = 3
    """The rest, once the owner is stopped."""


class DeviceState(enum.Enum):
    """Device states of the VFIO migration uAPI v2, and the pair for peer-to-peer devices."""

    STOP = "stop"
    RUNNING = "running"
    RUNNING_P2P = "running-p2p"
    PRE_COPY = "pre-copy"
    PRE_COPY_P2P = "pre-copy-p2p"
    STOP_COPY = "stop-copy"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class Pending:
    """What a device would still send, in bytes; None where it can't say. An estimate: it may be wrong and may grow.

    `initial` above zero after the initial phase has ended is a *re-arm*: the device has new initial data and takes its
    readiness back.
    """

    initial: int | None = 0
    dirty: int | None = 0
    stop_copy: int | None = 0


class Device(abc.ABC):
    """One device. Source and destination have one object each, paired by `id` and `instance`."""

    id: str
    instance: int = 0
    schema_version: int = 1
    token: str = ""
    """Compatibility token, `vendor.example/model;version`: opaque to everybody but the destination's device."""
    explicit_switchover: bool = False
    """Whether it takes part in the decision to switch over (if the other end's device does too)."""
    expected_bytes: int | None = None
    hears: bool = False
    """At the source: whether its counterpart at the destination may send it messages."""
    stop_seconds: float | None = None
    """Time that it needs in the stop and that no size predicts, if it knows; else the engine learns what it can."""

    @property
    def name(self) -> str:
        """`id/instance`, as it stands in reports."""
        return f"{self.id}/{self.instance}"

    async def set_state(self, state: DeviceState) -> None:  # noqa: B027
        """Go to `state`. Raise any exception to fail the migration."""

    # -- source

    @abc.abstractmethod
    def pending(self) -> Pending:
        """What is left, now. Called often, in the device's worker, between chunks as well: be quick."""

    @abc.abstractmethod
    def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """The chunks of one pass of `phase`, each at most `CHUNK_BYTES_MAX`; return when all of it is out. A chunk is
        the engine's once yielded. It is sent when the next one is there, or `FLUSH`, or the pass has ended.
        """

    async def hear(self, data: bytes) -> None:
        """A message of the device at the destination. One call at a time, also while the device is being saved; the
        owner is asked for the right to run only when all messages so far were dealt with.
        """
        raise NotImplementedError(f"{self.name} hears no messages")

    # -- destination

    def check(self, token: str, schema_version: int) -> str | None:
        """Whether the source's device fits: None if it does, else why not, in words. Only this device decides."""
        if schema_version != self.schema_version:
            return f"schema version {schema_version} at the source, {self.schema_version} here"
        if token != self.token:
            return f"token {token!r} at the source, {self.token!r} here"
        return None

    def open_messages(self, say: Say) -> None:  # noqa: B027
        """The device at the source hears messages: `say` sends one, from now on until the source has given up the right
        to run. Called once, before RESUMING.
        """

    @abc.abstractmethod
    async def load(self, phase: Phase, data: memoryview) -> None:
        """Load one chunk. Chunks come in the order they were saved in. `data` is the device's until this returns."""

    async def set_up(self, phase: Phase) -> None:  # noqa: B027
        """The last chunk of a pass of `phase` is loaded: do what takes time (rebuild tables, allocate) before being
        ready.
        """
