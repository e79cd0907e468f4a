"""The sending end of one data channel: a worker thread that turns work into slots and slots into bytes on a socket.

Fields are grouped by owner. The worker writes, the loop reads: counters are plain ints, read at any time, exact once
the worker is idle.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multifd import limits
from multifd.engine.channel_worker import ChannelWorker
from multifd.engine.encoding import Payload, PayloadEncoder
from multifd.engine.events import EventQueue
from multifd.engine.mailbox import Closed, Mailbox
from multifd.engine.transport import DataSocket
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.slot import Buffer, Slot, SlotTally, Work
from multifd.wire.slots import CODEC_NONE, SlotHeader, payload_checksum, serialize_header


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work for a channel, and how to turn it into slots."""

    flow: str
    work: Work
    expand: Callable[[Work], Iterator[Slot]]


@dataclass(frozen=True, slots=True)
class JobDone:
    """A job's last slot is in the channel."""

    channel: int
    flow: str


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The worker has ended with this error."""

    channel: int
    error: Exception


SendEvent = JobDone | SendFailed


_JOBS_LEFT = 2
"""In the worker's hands when the loop is woken for more: enough to be busy until it comes."""
_NO_PAYLOAD = Payload("", CODEC_NONE, (), 0)


class Ledger:
    """The slots of one channel that are sent and not yet settled, oldest first: they still belong to the source."""

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self._settled = 0
        self._appended_bytes = 0  # worker's
        self._settled_bytes = 0  # loop's
        self._resent: set[int] = set()
        """Sequences of unsettled slots that the destination has sent RESEND for."""
        self._room = threading.Condition(threading.Lock())
        self._closed = False

    @property
    def settled(self) -> int:
        """*any*: how many slots are settled."""
        return self._settled

    def append(self, slot: Slot) -> None:
        """*worker*: a slot is about to be sent; waits while too many are unsettled. Raises `Closed`."""
        if self._is_full():
            with self._room:
                while self._is_full() and not self._closed:
                    self._room.wait()
        if self._closed:
            raise Closed
        self._appended_bytes += slot.length
        self._slots.append(slot)

    def _is_full(self) -> bool:
        unsettled_bytes = self._appended_bytes - self._settled_bytes
        return len(self._slots) >= limits.UNSETTLED_SLOTS_MAX or unsettled_bytes >= limits.UNSETTLED_BYTES_MAX

    def take_for_resend(self, sequence: int) -> Slot | None:
        """*loop*: the unsettled slot of this sequence; None if there is no such, or it was taken before: else a
        destination could have one slot marked dirty, or sent, without end.
        """
        index = sequence - 1 - self._settled
        if not 0 <= index < len(self._slots) or sequence in self._resent:
            return None
        self._resent.add(sequence)
        return self._slots[index]

    def settle(self, count: int) -> int:
        """*loop*: so many slots are settled in all. Returns the bytes newly settled.

        Raises `RemoteProtocolError` if that many were never sent, or the count goes back.
        """
        if not self._settled <= count <= self._settled + len(self._slots):
            most = self._settled + len(self._slots)
            raise RemoteProtocolError("SETTLED.counts", f"{self._settled}..{most} for this channel", count)
        settled_bytes = sum(self._slots.popleft().length for _ in range(count - self._settled))
        self._settled = count
        self._settled_bytes += settled_bytes
        if self._resent:
            self._resent = {sequence for sequence in self._resent if sequence > count}
        with self._room:
            self._room.notify_all()
        return settled_bytes

    def close(self) -> None:
        """*loop*: forget all, and wake the worker."""
        with self._room:
            self._closed = True
            self._room.notify_all()


