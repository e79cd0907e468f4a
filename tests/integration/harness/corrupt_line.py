"""A line between a source and a destination that changes bytes on their way there, and nothing on the way back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from harness.qemu_replay import connect
from multifd.engine.transport import Address
from multifd.wire.qemu_packet import FIRST_BYTES, HANDSHAKE_BYTES, Role, connection_role, parse_handshake

Corrupt = Callable[[str, int, bytes], bytes]
"""What goes on in place of some bytes of `main`, `channel0`, ..., which begin at an offset of it."""


class CorruptLine:
    """Listens on a unix socket in a folder for the source, and connects to the destination for each that comes."""

    def __init__(self, destination: str, corrupt: Corrupt, folder: Path) -> None:
        self.address = f"unix:{folder / 'line'}"
        self._destination = Address.parse(destination)
        self._corrupt = corrupt
        self._path = folder / "line"
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CorruptLine:
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there_reader, there = await connect(self._destination)
        try:
            with contextlib.suppress(OSError, EOFError):
                await asyncio.gather(self._there(reader, there), self._back(there_reader, writer))
        finally:
            there.close()
            writer.close()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data, name, offset = await reader.readexactly(FIRST_BYTES), "main", 0
        if connection_role(data) is Role.CHANNEL:
            data += await reader.readexactly(HANDSHAKE_BYTES - FIRST_BYTES)
            name = f"channel{parse_handshake(data).channel}"
        while data:
            writer.write(self._corrupt(name, offset, data))
            await writer.drain()
            offset += len(data)
            data = await reader.read(1 << 18)
        writer.write_eof()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
