"""A channel of a relay: packets go on as they are, or in the other end's compression, SYNCs in their place."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
from qemu_machines import PAGE, contents, memory_machine

from multifd.codec.streams import create_decoder, create_encoder
from multifd.elements import Compression, DevicePacket, Handshake, Packet, RamPacket, ZeroPages
from multifd.engine.transport import DataSocket
from multifd.errors import RemoteProtocolError, TransportError
from multifd.qemu.memory_target import MemoryMachine, page_views
from multifd.qemu.packets import PageRun, packets
from multifd.qemu.relay_channel import End, RelayChannel, RelayChannelEnded
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_packet import (
    header_bytes,
    serialize_device_header,
    serialize_handshake,
    serialize_ram_header,
)

WAIT_S = 5.0
NO_PAGES = np.empty(0, dtype=np.int64)
SYNC = serialize_ram_header(RamPacket("", NO_PAGES, NO_PAGES, number=99, sync=True), PAGE)
DEVICE = DevicePacket("0000:00:03.0/vfio", 1, b"its state" * 1000)


class Posted:
    """An event queue whose other end is the test."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.post = self._events.put
        self.hints = 0

    def hint(self) -> None:
        self.hints += 1

    def next(self) -> RelayChannelEnded:
        event = self._events.get(timeout=WAIT_S)
        assert isinstance(event, RelayChannelEnded)
        return event


class Relayed:
    """A channel; what is written to `source` comes out in `arrived`."""

    def __init__(self, come: Compression, go: Compression) -> None:
        self.posted = Posted()
        self.source, near = socket.socketpair()
        far, self.far = socket.socketpair()
        self.arrived = bytearray()
        self.channel = RelayChannel(
            0, DataSocket(near), DataSocket(far), page_size=PAGE, compression=(come, go),
            events=self.posted,  # type: ignore[arg-type]
        )  # fmt: skip
        self.channel.start()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _keep(self) -> None:
        while data := self.far.recv(1 << 20):
            self.arrived += data

    def finish(self) -> RelayChannelEnded:
        """The source closes; all has arrived when this returns."""
        self.source.shutdown(socket.SHUT_WR)
        ended = self.posted.next()
        self.close(orderly=True)
        return ended

    def close(self, *, orderly: bool = False) -> None:
        self.channel.cancel(orderly=orderly)
        assert self.channel.join()
        self._keeper.join(WAIT_S)
        self.source.close()
        self.far.close()


@pytest.fixture
def relayed() -> Iterator[Callable[..., Relayed]]:
    made: list[Relayed] = []

    def make(come: Compression = Compression.NONE, go: Compression = Compression.NONE) -> Relayed:
        made.append(Relayed(come, go))
        return made[-1]

    yield make
    for each in made:
        each.close()


def stream_of(machine: MemoryMachine, compression: Compression) -> bytes:
    """What a source sends of a machine, in one channel, with a SYNC after each block."""
    encoder = create_encoder(compression)
    parts: list[bytes] = []
    number = 0
    for name, block in machine.blocks.items():
        drawn = packets(name, block, PAGE, ZeroPages.MULTIFD)
        for pages in chain.from_iterable(
            each.packets(PAGE) if isinstance(each, PageRun) else (each,) for each in drawn
        ):
            payload = b"".join(page_views(block.view, pages.normal, PAGE))
            if encoder is not None and payload:
                payload = encoder.encode((payload,))
            header = RamPacket(
                name, pages.normal, pages.zero, number=number, compression=compression, payload_bytes=len(payload)
            )
            parts += [serialize_ram_header(header, PAGE), payload]
            number += 1
        parts.append(SYNC)
    return b"".join(parts)


def read(data: bytes, into: MemoryMachine) -> list[Packet]:
    reader = ChannelReader(
        page_size=PAGE,
        create_decoder=create_decoder,
        place=lambda packet: into.blocks[packet.block].place(packet.normal),
    )
    items = list(reader.feed(serialize_handshake(Handshake(bytes(16), 0)) + data))
    reader.end()
    for item in items:
        if isinstance(item, RamPacket) and item.block:
            into.blocks[item.block].zero(item.zero)
    return [item for item in items if not isinstance(item, Handshake)]


@pytest.mark.parametrize("come", Compression)
@pytest.mark.parametrize("go", Compression)
def test_a_machine_goes_through(relayed: Callable[..., Relayed], come: Compression, go: Compression) -> None:
    """The same pages at the far end, and the same SYNCs between the same packets."""
    machine = memory_machine()
    stream = stream_of(machine, come)
    made = relayed(come, go)
    made.source.sendall(stream)
    assert made.finish() == RelayChannelEnded(0, End.NEAR, None)
    if come is go:
        assert made.arrived == stream
    copy = MemoryMachine()
    copy.begin(machine.state.configuration, machine.state.ram, machine.state.blocks)
    found = read(bytes(made.arrived), copy)
    assert contents(copy) == contents(machine)
    assert [packet.sync for packet in found if isinstance(packet, RamPacket)].count(True) == 3
    came, passed = made.channel.came, made.channel.passed
    assert (came.packets, came.normal_pages, came.zero_pages, came.syncs) == (
        passed.packets, passed.normal_pages, passed.zero_pages, passed.syncs,
    )  # fmt: skip
    assert (came.wire_bytes, passed.wire_bytes) == (len(stream), len(made.arrived))
    assert made.posted.hints == 3


