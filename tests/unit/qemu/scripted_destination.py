"""A destination that does what a test tells it, right or wrong, and keeps what arrived and in which order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from multifd import elements as e
from multifd.wire.qemu_packet import HANDSHAKE_BYTES, parse_handshake
from multifd.wire.qemu_return import serialize_return
from multifd.wire.qemu_stream import StreamReader

_READ_BYTES = 1 << 16


class ScriptedDestination:
    """Answers PING; at the stream's end it calls `at_end`, which says SHUT 0 unless a test says otherwise."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.address = ""
        self.log: list[str] = []
        """What came, in its order: main, channel n, PING, end, main closed, channel n closed."""
        self.elements: list[e.StreamElement] = []
        self.handshakes: dict[int, e.Handshake] = {}
        self.received: dict[int, int] = {}
        """Bytes after the handshake."""
        self.pongs = True
        self.reads_channels = True
        self.rest_s = 0.0
        """Of each channel, after each MiB that came."""
        self.at_end: Callable[[], Awaitable[None]] = self.commit
        self.on_element: Callable[[e.StreamElement], Awaitable[None]] | None = None
        self.writers: list[asyncio.StreamWriter] = []
        self._main: asyncio.StreamWriter | None = None
        self._gone = asyncio.Condition()

    async def say(self, *messages: e.ReturnMessage) -> None:
        """Write on the return path."""
        assert self._main is not None
        for message in messages:
            self._main.write(serialize_return(message))
        await self._main.drain()

    async def commit(self) -> None:
        """SHUT 0."""
        await self.say(e.Shut(0))

    async def die(self) -> None:
        """All connections are reset, as when a process is killed that has not read everything."""
        for writer in self.writers:
            writer.transport.abort()

    async def wait_log(self, *entries: str) -> None:
        """Until all of these have happened."""
        async with asyncio.timeout(5), self._gone:
            await self._gone.wait_for(lambda: set(entries) <= set(self.log))

    async def _note(self, entry: str) -> None:
        async with self._gone:
            self.log.append(entry)
            self._gone.notify_all()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            first = await reader.readexactly(4)
            if first == b"QEVM":
                self._main = writer
                await self._note("main")
                await self._read_main(reader, first)
            else:
                await self._read_channel(reader, first)
        writer.close()

    async def _read_main(self, reader: asyncio.StreamReader, data: bytes) -> None:
        stream = StreamReader()
        while data:
            for element in stream.feed(data):
                self.elements.append(element)
                await self._handle(element)
            if stream.finished and "end" not in self.log:
                await self._note("end")
                await self.at_end()
            data = await reader.read(_READ_BYTES)
        await self._note("main closed")

    async def _handle(self, element: e.StreamElement) -> None:
        if isinstance(element, e.Command) and element.number is e.CommandNumber.PING:
            await self._note("PING")
            if self.pongs:
                await self.say(e.Pong(int.from_bytes(element.payload, "big")))
        if self.on_element is not None:
            await self.on_element(element)

    async def _read_channel(self, reader: asyncio.StreamReader, first: bytes) -> None:
        handshake = parse_handshake(first + await reader.readexactly(HANDSHAKE_BYTES - 4))
        self.handshakes[handshake.channel] = handshake
        self.received[handshake.channel] = 0
        await self._note(f"channel {handshake.channel}")
        if not self.reads_channels:
            await asyncio.Event().wait()
        while data := await reader.read(_READ_BYTES):
            before = self.received[handshake.channel]
            self.received[handshake.channel] += len(data)
            if self.rest_s and before >> 20 != self.received[handshake.channel] >> 20:
                await _rest(self.rest_s)
        await self._note(f"channel {handshake.channel} closed")


async def _rest(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


@contextlib.asynccontextmanager
async def scripted(folder: Path, channels: int = 2) -> AsyncIterator[ScriptedDestination]:
    """Listens on a unix socket in `folder`."""
    destination = ScriptedDestination(channels)
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(destination.take(reader, writer))
        tasks.add(task)

    server = await asyncio.start_unix_server(accepted, folder / "in", limit=_READ_BYTES)
    destination.address = f"unix:{folder / 'in'}"
    try:
        yield destination
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in destination.writers:
            writer.transport.abort()
        await asyncio.sleep(0)