class ChannelSender(ChannelWorker):
    """One data channel of a source."""

    def __init__(
        self, number: int, connection: DataSocket, *, kinds: Mapping[str, int], encoder: PayloadEncoder,
        events: EventQueue[Any],
    ) -> None:  # fmt: skip
        # set once
        super().__init__(number, connection, doing="send")
        self.ledger = Ledger()
        self._kinds = kinds
        self._events = events
        self._jobs: Mailbox[Job] = Mailbox(limits.CHANNEL_QUEUE_ITEMS_MAX)
        # loop's
        self.queued = 0
        """Jobs handed over and not done."""
        # worker's; read by the loop
        self.sent_slots = 0
        self.sent_bytes = 0
        self.tallies: dict[str, SlotTally] = {name: SlotTally() for name in kinds}
        self.codecs: dict[str, SlotTally] = {name: SlotTally() for name in encoder.encodings}
        """Of slots with payload, by what encoded it."""
        # worker's
        self._encoder = encoder

    @property
    def room(self) -> int:
        """*loop*: how many more jobs it takes now."""
        return limits.CHANNEL_QUEUE_ITEMS_MAX - self.queued

    def put(self, job: Job) -> None:
        """*loop*: hand over a job; there is room."""
        self.queued += 1
        self._jobs.put_now(job)

    def cancel(self, *, orderly: bool = False) -> None:
        """*loop*: end now, wherever it is."""
        self._jobs.close(drop=True)
        self.ledger.close()
        super().cancel(orderly=orderly)

    # -- worker

    def _run(self) -> None:
        try:
            while True:
                jobs = self._jobs.take()
                for left, job in zip(reversed(range(len(jobs))), jobs, strict=True):
                    for slot in job.expand(job.work):
                        self._send(slot)
                    # Waking the loop costs more than a job's own hand-over, here too: it takes the interpreter's lock.
                    soon = left + len(self._jobs) <= _JOBS_LEFT
                    self._events.post(JobDone(self.number, job.flow), soon=soon)
        except Closed:
            return
        except Exception as error:  # whatever it is, the loop must hear of it
            self._events.post(SendFailed(self.number, error))

    def _send(self, slot: Slot) -> None:
        kind, owner, meta, _, length, live, covers = slot
        buffers = _checked(slot)
        encoding, codec, buffers, wire_length = self._encoder.encode(buffers, length) if length else _NO_PAYLOAD
        self.ledger.append(slot)
        number, sequence, checksum = self._kinds[kind], self.sent_slots + 1, payload_checksum(buffers)
        header = SlotHeader(codec, live, number, owner, sequence, len(meta), wire_length, length, checksum)
        self._encoder.send(self._socket, (serialize_header(header, meta) + meta, *buffers))
        self.sent_slots = sequence
        self.sent_bytes += wire_length
        is_encoded = codec != CODEC_NONE
        self.tallies[kind].add(length or covers, wire_length, is_encoded=is_encoded)
        if length:
            self.codecs[encoding].add(length, wire_length, is_encoded=is_encoded)


def _checked(slot: Slot) -> Sequence[Buffer]:
    """The slot's buffers, as bytes. Raises `LocalProtocolError` for a slot that can't be, naming its kind: going on
    would break the framing, and the destination would be blamed.
    """
    buffers = slot.buffers
    one = buffers[0] if len(buffers) == 1 else None
    if type(one) is memoryview and one.nbytes == len(one) == slot.length <= limits.SLOT_BYTES_MAX:
        return buffers  # as in transfers at full speed
    where = f"slot of kind {slot.kind}"
    if len(buffers) > limits.EXTENTS_MAX or slot.length > limits.SLOT_BYTES_MAX:
        raise LocalProtocolError(where, "at most EXTENTS_MAX buffers and SLOT_BYTES_MAX bytes", slot.length)
    if any(type(each) is memoryview and each.nbytes != len(each) for each in buffers):
        buffers = [memoryview(each).cast("B") for each in buffers]  # below, lengths are bytes
    found = sum(map(len, buffers))
    if found != slot.length:
        raise LocalProtocolError(where, f"buffers of {slot.length} bytes in all, its length", found)
    return buffers
