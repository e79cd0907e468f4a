"""Main of a source: elements in the order in which they were asked for, no faster than they are read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from qemu_machines import state_of

from multifd import elements as e
from multifd import limits
from multifd.engine.connection import Connection
from multifd.errors import LocalProtocolError, TransportError
from multifd.qemu.main_writer import MainWriter
from multifd.wire.qemu_serialize import serialize

STATE = state_of()
BEGIN = e.RamBegins(e.Phase.PART, STATE.ram)
END = e.RamEnds(e.Phase.PART)


@pytest.fixture
async def main() -> AsyncIterator[tuple[MainWriter, Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    connection = Connection(ours)
    with theirs:
        yield MainWriter(connection), connection, theirs
        connection.abort()


async def read(theirs: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 1 << 20), 5)
    return bytes(data)


async def test_everything_goes_in_its_order(main: tuple[MainWriter, Connection, socket.socket]) -> None:
    """`done` is called when what it belongs to is written; numbers are counted."""
    writer, _, theirs = main
    task = asyncio.create_task(writer.run())
    done: list[str] = []
    records = [e.ZeroRecords("m", np.arange(3) * 4096), e.ZeroRecords("m", np.arange(3, 5) * 4096)]
    writer.put((BEGIN,))
    writer.put(records, lambda: done.append("records"))
    writer.put((END, *STATE.sections), lambda: done.append("rest"))
    expected = serialize(BEGIN, *records, END, *STATE.sections)
    assert await read(theirs, len(expected)) == expected
    assert done == ["records", "rest"]
    assert (writer.parts, writer.zero_pages, writer.sent_bytes) == (1, 5, len(expected))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_not_read_is_not_made(
    main: tuple[MainWriter, Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elements are drawn as the destination reads: a long list of zero pages takes no memory."""
    monkeypatch.setattr(limits, "MAIN_BACKLOG_BYTES_MAX", 100_000)
    writer, connection, theirs = main
    drawn = 0

    def many() -> Iterator[e.StreamElement]:
        nonlocal drawn
        yield BEGIN
        for _ in range(1000):
            drawn += 1
            yield e.ZeroRecords("m", np.arange(1000) * 4096)

    writer.put(many())
    task = asyncio.create_task(writer.run())
    await read(theirs, 100_000)
    assert drawn < 200
    assert connection.backlog <= 120_000
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_goes_wrong_is_raised(main: tuple[MainWriter, Connection, socket.socket]) -> None:
    """Elements that can't be where they are, and a connection that is gone."""
    writer, connection, _ = main
    writer.put((END,))
    with pytest.raises(LocalProtocolError):
        await writer.run()
    connection.abort()
    writer.put((BEGIN,))
    with pytest.raises(TransportError):
        await writer.run()
