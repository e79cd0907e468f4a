"""A channel of a destination: what its worker makes of packets, where it stops, and how it ends."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from multifd.codec.streams import create_encoder
from multifd.elements import Compression, DevicePacket, RamPacket
from multifd.engine.transport import DataSocket
from multifd.errors import MultifdError, RemoteProtocolError, TransportError
from multifd.qemu.channel_receiver import DeviceStateCame, QemuChannelReceiver, ReceiveEnded, Synced
from multifd.qemu.memory_target import MemoryBlock
from multifd.wire.qemu_packet import serialize_device_header, serialize_ram_header

WAIT_S = 5.0
PAGE = 4096
HEADER = 1344
NUMBER = 3


class Posted:
    """An event queue whose other end is the test."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.post = self._events.put

    def next(self) -> Any:
        return self._events.get(timeout=WAIT_S)


class Watching:
    """Hooks that keep what they hear, and raise what they are told."""

    def __init__(self) -> None:
        self.reads = 0
        self.syncs = 0
        self.error: Exception | None = None

    def before_channel_read(self, channel: int) -> None:
        assert channel == NUMBER
        self.reads += 1

    def before_sync(self, channel: int) -> None:
        assert channel == NUMBER
        self.syncs += 1
        if self.error is not None:
            raise self.error


class Channel:
    """A receiver, and the source's end of its connection."""

    def __init__(self, compression: Compression = Compression.NONE) -> None:
        self.blocks = {"m": MemoryBlock(64 * PAGE, PAGE), "rom": MemoryBlock(PAGE, PAGE)}
        self.posted = Posted()
        self.hooks = Watching()
        ours, self.theirs = socket.socketpair()
        self.receiver = QemuChannelReceiver(
            NUMBER, DataSocket(ours), blocks=self.blocks, page_size=PAGE, compression=compression, hooks=self.hooks,
            events=self.posted,  # type: ignore[arg-type]
        )  # fmt: skip
        self.receiver.start()

    def send(self, *pieces: bytes) -> None:
        self.theirs.sendall(b"".join(pieces))

    def ended(self) -> MultifdError | None:
        """How the worker ends."""
        event = self.posted.next()
        assert isinstance(event, ReceiveEnded), event
        assert event.channel == NUMBER
        return event.error

    def error(self) -> str:
        """What the source did wrong."""
        error = self.ended()
        assert isinstance(error, RemoteProtocolError)
        return str(error)

    def page(self, number: int, block: str = "m") -> bytes:
        return bytes(self.blocks[block].view[number * PAGE : (number + 1) * PAGE])


@pytest.fixture
def channel() -> Iterator[Channel]:
    yield from opened(Compression.NONE)


def opened(compression: Compression) -> Iterator[Channel]:
    channel = Channel(compression)
    yield channel
    channel.receiver.cancel()
    assert channel.receiver.join()
    channel.theirs.close()


def offsets(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64) * PAGE


def fill(number: int) -> bytes:
    return bytes([number]) * PAGE


def pages(*numbers: int, zero: tuple[int, ...] = (), block: str = "m") -> bytes:
    """A packet; each page is full of its number."""
    packet = RamPacket(block, offsets(*numbers), offsets(*zero), payload_bytes=len(numbers) * PAGE)
    return serialize_ram_header(packet, PAGE) + b"".join(map(fill, numbers))


def sync() -> bytes:
    return serialize_ram_header(RamPacket("", offsets(), offsets(), sync=True), PAGE)


# -- what comes --------------------------------------------------------------------------------------------------------


def test_pages_are_put_into_place(channel: Channel) -> None:
    """Neighbours, scattered ones and those of another block; zero pages are zeroed, whatever was there."""
    channel.send(pages(1, 2, 3), pages(9, 7, 8), pages(0, block="rom"), pages(zero=(2, 30)), sync())
    assert channel.posted.next() == Synced(NUMBER, 64 + 5 * HEADER + 7 * PAGE)
    assert [channel.page(number)[0] for number in (1, 2, 3, 7, 8, 9)] == [1, 0, 3, 7, 8, 9]
    assert channel.page(2) == bytes(PAGE)
    assert np.flatnonzero(channel.blocks["m"].present).tolist() == [1, 3, 7, 8, 9]
    tally = channel.receiver.tally
    assert (tally.packets, tally.normal_pages, tally.zero_pages, tally.syncs) == (4, 7, 2, 1)
    assert (tally.payload_bytes, tally.wire_bytes) == (7 * PAGE, 5 * HEADER + 7 * PAGE)
    assert channel.hooks.reads == 5


