"""A data channel from work to memory: what the sender's worker makes of slots, and the receiver's of bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from channel_pair import SIZE, ChannelPair, as_it_is, memory_slot, raw_slot

from multifd import limits
from multifd.engine.mailbox import Closed
from multifd.engine.receiver import Mismatch
from multifd.engine.sender import Job, Ledger
from multifd.errors import LocalProtocolError, RemoteProtocolError, StorageError, TransportError
from multifd.slot import Slot, Work
from multifd.wire.slots import HEADER_BYTES

WAIT_S = 5.0
TEXT = b"the same words again and again, so that they shrink; " * 200

Made = Callable[..., ChannelPair]


@pytest.fixture
def channels() -> Iterator[Made]:
    """Makes pairs that are closed after the test."""
    made: list[ChannelPair] = []

    def make(**options: object) -> ChannelPair:
        made.append(ChannelPair.of(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pair in made:
        pair.close()


# -- ledger


def test_the_ledger_keeps_slots_until_they_are_settled() -> None:
    """By sequence, oldest first; settling gives their bytes."""
    ledger = Ledger()
    slots = [memory_slot(0, bytes(number)) for number in (10, 20, 30)]
    for slot in slots:
        ledger.append(slot)
    assert [ledger.take_for_resend(sequence) for sequence in (0, 1, 2, 4)] == [None, *slots[:2], None]
    assert ledger.settle(2) == 30
    assert ledger.settled == 2
    assert [ledger.take_for_resend(sequence) for sequence in (1, 2, 3, 4)] == [None, None, slots[2], None]
    assert ledger.settle(2) == 0


def test_a_slot_is_taken_for_resend_once() -> None:
    """A destination can't have one slot marked dirty without end; what was taken is forgotten when it is settled."""
    ledger = Ledger()
    for _ in range(3):
        ledger.append(memory_slot(0, b"x"))
    assert ledger.take_for_resend(2) is not None
    assert ledger.take_for_resend(2) is None
    ledger.settle(2)
    assert ledger.take_for_resend(3) is not None
    assert ledger._resent == {3}


@pytest.mark.parametrize("count", [0, 4])
def test_counts_that_can_not_be_are_refused(count: int) -> None:
    """More than were sent, or fewer than before."""
    ledger = Ledger()
    for _ in range(3):
        ledger.append(memory_slot(0, b"x"))
    ledger.settle(1)
    with pytest.raises(RemoteProtocolError, match=r"1\.\.3 for this channel"):
        ledger.settle(count)
    assert ledger.settled == 1


@pytest.mark.parametrize("bound", ["UNSETTLED_SLOTS_MAX", "UNSETTLED_BYTES_MAX"])
@pytest.mark.parametrize("closes", [True, False], ids=["closed", "settled"])
def test_a_full_ledger_makes_the_worker_wait(monkeypatch: pytest.MonkeyPatch, closes: bool, bound: str) -> None:
    """Two slots, or two bytes: until something is settled, or the channel ends."""
    monkeypatch.setattr(limits, bound, 2)
    ledger = Ledger()
    ledger.append(memory_slot(0, b"x"))
    ledger.append(memory_slot(0, b"x"))
    began = threading.Event()

    def append() -> bool:
        began.set()
        try:
            ledger.append(memory_slot(0, b"x"))
        except Closed:
            return False
        return True

    with ThreadPoolExecutor(1) as pool:
        appending = pool.submit(append)
        assert began.wait(WAIT_S)
        if closes:
            ledger.close()
        else:
            ledger.settle(1)
        assert appending.result(WAIT_S) is not closes
    assert (ledger.take_for_resend(3) is None) is closes


# -- there and back


