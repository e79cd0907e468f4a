"""A line passes everything on but for its faults, and each fault does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from multifd.elements import Handshake, Pong, RamPacket, ReturnMessage, Shut, SwitchoverAck
from multifd.errors import DeadlineError
from multifd.testing.faults import FaultLine, Faults, Treatment
from multifd.wire.qemu_packet import serialize_handshake, serialize_ram_header
from multifd.wire.qemu_return import serialize_return

NO_PAGES = np.empty(0, np.int64)
SYNC = serialize_ram_header(RamPacket("", NO_PAGES, NO_PAGES, sync=True), 4096)
PAGE = serialize_ram_header(RamPacket("m", np.zeros(1, np.int64), NO_PAGES, payload_bytes=4096), 4096) + bytes(4096)
MAIN = b"QEVM and more"
ACK, PONG = SwitchoverAck(), Pong(1)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Join = Callable[..., Coroutine[Any, Any, tuple[FaultLine, Streams, Streams]]]


def frames(*messages: ReturnMessage) -> bytes:
    return b"".join(map(serialize_return, messages))


def channel(number: int) -> bytes:
    return serialize_handshake(Handshake(bytes(16), number))


@pytest_asyncio.fixture
async def join(tmp_path: Path) -> AsyncIterator[Join]:
    """A line with a source and a destination that the test plays; the source has written its first bytes."""
    arrived: asyncio.Queue[Streams] = asyncio.Queue()
    open_ends: list[FaultLine | asyncio.StreamWriter] = []

    async def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.put_nowait((reader, writer))

    server = await asyncio.start_unix_server(arrive, tmp_path / "d")

    async def start(faults: Faults, first: bytes = MAIN) -> tuple[FaultLine, Streams, Streams]:
        line = await FaultLine.open(f"unix:{tmp_path / 'd'}", faults)
        source = await asyncio.open_unix_connection(line.address.removeprefix("unix:"))
        source[1].write(first)
        destination = await arrived.get()
        open_ends.extend([line, source[1], destination[1]])
        assert await destination[0].readexactly(len(first)) == first
        return line, source, destination

    yield start
    for end in open_ends:
        if isinstance(end, FaultLine):
            await end.close()
        else:
            end.transport.abort()
    server.close()
    await server.wait_closed()


async def test_bytes_pass_both_ways_until_both_have_ended(join: Join) -> None:
    """The end of one direction leaves the other open."""
    line, source, destination = await join(Faults(), b"neither main nor channel")
    source[1].write(b"there")
    source[1].write_eof()
    assert await destination[0].read() == b"there"
    destination[1].write(b"back")
    destination[1].write_eof()
    assert await source[0].read() == b"back"
    assert line.heard == []


@pytest.mark.parametrize(
    ("faults", "arrives"),
    [
        (Faults(), [ACK, PONG, Shut(0)]),
        (Faults(acks=Treatment.DROP), [PONG, Shut(0)]),
        (Faults(acks=Treatment.DOUBLE), [ACK, ACK, PONG, Shut(0)]),
        (Faults(acks=Treatment.HOLD), [PONG, Shut(0)]),
        (Faults(surplus_acks=2), [ACK, PONG, ACK, ACK, Shut(0)]),
        (Faults(shut=1), [ACK, PONG, Shut(1)]),
        (Faults(shuts=Treatment.DROP), [ACK, PONG]),
        (Faults(shuts=Treatment.HOLD, shut=3), [ACK, PONG]),
    ],
    ids=repr,
)
async def test_the_return_path_is_treated(join: Join, faults: Faults, arrives: list[ReturnMessage]) -> None:
    """What arrives at the source; what the destination said is known all the same."""
    line, source, destination = await join(faults)
    destination[1].write(frames(ACK, PONG, Shut(0)))
    destination[1].write_eof()
    assert await source[0].read() == frames(*arrives)
    assert line.heard == [ACK, PONG, Shut(0)]
    if faults == Faults():
        with pytest.raises(DeadlineError, match="a fault to act"):
            await line.wait_acted(0.01)
    else:
        await line.wait_acted()


async def test_what_is_held_goes_on_when_it_is_released(join: Join) -> None:
    """Held messages come after those that passed, as they would have been; later ones are not held any more."""
    line, source, destination = await join(Faults(acks=Treatment.HOLD, shuts=Treatment.HOLD, shut=1))
    destination[1].write(frames(ACK, PONG, Shut(0)))
    assert await source[0].readexactly(len(frames(PONG))) == frames(PONG)
    await line.wait_acted()
    line.release()
    destination[1].write(frames(ACK))
    destination[1].write_eof()
    assert await source[0].read() == frames(ACK, Shut(1), ACK)


async def test_a_channel_is_cut_after_so_many_bytes(join: Join) -> None:
    """Exactly these arrive, then both ends see the end; another channel lives on."""
    line, source, destination = await join(Faults(cut=(3, 1000)), channel(3))
    source[1].write(bytes(5000))
    assert len(await destination[0].read()) == 1000
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await source[0].readexactly(1)
    await line.wait_acted()
    _, other, end = await join(Faults(cut=(3, 1000)), channel(2))
    other[1].write(bytes(5000))
    assert len(await end[0].readexactly(5000)) == 5000


async def test_a_channel_can_be_cut_at_any_time(join: Join) -> None:
    """The test decides when."""
    line, source, destination = await join(Faults(), channel(0))
    line.cut(0)
    assert await destination[0].read() == b""
    assert await source[0].read() == b""


async def test_a_sync_is_stalled_and_what_follows_waits(join: Join) -> None:
    """All before the second SYNC arrives, then nothing; after `release` the rest, byte for byte."""
    line, source, destination = await join(Faults(stall_sync=(1, 2)), channel(1))
    before, after = PAGE + SYNC + PAGE, SYNC + PAGE + SYNC
    source[1].write(before + after)
    assert await destination[0].readexactly(len(before)) == before
    await line.wait_acted()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(destination[0].read(1), 0.02)
    line.release()
    source[1].write_eof()
    assert await destination[0].read() == after


async def test_a_return_path_that_is_none_is_remembered(join: Join) -> None:
    """Bytes that are no frames end the connection, and the test can find out why."""
    line, source, destination = await join(Faults())
    destination[1].write(b"\0\x63\0\0")
    assert await source[0].read() == b""
    assert "frame.type" in str(line.errors[0])
