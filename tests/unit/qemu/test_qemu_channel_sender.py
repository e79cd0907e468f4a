"""A channel of a source: what its worker makes of pages and SYNCs, read back by a reader of channels."""

from __future__ import annotations

import errno
import mmap
import os
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qemu_machines import PAGE, contents, memory_machine

from multifd.codec.streams import create_decoder
from multifd.elements import Compression, Handshake, RamPacket, ZeroPages
from multifd.engine.transport import DataSocket
from multifd.errors import LocalProtocolError
from multifd.memory.file_pages import FilePages, OpenFile
from multifd.qemu.channel_sender import ChannelFailed, PacketNumbers, PageQueue, QemuChannelSender, Sync, TaskDone
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.packets import PageRun, Pages, packets
from multifd.qemu.saved_reader import SavedBlock
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_packet import serialize_handshake

WAIT_S = 5.0
DONE = TaskDone(0, sync=False)


class Posted:
    """An event queue whose other end is the test."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.post = self._events.put

    def next(self) -> Any:
        return self._events.get(timeout=WAIT_S)


class Channels:
    """Senders, and threads that keep what arrives."""

    def __init__(self, count: int, compression: Compression) -> None:
        self.posted = Posted()
        self.arrived = [bytearray() for _ in range(count)]
        pairs = [socket.socketpair() for _ in range(count)]
        numbers = PacketNumbers()
        self.senders = [
            QemuChannelSender(
                number, DataSocket(ours), page_size=PAGE, compression=compression, numbers=numbers,
                events=self.posted,  # type: ignore[arg-type]
            )
            for number, (ours, _) in enumerate(pairs)
        ]  # fmt: skip
        self._theirs = [theirs for _, theirs in pairs]
        self._threads = [threading.Thread(target=self._keep, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()
        for sender in self.senders:
            sender.start()

    def _keep(self, number: int) -> None:
        while data := self._theirs[number].recv(1 << 20):
            self.arrived[number] += data

    def put(self, *tasks: PageQueue | Sync) -> None:
        for sender in self.senders:
            for task in tasks:
                sender.put(task)

    def close(self) -> None:
        """End in order, and wait until all has arrived."""
        for sender in self.senders:
            sender.cancel(orderly=True)
            assert sender.join()
        for thread in self._threads:
            thread.join(WAIT_S)
        for theirs in self._theirs:
            theirs.close()


@pytest.fixture
def channels() -> Iterator[Any]:
    made: list[Channels] = []

    def make(count: int = 1, compression: Compression = Compression.NONE) -> Channels:
        made.append(Channels(count, compression))
        return made[-1]

    yield make
    for each in made:
        each.close()


def read(data: bytes, into: MemoryMachine, compression: Compression) -> list[RamPacket]:
    """The packets of a channel; their pages go into a machine."""
    reader = ChannelReader(
        page_size=PAGE,
        create_decoder=create_decoder,
        place=lambda packet: into.blocks[packet.block].place(packet.normal),
        compression=compression,
    )
    items = list(reader.feed(serialize_handshake(Handshake(bytes(16), 0)) + data))
    reader.end()
    found = [item for item in items if isinstance(item, RamPacket)]
    assert len(found) == len(items) - 1
    for packet in found:
        if packet.block:
            into.blocks[packet.block].zero(packet.zero)
    return found


def all_pages(machine: MemoryMachine, zero_pages: ZeroPages) -> Iterator[Pages | PageRun]:
    for name, block in machine.blocks.items():
        yield from packets(name, block, PAGE, zero_pages)


@pytest.mark.parametrize("compression", Compression)
def test_a_machine_goes_over_several_channels(channels: Any, compression: Compression) -> None:
    """Each page on one of them, in one stream of compression each; SYNC after all of it; numbers from one counter."""
    machine = memory_machine()
    made = channels(3, compression)
    queue_ = PageQueue(all_pages(machine, ZeroPages.MULTIFD))
    made.put(queue_, Sync(), Sync())
    events = [made.posted.next() for _ in range(9)]
    assert sorted((event.channel, event.sync) for event in events) == sorted(
        (number, sync) for number in range(3) for sync in (False, True, True)
    )
    made.close()
    copy = MemoryMachine()
    copy.begin(machine.state.configuration, machine.state.ram, machine.state.blocks)
    found = [read(bytes(data), copy, compression) for data in made.arrived]
    assert contents(copy) == contents(machine)
    for each, sender in zip(found, made.senders, strict=True):
        assert [packet.sync for packet in each] == [False] * (len(each) - 2) + [True, True]
        assert [packet.number for packet in each] == sorted(packet.number for packet in each)
        assert sender.tally.packets == len(each) - 2
        assert sender.tally.syncs == 2
    assert sorted(packet.number for each in found for packet in each) == list(range(1, sum(map(len, found)) + 1))
    tallies = [sender.tally for sender in made.senders]
    assert [tally.wire_bytes for tally in tallies] == [len(data) for data in made.arrived]
    assert sum(tally.normal_pages + tally.zero_pages for tally in tallies) == 717


def test_pages_are_sent_from_where_they_are(channels: Any) -> None:
    """Without compression one packet is its header and then the memory, nothing else."""
    machine = memory_machine()
    made = channels()
    view = machine.blocks["pc.bios"].view
    made.put(PageQueue(packets("pc.bios", machine.blocks["pc.bios"], PAGE, ZeroPages.NONE)))
    assert made.posted.next() == DONE
    made.close()
    assert len(made.arrived[0]) == 1344 + len(view)
    assert made.arrived[0][1344:] == view


def test_a_lost_connection_is_told(channels: Any) -> None:
    """With what the system said; the worker has ended."""
    made = channels()
    made._theirs[0].shutdown(socket.SHUT_RDWR)
    made.put(Sync(), Sync())
    events = [made.posted.next()]
    while not isinstance(events[-1], ChannelFailed):
        events.append(made.posted.next())
    assert isinstance(events[-1].error, OSError)
    assert made.senders[0].join()


def test_pages_that_can_not_be_are_told(channels: Any) -> None:
    """A machine that is wrong fails its channel, and nothing goes on the wire for it."""
    odd = np.array([1], dtype=np.int64)
    made = channels()
    made.put(PageQueue(iter([Pages("m", odd, odd[:0], None)])))
    failed = made.posted.next()
    assert isinstance(failed.error, LocalProtocolError)
    made.close()
    assert not made.arrived[0]


def test_a_mapped_file_that_is_cut_short_is_told(channels: Any) -> None:
    """Its pages are looked at by the system call alone, which fails where a process that looks itself is killed."""
    fd = os.memfd_create("saved")
    os.ftruncate(fd, 4 * PAGE)
    mapping = mmap.mmap(fd, 4 * PAGE, prot=mmap.PROT_READ)
    pages = FilePages(OpenFile(fd, "saved"), 0, 4 * PAGE, page_size=PAGE)
    block = SavedBlock(memoryview(mapping), np.ones(4, dtype=np.bool_), pages, is_mapped=True)
    os.ftruncate(fd, 0)
    os.close(fd)
    made = channels()
    made.put(PageQueue(packets("m", block, PAGE, ZeroPages.NONE)))
    failed = made.posted.next()
    assert isinstance(failed, ChannelFailed)
    assert isinstance(failed.error, OSError)
    assert failed.error.errno == errno.EFAULT


def test_what_fails_in_the_plan_is_told(channels: Any) -> None:
    """Whoever draws when it breaks tells; the others find nothing more."""

    def broken() -> Iterator[Pages]:
        raise MemoryError("no room for a plan")
        yield

    made = channels(2)
    made.put(PageQueue(broken()))
    events = [made.posted.next(), made.posted.next()]
    assert sorted(type(event).__name__ for event in events) == ["ChannelFailed", "TaskDone"]


def test_cancel_ends_a_worker_that_hangs(channels: Any) -> None:
    """Whatever it waits for: a peer that does not read, too."""
    ours, theirs = socket.socketpair()
    with theirs:
        posted = Posted()
        sender = QemuChannelSender(
            0, DataSocket(ours), page_size=PAGE, compression=Compression.NONE, numbers=PacketNumbers(),
            events=posted,  # type: ignore[arg-type]
        )  # fmt: skip
        sender.start()
        machine = memory_machine()
        sender.put(PageQueue(all_pages(machine, ZeroPages.NONE)))
        assert theirs.recv(4, socket.MSG_WAITALL) == b"\x11\x22\x33\x44"
        sender.cancel()
        assert sender.join()
        assert isinstance(posted.next(), ChannelFailed)
