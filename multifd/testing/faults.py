"""What can go wrong between a source and a destination, on demand: a line that passes bytes on as they are, but for
what it was told to do. Give its address to the source in place of the destination's. Either side may be a stock QEMU or
ours; both must be plain, since nothing can be done to what is encrypted.
"""

from __future__ import annotations

import asyncio
import enum
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from multifd.elements import PAGE_BYTES, Packet, Pong, RamPacket, ReturnMessage, Shut, SwitchoverAck
from multifd.engine.transport import Address
from multifd.errors import DeadlineError, MultifdError
from multifd.limits import QEMU_PACKET_BYTES
from multifd.wire.qemu_packet import (
    FIRST_BYTES,
    HANDSHAKE_BYTES,
    PacketBuffers,
    Role,
    connection_role,
    parse_handshake,
    read_packet,
)
from multifd.wire.qemu_return import ReturnReader, serialize_return

ACT_DEADLINE_S = 20.0  # until a fault has acted: migrations of tests take less than a second
_PIECE_BYTES = 1 << 18

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Treatment(enum.Enum):
    """What becomes of a message of the return path."""

    PASS = "pass"  # noqa: S105  # no password
    HOLD = "hold"
    """It waits for `release`; what follows goes on before it."""
    DROP = "drop"
    DOUBLE = "double"


@dataclass(frozen=True)
class Faults:
    """What goes wrong; by default nothing."""

    acks: Treatment = Treatment.PASS
    """SWITCHOVER_ACK."""
    surplus_acks: int = 0
    """Acks that nobody owes, after the first PONG."""
    shuts: Treatment = Treatment.PASS
    """SHUT."""
    shut: int | None = None
    """The status that SHUT has in place of its own: 1 refuses what the destination has taken."""
    stall_sync: tuple[int, int] | None = None
    """Channel, and which of its SYNC packets, from 1: it waits for `release`, and the rest of the channel with it."""
    cut: tuple[int, int] | None = None
    """Channel, and after how many of its bytes it is cut, on both sides."""


