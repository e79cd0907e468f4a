"""Main: messages whole and in order, a backlog that is bounded, and last words."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from multifd import limits
from multifd import messages as m
from multifd.engine.connection import Connection
from multifd.engine.main_stream import MainStream
from multifd.engine.transport import Address
from multifd.errors import Code, RemoteProtocolError, TransportError
from multifd.wire.control import serialize

WAIT_S = 5.0


async def streams() -> tuple[MainStream, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return MainStream(Connection(ours)), theirs


async def test_messages_come_whole_and_in_order() -> None:
    """However the bytes are cut, and two at a time."""
    stream, peer = await streams()
    loop = asyncio.get_running_loop()
    sent: list[m.Message] = [m.Commit(), m.Attached(3), m.Settled((1, 2))]
    data = b"".join(serialize(message) for message in sent)
    async with asyncio.timeout(WAIT_S):
        for cut in range(0, len(data), 5):
            await loop.sock_sendall(peer, data[cut : cut + 5])
        assert [await stream.receive() for _ in sent] == sent
        peer.close()
        assert await stream.receive() is None
        assert [message async for message in stream.messages()] == []
    stream.abort()


async def test_garbage_on_main_is_the_peers_fault() -> None:
    """A typed error, at once."""
    stream, peer = await streams()
    peer.send(b"\xff" * 100)
    with pytest.raises(RemoteProtocolError, match=r"frame\.length"):
        await stream.receive()
    stream.abort()
    peer.close()


async def test_only_the_first_frame_must_be_short() -> None:
    """Who is there is not known yet: it may take `FIRST_FRAME_BYTES_MAX`; what follows may be longer."""
    long = m.Inventory(1, 1, tuple(m.BlockInfo(f"{n:04}" + "x" * 200, 1, 4096) for n in range(1000)), (), (), False)
    assert len(serialize(long)) > limits.FIRST_FRAME_BYTES_MAX
    stream, peer = await streams()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        await loop.sock_sendall(peer, serialize(m.Commit()))
        assert await stream.receive() == m.Commit()
        sending = asyncio.create_task(loop.sock_sendall(peer, serialize(long)))
        assert await stream.receive() == long
        await sending
    stranger, other = await streams()
    other.send(serialize(long)[:100])
    with pytest.raises(RemoteProtocolError, match=r"frame\.length"):
        await stranger.receive()
    for each in (stream, stranger):
        each.abort()
    peer.close()
    other.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_connection_that_is_gone_takes_no_message(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """A typed error on either loop (the transports of one raise `RuntimeError`), and closing it again is nothing."""

    async def reset() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            stream = await MainStream.open(Address(host="127.0.0.1", port=server.getsockname()[1]), b"x")
            peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        with pytest.raises(TransportError, match="reset"):
            await stream.receive()
        with pytest.raises(TransportError, match="was lost"):
            stream.send(m.Commit())
        async with asyncio.timeout(WAIT_S):
            await stream.close()
        stream.abort()

    run(reset())


async def test_a_peer_that_does_not_read_is_lost() -> None:
    """What piles up for it is bounded: about `MAIN_BACKLOG_BYTES_MAX`."""
    stream, peer = await streams()
    message = m.Aborted(Code.INTERNAL, "x" * limits.TEXT_BYTES_MAX)
    sent = 0
    try:
        while sent < 2 * limits.MAIN_BACKLOG_BYTES_MAX:
            stream.send(message)
            sent += limits.TEXT_BYTES_MAX
    except TransportError as error:
        lost = error
    assert limits.MAIN_BACKLOG_BYTES_MAX <= sent < 2 * limits.MAIN_BACKLOG_BYTES_MAX
    assert "does not read" in str(lost)
    stream.abort()
    peer.close()


async def test_last_words_are_read_before_the_connection_goes() -> None:
    """Closing waits for the peer: over unread bytes it would be a reset, and take with it what was written last."""
    stream, peer = await streams()
    peer.send(b"unread")
    stream.send(m.Commit())
    closing = asyncio.create_task(stream.close())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        assert await loop.sock_recv(peer, 1000) == serialize(m.Commit())
        assert await loop.sock_recv(peer, 1000) == b""
        peer.close()
        await closing


async def test_what_is_larger_than_the_backlog_is_written_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it is: no more of it waits than the loop's own bound and one message."""
    monkeypatch.setattr(limits, "MAIN_BACKLOG_BYTES_MAX", 128 * limits.KIB)
    stream, peer = await streams()
    message = m.Aborted(Code.INTERNAL, "x" * limits.TEXT_BYTES_MAX)

    async def send() -> None:
        for _ in range(1000):
            await stream.send_when_read(message)

    sending = asyncio.create_task(send())
    left = 1000 * len(serialize(message))
    async with asyncio.timeout(WAIT_S):
        while left:
            left -= len(await asyncio.get_running_loop().sock_recv(peer, 1 << 20))
        await sending
    stream.abort()
    peer.close()