@pytest.mark.parametrize("compression", [Compression.ZLIB, Compression.ZSTD])
def test_compressed_pages_are_one_stream(compression: Compression) -> None:
    """Packet after packet goes through one decoder."""
    encoder = create_encoder(compression)
    assert encoder is not None
    for channel in opened(compression):
        for numbers in ((4, 5), (6,), (4,)):
            payload = encoder.encode([fill(number + 1) for number in numbers])
            packet = RamPacket("m", offsets(*numbers), offsets(), compression=compression, payload_bytes=len(payload))
            channel.send(serialize_ram_header(packet, PAGE), payload)
        channel.send(sync())
        assert isinstance(channel.posted.next(), Synced)
        assert [channel.page(number)[-1] for number in (4, 5, 6)] == [5, 6, 7]


def test_bad_payload_is_the_sources_fault() -> None:
    """What does not decode ends the channel, with its offset."""
    for channel in opened(Compression.ZSTD):
        packet = RamPacket("m", offsets(1), offsets(), compression=Compression.ZSTD, payload_bytes=9)
        channel.send(serialize_ram_header(packet, PAGE), b"not zstd.")
        assert "channel 3 at 64: packet.payload" in channel.error()


def test_a_device_packet_is_handed_on(channel: Channel) -> None:
    """With the offset behind it."""
    packet = DevicePacket("0000:00:03.0/vfio", 1, b"state")
    channel.send(serialize_device_header(packet), packet.payload)
    assert channel.posted.next() == DeviceStateCame(NUMBER, 64 + 276 + 5, packet)


def test_what_follows_a_short_device_packet_is_read_whole(channel: Channel) -> None:
    """It is shorter than the header of pages, so that more than it has been taken when its kind is known."""
    packet = DevicePacket("0000:00:03.0/vfio", 1, b"state")
    channel.send(serialize_device_header(packet), packet.payload, pages(3, 4), pages(9), sync())
    assert isinstance(channel.posted.next(), DeviceStateCame)
    channel.receiver.release()
    assert channel.posted.next() == Synced(NUMBER, 64 + 276 + 5 + 3 * HEADER + 3 * PAGE)
    assert [channel.page(number)[0] for number in (3, 4, 9)] == [3, 4, 9]


def test_a_device_packet_behind_pages_is_found(channel: Channel) -> None:
    """Though the header of more pages was asked for together with the pages before it."""
    packet = DevicePacket("0000:00:03.0/vfio", 1, b"state")
    channel.send(pages(3, 4), serialize_device_header(packet), packet.payload, sync())
    assert channel.posted.next() == DeviceStateCame(NUMBER, 64 + HEADER + 2 * PAGE + 276 + 5, packet)
    channel.receiver.release()
    assert isinstance(channel.posted.next(), Synced)


def test_packets_of_any_length_follow_each_other(channel: Channel) -> None:
    """Neighbouring pages, few and many, of one block and another, and pages apart."""
    channel.send(pages(*range(32)), pages(7), pages(0, block="rom"), pages(40, 42), pages(50, 51), sync())
    assert isinstance(channel.posted.next(), Synced)
    there = [*range(32), 40, 42, 50, 51]
    assert [number for number in range(64) if channel.blocks["m"].present[number]] == there
    assert all(channel.page(number) == fill(number) for number in there)
    assert channel.hooks.reads == 6
    assert channel.receiver.tally.packets == 5


# -- where it stops ----------------------------------------------------------------------------------------------------


def test_it_stops_at_a_sync_until_it_is_released(channel: Channel) -> None:
    """Nothing behind a SYNC is touched before, all of it after."""
    channel.send(pages(1), sync(), pages(2), sync())
    assert channel.posted.next() == Synced(NUMBER, 64 + 2 * HEADER + PAGE)
    assert channel.hooks.reads == 2
    assert (channel.page(1)[0], channel.page(2)[0]) == (1, 0)
    assert channel.receiver.unordered
    channel.receiver.release()
    assert channel.posted.next() == Synced(NUMBER, 64 + 4 * HEADER + 2 * PAGE)
    assert channel.page(2)[0] == 2


