"""A data channel with both of its workers, joined by a socket pair, and a small kind of a user's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from posted import Posted

from multifd.engine.encoding import payload_encoder
from multifd.engine.receiver import ChannelReceiver, Mismatch, ReceiveEnded
from multifd.engine.sender import ChannelSender, Job, JobDone, SendFailed
from multifd.engine.transport import DataSocket
from multifd.errors import RemoteProtocolError
from multifd.slot import Slot, SlotKind, Work
from multifd.wire.slots import SlotHeader, payload_checksum, serialize_header

NUMBER = 7
"""The kind's on the wire."""
SIZE = 1 << 20


class MemoryKind(SlotKind):
    """Memory that is written at the offset in the meta; its owners are 1 and 2."""

    name = "acme/memory"

    def __init__(self) -> None:
        self.memory = {1: bytearray(SIZE), 2: bytearray(SIZE)}
        self.committed: list[tuple[int, bytes]] = []
        self.discarded: list[tuple[int, bytes]] = []
        self.fails: Exception | None = None
        self.pieces = 1

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        if owner not in self.memory or len(meta) != 8:
            raise RemoteProtocolError("acme/memory owner", "1 or 2", owner)
        offset = int.from_bytes(meta, "big")
        view = memoryview(self.memory[owner])[offset : offset + length]
        step = max(1, length // self.pieces)
        return [view[at : at + step] for at in range(0, length, step)]

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        if self.fails is not None:
            raise self.fails
        self.committed.append((owner, b"".join(buffers)))

    def discard(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        self.discarded.append((owner, b"".join(buffers)))


def memory_slot(offset: int, *buffers: bytes | bytearray, owner: int = 1, live: bool = False) -> Slot:
    """Of the small kind."""
    return Slot("acme/memory", owner, offset.to_bytes(8, "big"), buffers, sum(map(len, buffers)), live)


def as_it_is(work: Work) -> Iterator[Slot]:
    """How work that is a slot becomes slots."""
    assert isinstance(work, Slot)
    yield work


class WatchedSocket(DataSocket):
    """Does something just before each slot is written: after it was hashed, as an owner that writes at any time."""

    before: Callable[[], None] | None = None

    def send(self, buffers: Sequence[Any]) -> None:
        if self.before is not None:
            self.before()
        super().send(buffers)


@dataclass
class ChannelPair:
    """Both workers; `start` begins them."""

    sender: ChannelSender
    receiver: ChannelReceiver
    kind: MemoryKind
    sending: Posted
    receiving: Posted
    watched: WatchedSocket
    raw: socket.socket
    """What the sender writes to: a test may write to it itself, if the sender is not used."""

    @classmethod
    def of(cls, *, codec: str = "none", admitted: Sequence[str] = ("zstd", "lz4")) -> ChannelPair:
        ours, theirs = socket.socketpair()
        kind, sending, receiving = MemoryKind(), Posted(), Posted()
        watched = WatchedSocket(ours)
        sender = ChannelSender(
            1, watched, kinds={"acme/memory": NUMBER, "acme/other": 9}, events=sending,  # type: ignore[arg-type]
            encoder=payload_encoder(codec, codecs=admitted, channels=1),
        )  # fmt: skip
        receiver = ChannelReceiver(
            1, DataSocket(theirs), kinds={NUMBER: kind}, codecs=admitted, events=receiving,  # type: ignore[arg-type]
        )  # fmt: skip
        pair = cls(sender, receiver, kind, sending, receiving, watched, ours)
        sender.start()
        receiver.start()
        return pair

    def close(self) -> None:
        self.sender.cancel()
        self.receiver.cancel()
        self.sender.join()
        self.receiver.join()

    def send(self, *slots: Slot, expand: Callable[[Work], Iterator[Slot]] = as_it_is) -> None:
        """Hand slots over and wait until they are in the channel."""
        for slot in slots:
            self.sender.put(Job("flow", slot, expand))
            done = self.sending.next()
            assert isinstance(done, JobDone), done
            assert (done.channel, done.flow) == (1, "flow")
            self.sender.queued -= 1

    def send_failed(self) -> Exception:
        failed = self.sending.next()
        assert isinstance(failed, SendFailed)
        assert failed.channel == 1
        return failed.error

    def finish(self) -> Exception | None:
        """End the sender's side in order; how the receiver ended."""
        self.sender._jobs.close()  # it ends after what is queued
        self.sender.join()
        return self.ended()

    def ended(self) -> Exception | None:
        """How the receiver ended. Mismatches before it stay unread."""
        ended = self.receiving.until(lambda event: isinstance(event, ReceiveEnded))
        assert ended.channel == 1
        error: Exception | None = ended.error
        return error

    def mismatch(self) -> Mismatch:
        found = self.receiving.next()
        assert isinstance(found, Mismatch), found
        return found


def raw_slot(
    *, sequence: int = 1, kind: int = NUMBER, owner: int = 1, meta: bytes = bytes(8), payload: bytes = b"payload",
    codec: int = 1, length: int | None = None, live: bool = False, checksum: int | None = None,
) -> bytes:  # fmt: skip
    """A slot as bytes, right unless told otherwise."""
    header = SlotHeader(
        codec=codec, live=live, kind=kind, owner=owner, sequence=sequence, meta_length=len(meta),
        payload_length=len(payload), length=len(payload) if length is None else length,
        payload_checksum=payload_checksum((payload,)) if checksum is None else checksum,
    )  # fmt: skip
    return serialize_header(header, meta) + meta + payload
