"""The kind `device-chunk` (proto/native.md section 3.3): ties chunks of device state to slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from multifd import limits
from multifd.errors import RemoteProtocolError
from multifd.slot import Buffer, Slot, SlotKind
from multifd.wire.chunk import ChunkMeta

NAME = "device-chunk"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk as it arrived."""

    meta: ChunkMeta
    data: memoryview

    @property
    def cost(self) -> int:
        """What it takes of the device's credit."""
        return chunk_cost(len(self.data))


class ChunkSink(Protocol):
    """Where a device's chunks go. Both are called by channels' workers."""

    def reserve(self, cost: int) -> None:
        """Take credit. Raise `RemoteProtocolError` if the source was not given that much."""

    def put(self, chunk: Chunk) -> None:
        """A whole, verified chunk, in any order."""

    def release(self, cost: int) -> None:
        """The chunk did not match and comes again."""


def chunk_cost(length: int) -> int:
    """What a chunk of this length takes of its device's credit."""
    return length + limits.CHUNK_COST_BYTES


def chunk_slot(device: int, meta: ChunkMeta, data: Buffer) -> Slot:
    """A slot of this kind."""
    return Slot(NAME, device, meta.pack(), (data,) if len(data) else (), len(data))


class ChunkKind(SlotKind):
    """Places chunks into buffers of their own, bounded by each device's credit, and hands them to the device's sink."""

    name = NAME

    def __init__(self, sinks: Mapping[int, ChunkSink]) -> None:
        self._sinks = sinks

    def place(self, owner: int, meta: bytes, length: int) -> Sequence[memoryview]:
        """*worker*: a new buffer, paid for with the device's credit."""
        ChunkMeta.parse(meta)
        sink = self._sinks.get(owner)
        if sink is None:
            raise RemoteProtocolError("device-chunk owner", f"one of the devices {sorted(self._sinks)}", owner)
        if length > limits.CHUNK_BYTES_MAX:
            raise RemoteProtocolError("device-chunk length", f"at most {limits.CHUNK_BYTES_MAX}", length)
        sink.reserve(chunk_cost(length))
        return (memoryview(bytearray(length)),) if length else ()

    def commit(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:
        """*worker*: to the device's own worker, which puts chunks in order."""
        data = buffers[0] if buffers else memoryview(b"")
        self._sinks[owner].put(Chunk(ChunkMeta.parse(meta), data))

    def discard(self, owner: int, meta: bytes, buffers: Sequence[memoryview]) -> None:  # noqa: ARG002
        """*worker*: give the credit back."""
        self._sinks[owner].release(chunk_cost(sum(len(each) for each in buffers)))