def test_a_sync_may_have_pages(channel: Channel) -> None:
    """Old sources: its pages first, then it stops; the empty packet that follows, with stale fields, is nothing."""
    riding = bytearray(pages(5))
    riding[11] |= 1
    empty = bytearray(sync())
    empty[11] = 0
    empty[20:24] = (524288).to_bytes(4, "big")
    channel.send(bytes(riding), bytes(empty), sync())
    assert channel.posted.next() == Synced(NUMBER, 64 + HEADER + PAGE)
    assert channel.page(5)[0] == 5
    channel.receiver.release()
    assert channel.posted.next() == Synced(NUMBER, 64 + 3 * HEADER + PAGE)


def test_at_the_end_of_main_it_stops_no_more(channel: Channel) -> None:
    """A SYNC that waits goes on, one that comes does not wait, and the end is an end."""
    channel.send(pages(1), sync(), sync())
    channel.posted.next()
    channel.receiver.release()
    channel.posted.next()
    assert channel.receiver.finish() is None
    channel.send(sync())
    channel.posted.next()
    channel.theirs.close()
    assert channel.ended() is None


def test_pages_that_no_mark_covers_are_found_at_the_end(channel: Channel) -> None:
    """Those that have come since the last mark."""
    channel.send(sync(), pages(1), sync())
    channel.posted.next()
    channel.receiver.release()
    channel.posted.next()
    late = channel.receiver.finish()
    assert late is not None
    assert "no pages that main's last mark does not cover" in str(late)


def test_pages_behind_the_end_are_refused(channel: Channel) -> None:
    """Those that come when main is at its end."""
    assert channel.receiver.finish() is None
    channel.send(pages(1))
    assert "no pages that main's last mark does not cover" in channel.error()
    assert channel.page(1) == bytes(PAGE)


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_an_end_between_packets_is_no_error(channel: Channel) -> None:
    """Whether it is one for the session is the machine's to say."""
    channel.send(pages(1))
    channel.theirs.close()
    assert channel.ended() is None


@pytest.mark.parametrize("length", [1, 275, 276, 277, HEADER, HEADER + 1, HEADER + PAGE - 1])
def test_an_end_inside_a_packet_is_a_loss(channel: Channel, length: int) -> None:
    """It says where the packet began."""
    channel.send(pages(1), pages(2)[:length])
    channel.theirs.close()
    error = channel.ended()
    assert isinstance(error, TransportError)
    assert f"channel 3 at {64 + HEADER + PAGE}: the connection was lost" in str(error)


@pytest.mark.parametrize(
    ("packet", "what"),
    [
        (pages(1, block="other"), "packet.block"),
        (pages(64), "packet.offsets"),
        (pages(1, zero=(2, 64)), "packet.offsets"),
        (pages(1, block="rom"), "packet.offsets"),
        (b"\x11\x22\x33\x45" + pages(1)[4:], "packet.magic"),
    ],
    ids=["unknown block", "beyond the end", "zero page beyond the end", "beyond a small block", "magic"],
)
def test_a_bad_packet_ends_the_channel(channel: Channel, packet: bytes, what: str) -> None:
    """The error names the channel, the packet's offset and the field; no page is written."""
    channel.send(pages(3), packet)
    assert f"channel 3 at {64 + HEADER + PAGE}: {what}" in channel.error()
    assert channel.page(1) == bytes(PAGE)


def test_whatever_a_hook_raises_ends_the_channel(channel: Channel) -> None:
    """An error that is not the library's is wrapped."""
    channel.hooks.error = ZeroDivisionError("oh")
    channel.send(sync())
    error = channel.ended()
    assert str(error) == f"channel 3 at {64 + HEADER}: ZeroDivisionError: oh"


def test_cancelling_wakes_it_wherever_it_is(channel: Channel) -> None:
    """At a SYNC; the fixture does it while it reads."""
    channel.send(sync())
    channel.posted.next()
    channel.receiver.cancel()
    assert channel.ended() is None