class FaultLine:
    """Listens, and connects to the destination for each connection that comes. Make it with `open`."""

    def __init__(self, destination: Address, faults: Faults, folder: Path) -> None:
        """Use `open`."""
        self.faults = faults
        self.address = f"unix:{folder / 'line'}"
        """For the source."""
        self.heard: list[ReturnMessage] = []
        """What the destination said, in its order, whatever became of it."""
        self.errors: list[MultifdError] = []
        """For each connection that was cut because its bytes are not what they should be."""
        self._destination = destination
        self._folder = folder
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()
        self._acted = asyncio.Event()
        self._released = asyncio.Event()
        self._channels: dict[int, tuple[Streams, Streams]] = {}
        self._surplus = faults.surplus_acks
        self._held: list[ReturnMessage] = []
        self._to_source: asyncio.StreamWriter | None = None

    @classmethod
    async def open(cls, destination: str, faults: Faults | None = None) -> Self:
        """Listen on a unix socket of its own, for a migration to `destination` (`tcp:HOST:PORT` or `unix:PATH`)."""
        line = cls(Address.parse(destination), faults or Faults(), Path(tempfile.mkdtemp(prefix="multifd-")))
        line._server = await asyncio.start_unix_server(line._accept, line._folder / "line")
        return line

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut what is left. Twice is harmless."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for transports, which close in the loop's next turn
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- for tests

    async def wait_acted(self, deadline_s: float = ACT_DEADLINE_S) -> None:
        """Wait until a fault has acted for the first time. Raises `DeadlineError`."""
        try:
            await asyncio.wait_for(self._acted.wait(), deadline_s)
        except TimeoutError as error:
            raise DeadlineError("a fault to act", deadline_s) from error

    def release(self) -> None:
        """Let go what is held or stalled, now and later."""
        self._released.set()
        held, self._held = self._held, []
        if self._to_source is not None and not self._to_source.is_closing():
            self._to_source.write(b"".join(map(serialize_return, held)))

    def cut(self, channel: int) -> None:
        """Cut a channel now, on both sides."""
        self._acted.set()
        for _, writer in self._channels[channel]:
            writer.transport.abort()

    # -- connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            async with self._order:  # old destinations take the first connection for main
                destination = await self._connect()
            writers.append(destination[1])
            await self._pass((reader, writer), destination)
        except MultifdError as error:
            self.errors.append(error)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # both sides see it as the end of the connection; who cancels is `close`
        finally:
            for each in writers:
                each.transport.abort()
            self._tasks.discard(task)

    async def _connect(self) -> Streams:
        if self._destination.path:
            return await asyncio.open_unix_connection(self._destination.path)
        return await asyncio.open_connection(self._destination.host, self._destination.port)

    async def _pass(self, source: Streams, destination: Streams) -> None:
        """Both directions of a connection, until both have ended."""
        first = await source[0].readexactly(FIRST_BYTES)
        there, back = self._plainly(source[0]), self._plainly(destination[0])
        if connection_role(first) is Role.MAIN:
            back = self._return_path(destination[0], source[1])
        elif connection_role(first) is Role.CHANNEL:
            first += await source[0].readexactly(HANDSHAKE_BYTES - FIRST_BYTES)
            channel = parse_handshake(first).channel
            self._channels[channel] = source, destination
            there = self._channel(channel, source[0])
        destination[1].write(first)
        await asyncio.gather(_pump(there, destination[1]), _pump(back, source[1]))

    # -- directions

    async def _plainly(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while data := await reader.read(_PIECE_BYTES):
            yield data

    async def _channel(self, channel: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """The packets of a channel: whole ones if one of its SYNCs is to be found."""
        stalled, number = self.faults.stall_sync or (None, 0)
        if stalled != channel:
            async for data in self._cut_after(channel, reader):
                yield data
            return
        async for packet, data in _packets(reader, f"channel {channel}"):
            if isinstance(packet, RamPacket) and packet.sync:
                number -= 1
                if number == 0:
                    self._acted.set()
                    await self._released.wait()
            yield data

    async def _cut_after(self, channel: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        cut, left = self.faults.cut or (None, 0)
        async for data in self._plainly(reader):
            if cut == channel and (left := left - len(data)) <= 0:
                yield data[: len(data) + left]
                self.cut(channel)
                return
            yield data

    async def _return_path(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        self._to_source = writer
        frames = ReturnReader()
        async for data in self._plainly(reader):
            for message in frames.feed(data):
                self.heard.append(message)
                yield b"".join(map(serialize_return, self._treat(message)))

    def _treat(self, message: ReturnMessage) -> Sequence[ReturnMessage]:
        """What goes on in place of a message."""
        faults = self.faults
        treatment = Treatment.PASS
        if isinstance(message, Pong):
            surplus, self._surplus = self._surplus, 0
            return self._act([message, *[SwitchoverAck()] * surplus]) if surplus else [message]
        if isinstance(message, Shut):
            treatment = faults.shuts
            if faults.shut is not None:
                message = self._act(Shut(faults.shut))
        elif isinstance(message, SwitchoverAck):
            treatment = faults.acks
        if treatment is Treatment.PASS or (treatment is Treatment.HOLD and self._released.is_set()):
            return [message]
        if treatment is Treatment.HOLD:
            self._held.append(message)
        return self._act([message, message] if treatment is Treatment.DOUBLE else [])

    def _act(self, result: T) -> T:
        self._acted.set()
        return result


async def _packets(reader: asyncio.StreamReader, where: str) -> AsyncIterator[tuple[Packet, bytes]]:
    """Packets with their bytes. Raises `EOFError` at the end, with what there is of a packet that is not whole."""
    buffers = PacketBuffers()
    scratch = memoryview(bytearray(QEMU_PACKET_BYTES))
    while True:
        steps = read_packet(
            buffers, where=where, page_size=PAGE_BYTES, compression=None,
            decode=lambda _payload, _targets: None,
            place=lambda packet: [scratch[: len(packet.normal) * PAGE_BYTES]],
        )  # fmt: skip
        data = bytearray()
        while True:
            try:
                wanted = next(steps)
            except StopIteration as whole:
                yield whole.value, bytes(data)
                break
            for view in wanted:
                view[:] = await reader.readexactly(len(view))
                data += view


async def _pump(pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    """Write all of it, and then the end, which the other direction may outlive."""
    async for piece in pieces:
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
