"""A line of TCP that passes everything on, until a test cuts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from multifd.engine.transport import Address

_READ_BYTES = 1 << 16


class CutLine:
    """Where it listens is `address`."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.connections = 0
        self._target = Address.parse(target)
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False

    def cut(self) -> None:
        """All connections are reset, and new ones are."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._writers.append(writer)
        if self._is_cut:
            writer.transport.abort()
            return
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers.append(far_writer)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_READ_BYTES):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For a server."""
        self._tasks.add(asyncio.ensure_future(self.serve(reader, writer)))

    async def close(self) -> None:
        """End it."""
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def cut_line(target: str) -> AsyncIterator[CutLine]:
    """A line to `target`."""
    line = CutLine(target)
    server = await asyncio.start_server(line.accepted, "127.0.0.1", 0, limit=_READ_BYTES)
    line.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield line
    finally:
        server.close()
        await line.close()
