"""asyncio's streams: `write` and `drain`, `readexactly` and a copy into place; a connection a channel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

from bench.peers.peer import Peer
from bench.peers.side import Side
from multifd.limits import KIB

PIECE_BYTES = 512 * KIB
HOST = "127.0.0.1"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.contextmanager
def connect(side: Side) -> Iterator[Callable[[], None]]:
    """Connections, in the order in which they are made."""
    with asyncio.Runner() as runner:
        streams = runner.run(_dial(side) if side.sends else _accept(side))
        yield lambda: runner.run(_move(side, streams))


async def _dial(side: Side) -> list[Stream]:
    port = int(side.exchange(""))
    streams = [await asyncio.open_connection(HOST, port) for _ in range(side.channels)]
    for _reader, writer in streams:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, side.congestion.encode())
    return streams


async def _accept(side: Side) -> list[Stream]:
    streams: list[Stream] = []
    complete = asyncio.Event()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append((reader, writer))
        if len(streams) == side.channels:
            complete.set()

    server = await asyncio.start_server(accepted, HOST, 0)
    side.exchange(str(server.sockets[0].getsockname()[1]))
    await complete.wait()
    server.close()
    return streams


async def _move(side: Side, streams: list[Stream]) -> None:
    one = _send if side.sends else _receive
    async with asyncio.TaskGroup() as group:
        for channel, (reader, writer) in enumerate(streams):
            group.create_task(one(side, channel, reader, writer))


async def _send(side: Side, channel: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for piece in side.pieces(PIECE_BYTES, channel, side.channels):
        writer.write(piece)
        await writer.drain()
    writer.close()
    await writer.wait_closed()  # what drain has left in the buffer goes too


async def _receive(side: Side, channel: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for piece in side.pieces(PIECE_BYTES, channel, side.channels):
        piece[:] = await reader.readexactly(len(piece))
    writer.close()
    await writer.wait_closed()


PEER = Peer(name="asyncio streams", connect=connect, package="asyncio", install="it is part of Python")
