"""Two connections, one to the other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from multifd.engine.connection import Connection
from multifd.engine.tls import Tls
from multifd.engine.transport import Address

Pair = tuple[Connection, Connection]


@contextlib.asynccontextmanager
async def connected(client: Tls | None, server: Tls | None) -> AsyncIterator[Pair]:
    """Both ends of a TCP connection: who connected, who accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])

        async def accept() -> Connection:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            return await Connection.accept(accepted, server)

        async with asyncio.TaskGroup() as both:
            ends = both.create_task(Connection.connect(address, tls=client)), both.create_task(accept())
    pair = ends[0].result(), ends[1].result()
    try:
        yield pair
    finally:
        for each in pair:
            each.abort()