@pytest.mark.parametrize("codec", ["none", "zstd", "zstd:3", "lz4"])
def test_slots_arrive_in_place(channels: Made, codec: str) -> None:
    """Every codec: what shrinks travels encoded, what does not travels plain, and both sides count the same."""
    pair = channels(codec=codec)
    pair.kind.pieces = 3
    noise = os.urandom(5000)
    pair.send(memory_slot(0, TEXT[:4000], TEXT[4000:]), memory_slot(500_000, noise, owner=2), memory_slot(9, b""))
    assert pair.finish() is None
    assert pair.kind.memory[1] == TEXT + bytes(SIZE - len(TEXT))
    assert pair.kind.memory[2] == bytes(500_000) + noise + bytes(SIZE - 500_000 - len(noise))
    assert [owner for owner, _ in pair.kind.committed] == [1, 2, 1]
    assert pair.sender.sent_slots == pair.receiver.settled == 3
    sent, received = pair.sender.tallies["acme/memory"], pair.receiver.tallies["acme/memory"]
    assert sent == received
    assert (sent.slots, sent.bytes) == (3, len(TEXT) + len(noise))
    assert sent.compressed_slots == (0 if codec == "none" else 1)
    assert (sent.wire_bytes < len(TEXT)) is (codec != "none")
    assert pair.sender.sent_bytes == pair.receiver.received_bytes == sent.wire_bytes


def test_every_settled_slot_is_hinted_at(channels: Made) -> None:
    """The loop is told to look at the counter."""
    pair = channels()
    pair.send(memory_slot(0, b"a"), memory_slot(1, b"b"))
    pair.finish()
    assert pair.receiving.wakes == 2


def test_work_is_expanded_in_the_channel(channels: Made) -> None:
    """One piece of work, many slots, one word when all of them are sent."""
    pair = channels()

    def expand(work: Work) -> Iterator[Slot]:
        assert isinstance(work, Slot)
        for number in range(50):
            yield memory_slot(number, bytes([number]))

    pair.send(memory_slot(0, b"unused"), expand=expand)
    assert pair.finish() is None
    assert pair.kind.memory[1][:50] == bytes(range(50))
    assert pair.sender.ledger.take_for_resend(50) is not None


def test_the_loop_is_woken_when_work_gets_short(channels: Made) -> None:
    """Not for a job after which there are others in the queue; the last one's end is always told soon."""
    pair = channels()
    began, go_on = threading.Event(), threading.Event()

    def wait(work: Work) -> Iterator[Slot]:
        began.set()
        assert go_on.wait(5)
        yield from as_it_is(work)

    pair.sender.put(Job("flow", memory_slot(0, b"a"), wait))
    assert began.wait(5)
    for offset in (1, 2, 3):
        pair.sender.put(Job("flow", memory_slot(offset, b"b"), as_it_is))
    go_on.set()
    assert [pair.sending.next().flow for _ in range(4)] == ["flow"] * 4
    assert pair.sending.quiet == 1


def test_as_many_buffers_as_a_slot_may_have(channels: Made) -> None:
    """`EXTENTS_MAX` of them go with one call, and the largest slot goes whole."""
    pair = channels()
    pair.send(memory_slot(0, *[b"ab"] * limits.EXTENTS_MAX))
    assert pair.finish() is None
    assert pair.kind.memory[1][: 2 * limits.EXTENTS_MAX] == b"ab" * limits.EXTENTS_MAX


# -- memory that is being written


def test_a_live_slot_that_changes_under_way_is_a_mismatch(channels: Made) -> None:
    """It is not committed, what it took is given back, it is told before it is counted, and the channel goes on."""
    pair = channels()
    memory = bytearray(b"before")
    pair.watched.before = lambda: memory.__setitem__(0, ord("X"))
    pair.send(memory_slot(0, memory, live=True))
    pair.watched.before = None
    assert pair.mismatch() == Mismatch(1, 1, live=True)
    pair.send(memory_slot(100, b"next"))
    assert pair.finish() is None
    assert pair.kind.discarded == [(1, b"Xefore")]
    assert pair.kind.committed == [(1, b"next")]
    assert pair.receiver.settled == 2
    assert pair.receiver.tallies["acme/memory"].slots == 1


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_codecs_work_from_a_copy(channels: Made, codec: str) -> None:
    """What is encoded is what is hashed and sent: memory that changes under way can't spoil it."""
    pair = channels(codec=codec)
    memory = bytearray(TEXT)
    pair.watched.before = lambda: memory.__setitem__(slice(0, 10), b"X" * 10)
    pair.send(memory_slot(0, memory, live=True))
    assert pair.finish() is None
    assert pair.kind.committed == [(1, TEXT)]
    assert pair.receiving.empty


