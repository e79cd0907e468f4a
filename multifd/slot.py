"""Slots: the one thing that the engine moves. Below everything; knows no page, no device and no socket.

A *kind* says what arriving slots of its name are: where the payload goes and what to do when it is whole. A *feed* is
where a source's slots come from: what is dirty, sweep by sweep. RAM is one feed with two kinds; a user's own state is
usually one class that is both (docs/guides/own-kind.md). Threads: methods are labelled *loop* (never block), *pool* (a
helper thread, one call at a time per feed) or *worker* (a channel's thread; calls for different channels run at the
same time).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview


def pour(data: memoryview, buffers: Sequence[memoryview]) -> Sequence[memoryview]:
    """Copy as much of `data` into `buffers`, in their order, as fits. Returns what is still to be filled."""
    for number, buffer in enumerate(buffers):
        each = memoryview(buffer).cast("B")  # a user's kind may have given items of another type
        count = min(len(each), len(data))
        each[:count] = data[:count]
        data = data[count:]
        if count < len(each):
            return (each[count:], *buffers[number + 1 :])
    return ()


class Slot(NamedTuple):  # made for every slot: a frozen dataclass takes four times as long
    """One unit of payload as it goes to the wire (proto/native.md section 2).

    `kind` is the kind's name; `owner` a number, not zero; `meta` the kind's own bytes (at most `META_BYTES_MAX`);
    `buffers` are views of the state itself, or copies, together at most `SLOT_BYTES_MAX`, at most `EXTENTS_MAX` of
    them. They must stay as they are until the slot is settled, but for views of a `live` slot: its owner may write to
    them at any time, and what it writes is dirty again.
    """

    kind: str
    owner: int
    meta: bytes
    buffers: Sequence[Buffer]
    length: int
    live: bool = False
    covers: int = 0
    """Bytes of state that it stands for without carrying them (zero extents). Counted in reports only."""


class Work(Protocol):
    """What a feed's sweep yields and the scheduler hands to a channel: a slot, or something that `expand` turns into
    slots.
    """

    @property
    def length(self) -> int:
        """Payload bytes, about: what fair shares and the bandwidth limit are counted in."""
        ...


class SlotKind(abc.ABC):
    """What slots of one name are to a destination. The name of a user's kind has the form `namespace/name`."""

    name: str

    @abc.abstractmethod
    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        """*worker*: where the payload goes: writable views that sum up to `length`. Raise `RemoteProtocolError` for a
        bad meta.

        Meta has passed its checksum, but comes from the peer: check every number in it.
        """

    @abc.abstractmethod
    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        """*worker*: the payload is whole and verified in `buffers`, which `place` returned. Raise `StorageError` if it
        can't be kept.
        """

    def discard(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:  # noqa: B027
        """*worker*: the payload did not match its checksum and comes again later; give back what `place` took."""


class Feed(abc.ABC):
    """Where a source's slots of one class come from, sweep by sweep (proto/states.md section 3)."""

    name: str
    """The class, as in SYNC. Unique in a session."""
    kinds: tuple[str, ...]
    """Names of all kinds that its slots can have."""
    weight: int = 1
    """Its share of the channels while others have work too."""

    @abc.abstractmethod
    def pending(self) -> int:
        """*pool*: bytes that a sweep would send now, about. Changes nothing."""

    @abc.abstractmethod
    def collect(self, *, live: bool) -> Iterable[Work]:
        """*pool*: take all that is dirty (the first time: all) and clear it, as one sweep. With `live` false the owner
        is stopped.

        The iterable is consumed on the *loop*, piece by piece; each step must be cheap.
        """

    def expand(self, work: Work) -> Iterator[Slot]:
        """*worker*: the slots of one piece of work. The default is for feeds whose work is slots already."""
        assert isinstance(work, Slot)
        yield work

    def mark_dirty(self, slot: Slot) -> None:  # noqa: B027
        """*loop*: the destination did not commit this live slot: its content must be in the next sweep."""

    def close(self) -> None:  # noqa: B027
        """*pool*: the session is over: stop tracking, give back what it holds. Called once, whatever the outcome."""

    def describe(self) -> str:
        """*pool*: what is dirty, in words, for "why has it not switched?"."""
        return f"{self.name}: {self.pending()} bytes dirty"


@dataclass(slots=True)
class SlotTally:
    """Slots and bytes of one kind, as counted by one side."""

    slots: int = 0
    bytes: int = 0
    """Payload bytes before encoding; for `zero` the bytes it stands for."""
    wire_bytes: int = 0
    """Payload bytes on the wire, without headers and meta."""
    compressed_slots: int = 0

    def add(self, length: int, wire_length: int, *, is_encoded: bool) -> None:
        """One slot more."""
        self.slots += 1
        self.bytes += length
        self.wire_bytes += wire_length
        self.compressed_slots += is_encoded
