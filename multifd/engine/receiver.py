"""The receiving end of one data channel: a worker thread that receives slots straight into place, verifies and commits
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multifd import limits
from multifd.codec import NONE, create
from multifd.codec.interface import Codec
from multifd.engine.channel_worker import ChannelWorker
from multifd.engine.events import EventQueue
from multifd.engine.transport import CUT, DataSocket
from multifd.errors import LocalProtocolError, MultifdError, RemoteProtocolError, TransportError
from multifd.slot import SlotKind, SlotTally
from multifd.wire.slots import CODEC_NONE, HEAD_BYTES_MAX, ReadSlot, SlotHeader, payload_checksum, read_slot


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A slot did not match its checksum."""

    channel: int
    sequence: int
    live: bool


@dataclass(frozen=True, slots=True)
class ReceiveEnded:
    """The worker has ended: with an error, or because the connection ended between two slots."""

    channel: int
    error: Exception | None


ReceiveEvent = Mismatch | ReceiveEnded


class ChannelReceiver(ChannelWorker):
    """One data channel of a destination. `kinds` by number on the wire; `codecs` are the names that were negotiated."""

    def __init__(
        self,
        number: int,
        connection: DataSocket,
        *,
        kinds: Mapping[int, SlotKind],
        codecs: Sequence[str],
        events: EventQueue[Any],
    ) -> None:
        # set once
        super().__init__(number, connection, doing="receive")
        self._kinds = kinds
        self._events = events
        # worker's; read by the loop
        self.settled = 0
        """Slots settled. A mismatch among them was posted before this was raised."""
        self.received_bytes = 0
        self.tallies: dict[str, SlotTally] = {kind.name: SlotTally() for kind in kinds.values()}
        self.codecs: dict[str, SlotTally] = {name: SlotTally() for name in (NONE, *codecs)}
        """Of slots with payload, by codec."""
        # worker's
        made: list[Codec] = [codec for name in codecs if (codec := create(name)) is not None]
        self._codecs = {codec.number: codec for codec in made}
        self._codec_numbers = frozenset({CODEC_NONE, *self._codecs})
        self._head = memoryview(bytearray(HEAD_BYTES_MAX))
        self._encoded = memoryview(bytearray(limits.SLOT_BYTES_MAX if made else 0))
        self._target: Sequence[memoryview] = ()

    # -- worker

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while self._receive():
                pass
        except MultifdError as raised:
            error = raised
        except (OSError, EOFError) as raised:
            error = TransportError(f"channel {self.number} was lost: {raised}")
        except Exception as raised:  # whatever it is, the loop must hear of it
            error = raised
        self._events.post(ReceiveEnded(self.number, error))

    def _receive(self) -> bool:
        """One slot; False if the connection has ended before it."""
        socket, codecs = self._socket, self._codec_numbers
        reader = read_slot(self._head, codecs=codecs, expect_sequence=self.settled + 1, place=self._place)
        buffers, least = next(reader)
        got = socket.receive_some(buffers[0])
        if not got:
            return False
        if got < least:
            got += socket.receive_until_end((buffers[0][got:least],))
        try:
            while got >= least:
                buffers, least = reader.send(got)
                got = socket.receive_until_end(buffers)
            raise EOFError(CUT)
        except StopIteration as end:
            slot: ReadSlot = end.value
        if slot.beyond:
            socket.give_back(slot.beyond)
        self._settle(slot.header, slot.meta, slot.buffers)
        return True

    def _place(self, header: SlotHeader, meta: bytes) -> Sequence[memoryview]:
        kind = self._kinds.get(header.kind)
        if kind is None:
            raise RemoteProtocolError("slot.kind", f"one of {sorted(self._kinds)}", header.kind)
        self._target = kind.place(header.owner, meta, header.length)
        placed = sum(map(len, self._target))
        if placed != header.length:  # a bug of the kind's: going on would break the framing, and blame the source
            raise LocalProtocolError(f"{kind.name}.place", f"views of {header.length} bytes in all", placed)
        return self._target if header.codec == CODEC_NONE else (self._encoded[: header.payload_length],)

    def _settle(self, header: SlotHeader, meta: bytes, buffers: Sequence[memoryview]) -> None:
        kind = self._kinds[header.kind]
        if payload_checksum(buffers) != header.payload_checksum:
            kind.discard(header.owner, meta, self._target)
            self._events.post(Mismatch(self.number, header.sequence, header.live))
        else:
            if header.codec != CODEC_NONE:
                self._decode(header, buffers[0])
            kind.commit(header.owner, meta, self._target)
            self._count(kind.name, header)
        self._target = ()
        self.received_bytes += header.payload_length
        self.settled += 1
        self._events.hint()

    def _count(self, kind: str, header: SlotHeader) -> None:
        is_encoded = header.codec != CODEC_NONE
        self.tallies[kind].add(header.length, header.payload_length, is_encoded=is_encoded)
        if header.length:
            name = self._codecs[header.codec].name if is_encoded else NONE
            self.codecs[name].add(header.length, header.payload_length, is_encoded=is_encoded)

    def _decode(self, header: SlotHeader, payload: memoryview) -> None:
        try:
            self._codecs[header.codec].decode(payload, self._target, header.length)
        except ValueError as error:
            raise RemoteProtocolError("slot payload", f"{header.length} bytes when decoded", str(error)) from error