@pytest.mark.parametrize("live", [True, False])
def test_a_mismatch_says_whether_it_was_live(channels: Made, live: bool) -> None:
    """Corruption is for the machine to tell from memory that was being written."""
    pair = channels()
    pair.raw.sendall(raw_slot(live=live, checksum=1))
    assert pair.mismatch() == Mismatch(1, 1, live=live)


# -- what a source may not send


def test_slots_made_by_hand_are_taken(channels: Made) -> None:
    """The ones below are refused for what is wrong with them, and for nothing else."""
    pair = channels()
    pair.raw.sendall(raw_slot() + raw_slot(sequence=2, meta=(9).to_bytes(8, "big"), payload=b""))
    pair.raw.shutdown(1)
    assert pair.ended() is None
    assert pair.kind.committed == [(1, b"payload"), (1, b"")]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"\xff" * HEADER_BYTES, "slot.magic"),
        (raw_slot(kind=8), "slot.kind"),
        (raw_slot(sequence=2), "slot.sequence"),
        (raw_slot() + raw_slot(sequence=1), "slot.sequence"),
        (raw_slot() + raw_slot(sequence=3), "slot.sequence"),
        (raw_slot(owner=3), "acme/memory owner"),
        (raw_slot(meta=b"short"), "acme/memory owner"),
        (raw_slot(codec=3, length=100), "slot.codec"),
        (raw_slot(codec=2, payload=b"garbage", length=100), "slot payload"),
        (raw_slot()[:16] + b"\x01" + raw_slot()[17:], "slot.header_checksum"),
    ],
    ids=["garbage", "kind", "first", "again", "gap", "owner", "meta", "codec", "encoded", "checksum"],
)
def test_what_a_source_may_not_send_ends_the_channel(channels: Made, data: bytes, where: str) -> None:
    """With an error that names the field; nothing after it is read."""
    pair = channels(admitted=("zstd",))
    pair.raw.sendall(data + raw_slot(sequence=2))
    error = pair.ended()
    assert isinstance(error, RemoteProtocolError)
    assert error.where == where


@pytest.mark.parametrize("length", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3, HEADER_BYTES + 8, -1])
def test_a_channel_that_ends_inside_a_slot_was_lost(channels: Made, length: int) -> None:
    """In the header, after it, in the meta, before and in the payload."""
    pair = channels()
    pair.raw.sendall(raw_slot()[:length])
    pair.raw.shutdown(1)
    error = pair.ended()
    assert isinstance(error, TransportError)
    assert "inside a slot" in str(error)


@pytest.mark.parametrize("error", [StorageError("no space left"), KeyError("a bug")])
def test_what_a_kind_raises_is_told(channels: Made, error: Exception) -> None:
    """Whatever it is; the worker ends."""
    pair = channels()
    pair.kind.fails = error
    pair.raw.sendall(raw_slot())
    assert pair.ended() is error


def test_a_receiver_can_be_cancelled_while_it_waits(channels: Made) -> None:
    """Between two slots it looks like an end, and the machine knows what to make of it."""
    pair = channels()
    pair.receiver.cancel()
    assert pair.ended() is None


# -- what a sender can not send


def test_a_slot_of_a_kind_that_nobody_announced_fails(channels: Made) -> None:
    """A feed's mistake: the loop hears of it, nothing is written."""
    pair = channels()
    pair.sender.put(Job("flow", Slot("acme/unknown", 1, b"", (), 0), as_it_is))
    assert isinstance(pair.send_failed(), KeyError)
    assert pair.sender.sent_slots == 0


@pytest.mark.parametrize(
    "slot",
    [
        memory_slot(0, *[b""] * (limits.EXTENTS_MAX + 1)),
        memory_slot(0, bytes(limits.SLOT_BYTES_MAX + 1)),
        Slot("acme/memory", 1, bytes(limits.META_BYTES_MAX + 1), (), 0),
        Slot("acme/memory", 0, bytes(8), (), 0),
    ],
    ids=["buffers", "bytes", "meta", "owner"],
)
def test_a_slot_that_is_too_much_is_our_own_fault(channels: Made, slot: Slot) -> None:
    """Not one byte of it goes out."""
    pair = channels()
    pair.sender.put(Job("flow", slot, as_it_is))
    assert isinstance(pair.send_failed(), LocalProtocolError)
    pair.raw.shutdown(1)
    assert pair.ended() is None


