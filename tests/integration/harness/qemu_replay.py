"""A source that plays a captured migration onto sockets: it answers nothing and waits for nobody but the destination's
last word. And what a destination of such a source is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

from qemu_corpus import VECTORS, Streams

from multifd.elements import ReturnMessage, Shut
from multifd.engine.transport import Address
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.wire.qemu_return import ReturnReader

ANSWER_S = 20.0  # far more than any of it takes
_PIECES = (1, 3, 64, 1000, 70_000, 1_000_000)
"""Sizes of what is written at once."""


def digests(capture: str) -> dict[str, str]:
    """Block → SHA-256 of its contents at the source, as recorded."""
    lines = (VECTORS / capture / "ram.sha256").read_text(encoding="utf-8").splitlines()
    return {line.split("  ")[1]: line.split("  ")[0] for line in lines}


def options_for(streams: Streams, **more: object) -> QemuDestinationOptions:
    """What a destination of these streams must be told."""
    told: dict[str, object] = {
        "channels": len(streams.channels),
        "compression": streams.compression,
        "switchover_ack": streams.ack,
        "description": streams.description,
        "allow_ignore_shared": streams.ignore_shared,
    }
    return QemuDestinationOptions(**told | more)  # type: ignore[arg-type]


class ReplaySource:
    """Plays streams to a destination. `answers` is what came back on main."""

    def __init__(
        self,
        streams: Streams,
        *,
        seed: int = 0,
        main_first: bool = True,
        then_end: bool = False,
        at_shut: Callable[[], object] = lambda: None,
    ) -> None:
        """`then_end`: it closes everything behind its last byte, in place of waiting for an answer. `at_shut` is called
        when SHUT has come and everything is still open.
        """
        self.answers: list[ReturnMessage] = []
        self.ended = False
        """Whether the destination has closed main."""
        self._streams = streams
        self._random = random.Random(seed)
        self._main_first = main_first
        self._then_end = then_end
        self._at_shut = at_shut

    async def play(self, address: Address) -> list[ReturnMessage]:
        """Play all of it, and wait for SHUT or the end; the answers."""
        main = await connect(address) if self._main_first else None
        channels = [await connect(address) for _ in self._streams.channels]
        main = main or await connect(address)
        writers = [main[1], *(writer for _, writer in channels)]
        data = (self._streams.main, *self._streams.channels)
        try:
            async with asyncio.timeout(ANSWER_S), asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(main[0]))
                writing = [group.create_task(self._write(*each)) for each in zip(writers, data, strict=True)]
                if self._then_end:
                    await asyncio.wait(writing)
                    for writer in writers:
                        writer.write_eof()
                await reading
                for task in writing:
                    task.cancel()
        finally:
            for writer in writers:
                writer.close()
        return self.answers

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for piece in self._pieces(data):
                writer.write(piece)
                await writer.drain()

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = self._random.choice(_PIECES)
            yield data[at : at + size]
            at += size

    async def _read(self, reader: asyncio.StreamReader) -> None:
        parser = ReturnReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                for message in parser.feed(data):
                    self.answers.append(message)
                    if isinstance(message, Shut):
                        self._at_shut()
                        return
        self.ended = True


async def connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A plain connection."""
    if address.path:
        return await asyncio.open_unix_connection(address.path)
    return await asyncio.open_connection(address.host, address.port)