def old_sync(compression: Compression) -> bytes:
    """As 7.2 does it: SYNC on a packet with pages, then one with neither, both with what was there before."""
    payload = bytes(range(256)) * 32
    encoder = create_encoder(compression)
    encoded = payload if encoder is None else encoder.encode((payload,))
    offsets = np.array([0, PAGE])
    header = bytearray(serialize_ram_header(
        RamPacket("m", offsets, NO_PAGES, compression=compression, payload_bytes=len(encoded)), PAGE
    ))  # fmt: skip
    header[11] |= 1
    empty = bytearray(header)
    empty[8:12] = bytes(4)
    empty[16:20] = bytes(4)
    return bytes(header) + encoded + bytes(empty)


@pytest.mark.parametrize("go", Compression)
def test_the_old_form_of_sync(relayed: Callable[..., Relayed], go: Compression) -> None:
    """As it is where nothing changes; else pages, then SYNC, each for itself."""
    stream = old_sync(Compression.ZLIB)
    made = relayed(Compression.ZLIB, go)
    made.source.sendall(stream)
    assert made.finish().error is None
    if go is Compression.ZLIB:
        assert made.arrived == stream
        return
    machine = memory_machine()
    found = read(bytes(made.arrived), machine)
    assert [(packet.sync, len(packet.normal)) for packet in found if isinstance(packet, RamPacket)] == [
        (False, 2), (True, 0),
    ]  # fmt: skip
    assert machine.blocks["m"].view[: 2 * PAGE] == bytes(range(256)) * 32


def test_state_of_devices_goes_on(relayed: Callable[..., Relayed]) -> None:
    """In its place among packets and SYNCs."""
    stream = SYNC + serialize_device_header(DEVICE) + DEVICE.payload + SYNC
    made = relayed()
    made.source.sendall(stream)
    assert made.finish().error is None
    assert made.arrived == stream
    assert made.channel.device_packets == 1


def test_state_of_devices_can_not_be_compressed(relayed: Callable[..., Relayed]) -> None:
    """The form has no place for it: that ends the migration, and says so."""
    made = relayed(Compression.NONE, Compression.ZSTD)
    made.source.sendall(serialize_device_header(DEVICE) + DEVICE.payload)
    error = made.posted.next().error
    assert isinstance(error, RemoteProtocolError)
    assert "vfio" in str(error)


@pytest.mark.parametrize("bad", [b"\0" * 1344, SYNC[:700], SYNC[:4] + b"\0\0\0\2" + SYNC[8:]])
def test_what_is_no_packet_goes_no_further(relayed: Callable[..., Relayed], bad: bytes) -> None:
    """Nor what ends in the middle; the error says where."""
    made = relayed()
    made.source.sendall(SYNC + bad)
    ended = made.finish()
    assert ended.end is End.NEAR
    assert "channel 0 at 1408" in str(ended.error)
    assert made.arrived == SYNC


def test_a_far_end_that_is_lost_is_told_apart(relayed: Callable[..., Relayed]) -> None:
    """From a source that is."""
    made = relayed()
    made.far.shutdown(socket.SHUT_RDWR)
    made.source.sendall(SYNC * 3)
    ended = made.posted.next()
    assert ended.end is End.FAR
    assert isinstance(ended.error, TransportError)
    assert "far end" in str(ended.error)


def test_a_slow_far_end_holds_the_source_up() -> None:
    """One packet is in hand, and no more; cancel ends it all the same."""
    source, near = socket.socketpair()
    far, theirs = socket.socketpair()
    channel = RelayChannel(
        0, DataSocket(near), DataSocket(far), page_size=PAGE, compression=(Compression.NONE, Compression.NONE),
        events=Posted(),  # type: ignore[arg-type]
    )  # fmt: skip
    channel.start()
    source.settimeout(0.3)
    stream = stream_of(memory_machine(), Compression.NONE)
    with source, theirs:
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 20 * len(stream):
                sent += source.send(stream[sent % len(stream) :])
        assert sent < 20 * len(stream)
        assert channel.came.packets == channel.passed.packets + 1
        channel.cancel()
        assert channel.join()


def test_the_header_is_as_long_as_the_page_says() -> None:
    """What a relay of 16 KiB pages would read."""
    assert header_bytes(PAGE) == len(SYNC) == 1344
    assert header_bytes(16384) == 320 + 8 * 32