def test_what_a_feed_raises_is_told(channels: Made) -> None:
    """While it makes slots of its work, in the channel's thread."""
    pair = channels()

    def expand(_work: Work) -> Iterator[Slot]:
        yield memory_slot(0, b"one")
        raise OSError("can't read the file")

    pair.sender.put(Job("flow", memory_slot(0), expand))
    assert str(pair.send_failed()) == "can't read the file"
    assert pair.sender.sent_slots == 1


def test_a_lost_connection_is_told(channels: Made) -> None:
    """The other end is gone: the next slots can't be written."""
    pair = channels()
    pair.receiver.cancel()
    pair.receiver.join()
    pair.sender.put(Job("flow", memory_slot(0, bytes(limits.SLOT_BYTES_MAX)), as_it_is))
    assert isinstance(pair.send_failed(), OSError)


def test_a_sender_can_be_cancelled_wherever_it_is(channels: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocked in the socket, since nobody reads: it ends, and what was queued is dropped."""
    pair = channels()
    pair.kind.fails = StorageError("and so it reads no more")
    pair.send(memory_slot(0, b"x"))
    pair.ended()
    for _ in range(3):
        pair.sender.put(Job("flow", memory_slot(0, bytes(limits.SLOT_BYTES_MAX)), as_it_is))
    pair.sender.cancel()
    pair.sender.join()
    assert pair.sender.sent_slots <= 2


def test_the_room_of_a_channel_is_bounded(channels: Made) -> None:
    """`CHANNEL_QUEUE_ITEMS_MAX` jobs are handed over ahead of time, as the loop counts them."""
    pair = channels()
    assert pair.sender.room == limits.CHANNEL_QUEUE_ITEMS_MAX
    pair.sender.put(Job("flow", memory_slot(0, b"x"), as_it_is))
    assert pair.sender.room == limits.CHANNEL_QUEUE_ITEMS_MAX - 1
    assert pair.sender.congestion_control == ""
    assert pair.finish() is None


# -- feeds that are wrong


@pytest.mark.parametrize("length", [2, 4])
def test_a_slot_of_another_length_is_its_feeds_fault(channels: Made, length: int) -> None:
    """It is not sent: the framing holds, and the kind is named."""
    pair = channels()
    pair.sender.put(Job("flow", memory_slot(0, b"abc")._replace(length=length), as_it_is))
    error = pair.send_failed()
    assert isinstance(error, LocalProtocolError)
    assert "acme/memory" in str(error)
    assert pair.sender.sent_slots == 0


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_items_wider_than_a_byte_are_bytes_on_the_wire(channels: Made, codec: str) -> None:
    """A memoryview of numbers goes whole."""
    pair = channels(codec=codec)
    wide = np.arange(1000, dtype=np.int64)
    pair.send(Slot("acme/memory", 1, bytes(8), (memoryview(wide.data),), wide.nbytes))
    assert pair.finish() is None
    assert pair.kind.memory[1][: wide.nbytes] == wide.tobytes()


@pytest.mark.parametrize(("admitted", "encodings"), [
    (("zstd", "lz4"), ("none", "lz4", "zstd", "zstd:3")), (("lz4",), ("none", "lz4")), ((), ("none",)),
])  # fmt: skip
def test_auto_uses_what_both_sides_have(channels: Made, admitted: tuple[str, ...], encodings: tuple[str, ...]) -> None:
    """Slots travel in no encoding but those that the destination admits, and both sides count the same by codec."""
    pair = channels(codec="auto", admitted=admitted)
    for _ in range(20):
        pair.send(memory_slot(0, TEXT * (SIZE // len(TEXT))), memory_slot(9, b""))
    assert pair.finish() is None
    assert tuple(pair.sender.codecs) == encodings
    sent, received = pair.sender.codecs, pair.receiver.codecs
    assert sum(tally.slots for tally in sent.values()) == sum(tally.slots for tally in received.values()) == 20
    for name, tally in received.items():
        assert tally.wire_bytes == sum(sent[each].wire_bytes for each in sent if each.partition(":")[0] == name)
