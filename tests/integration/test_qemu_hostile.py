"""Whatever a source of QEMU's dialect sends over real sockets, it is told SHUT 1 if it can be, nothing is left of what
was received, memory stays bounded, and the next migration on the same address is saved. Strangers are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest
from harness.qemu_receiving import WAIT_S, names_in, until_closed
from harness.qemu_replay import ReplaySource, connect, options_for
from peak_memory import peak_growth
from qemu_corpus import Streams, random_changes, thin
from qemu_crafted import DEVICES, OPEN_RETURN_PATH, PING, UUID, configuration, craft, described, description
from qemu_hostile import HOSTILE, SILENT
from tls_directories import client, server

from multifd import elements as e
from multifd import limits
from multifd.elements import Phase, ReturnMessage
from multifd.engine.connection import Connection
from multifd.engine.transport import Address
from multifd.errors import MigrationError
from multifd.limits import KIB, MIB
from multifd.qemu.destination import QemuDestination
from multifd.qemu.listener import QemuListener
from multifd.qemu.saved import SavedMachine, SavingMachine
from multifd.wire.qemu_packet import serialize_handshake
from multifd.wire.qemu_return import serialize_return
from multifd.wire.qemu_stream import serialize

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]

Answers = list[ReturnMessage]
GROWTH_BYTES_MAX = 96 * MIB
CAPTURE = "10.0-none-uuid-validate"
ANSWERED = (
    "header: another version", "header: a machine of 4 GiB", "command: a package of 4 GiB", "command: two switchovers",
    "section: 4097 devices", "section: a device that does not end", "section: a device too few", "section: no footer",
    "record: a ZERO at the end of the world", "record: all flags", "block: too much RAM", "block: 4097 blocks",
    "end: no JSON", "end: a description of 4 GiB", "end: a name with an escape", "packet: another magic",
    "packet: 4 billion pages", "packet: a page at 2**63", "packet: a zero page at the block's end",
    "packet: device state", "packet: device state of 4 GiB", "payload: a bomb of zlib", "payload: a bomb of zstd",
    "payload: zlib that ends", "header: capability mapped-ram", "command: no return path",
)  # fmt: skip
"""Of the hostile ones those that are broken where a live destination notices at once, whatever comes first."""
WITHOUT_RETURN_PATH = ("header: another version", "header: a machine of 4 GiB", "command: no return path")


def over_both(names: Iterable[str]) -> list[tuple[str, str]]:
    """Every other one over TCP, the others over a unix socket."""
    return list(zip(names, itertools.cycle(("tcp", "unix")), strict=False))


class DyingSource(ReplaySource):
    """Ends each connection behind its last byte."""

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await super()._write(writer, data)
        with contextlib.suppress(OSError):
            writer.write_eof()


@pytest.fixture(params=["tcp", "unix"])
async def listener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QemuListener]:
    address = "tcp:127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/socket"
    listener = QemuListener.open(address)
    yield listener
    await listener.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where machines are saved, and nothing else is."""
    folder = tmp_path / "machines"
    folder.mkdir()
    return folder


def destination(listener: QemuListener, streams: Streams, folder: Path) -> QemuDestination:
    """It saves a machine as `vm`."""
    return QemuDestination(listener, SavingMachine(folder / "vm"), options_for(streams))


async def fails(
    listener: QemuListener, streams: Streams, folder: Path, kind: type[ReplaySource] = ReplaySource
) -> tuple[str, Answers]:
    """Receive what can't be received: the error's words, and what the source was told. Nothing is left of it."""
    running = asyncio.create_task(destination(listener, streams, folder).run())
    answers = await kind(streams).play(listener.address)
    with pytest.raises(MigrationError) as caught:
        await running
    assert e.Shut(0) not in answers
    assert names_in(folder) == []
    return str(caught.value), answers


async def completes(listener: QemuListener, folder: Path) -> None:
    """Receive a good migration: it is saved, whole, and its source is told so."""
    running = asyncio.create_task(destination(listener, craft(), folder).run())
    answers = await ReplaySource(craft()).play(listener.address)
    await running
    assert answers[-1] == e.Shut(0)
    assert names_in(folder) == ["vm"]
    saved = SavedMachine.open(folder / "vm")
    assert [section.header.name for section in saved.state.sections] == ["timer", "cpu"]
    saved.close()


@pytest.mark.parametrize(("name", "listener"), over_both(ANSWERED), indirect=["listener"])
async def test_hostile_streams(listener: QemuListener, folder: Path, name: str) -> None:
    """The source hears SHUT 1 and nothing else, the error says what is wrong, and the next source is served."""
    streams, words = HOSTILE[name]
    with peak_growth() as growth:
        cause, answers = await fails(listener, streams, folder)
    assert re.search(words, cause)
    assert [each for each in answers if isinstance(each, e.Shut)] == (
        [] if name in WITHOUT_RETURN_PATH else [e.Shut(1)]
    )
    assert growth.bytes < GROWTH_BYTES_MAX
    await completes(listener, folder)


@pytest.mark.parametrize(("name", "listener"), over_both(SILENT), indirect=["listener"])
async def test_silent_sources(listener: QemuListener, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that owes something and says nothing more is given up when its time is over."""
    for deadline in ("QEMU_SETUP_DEADLINE_S", "QEMU_SYNC_DEADLINE_S", "QEMU_STOP_SILENCE_S"):
        monkeypatch.setattr(limits, deadline, 0.5)
    streams, words = SILENT[name]
    cause, answers = await fails(listener, streams, folder)
    assert re.search(words.replace("60 s", "0.5 s"), cause)
    assert answers[-1:] in ([], [e.Shut(1)])
    assert answers or "connection" in words or "channels came" in words
    await completes(listener, folder)


CUTS = {
    "main in the header": ("main", 0.0001),
    "main in the block list": ("main", 0.003),
    "main between devices": ("main", 0.2),
    "main in the VM description": ("main", 0.9),
    "a channel in a packet": ("channel0", 0.5),
    "a channel before its last SYNC": ("channel1", 0.9999),
}


@pytest.mark.parametrize(("name", "listener"), over_both(CUTS), indirect=["listener"])
async def test_sources_that_die(listener: QemuListener, folder: Path, name: str) -> None:
    """All connections of a real migration end, one of them in the middle."""
    stream, share = CUTS[name]
    streams = thin(CAPTURE)
    data = streams.get(stream)
    streams = streams.put(stream, data[: int(len(data) * share)])
    cause, _ = await fails(listener, streams, folder, DyingSource)
    assert re.search(r"ended|at \d+", cause)
    await completes(listener, folder)


async def test_random_changes(listener: QemuListener, folder: Path) -> None:
    """Whatever it is, it is saved whole or nothing is left; the connections are closed in the end."""
    for row in random_changes("10.0-none-ignore-shared", 20, seed=1):
        running = asyncio.create_task(destination(listener, row.streams(), folder).run())
        answers = await DyingSource(row.streams()).play(listener.address)
        try:
            await running
        except MigrationError:
            assert e.Shut(0) not in answers
            assert names_in(folder) == []
        else:
            assert names_in(folder) == ["vm"]
            shutil.rmtree(folder / "vm")
    await completes(listener, folder)


async def test_huge_machines(listener: QemuListener, folder: Path) -> None:
    """RAM of 16 TiB that does not come costs next to nothing, and is gone with the session."""
    streams, _ = SILENT["no end"]
    huge = streams.main.replace((256 * 4096).to_bytes(8, "big"), (16 << 40).to_bytes(8, "big"))
    huge = huge.replace((258 * 4096 | 4).to_bytes(8, "big"), ((16 << 40) + 2 * 4096 | 4).to_bytes(8, "big"))
    assert len(huge) == len(streams.main)
    with peak_growth() as growth:
        await fails(listener, streams.put("main", huge), folder, DyingSource)
    assert growth.bytes < GROWTH_BYTES_MAX
    await completes(listener, folder)


async def test_what_a_saved_machine_has_no_room_for(listener: QemuListener, folder: Path) -> None:
    """Found when it is stored, with everything received: SHUT 1 all the same."""
    early = e.Section(Phase.FULL, e.SectionHeader(9, "early", 0, 1), bytes(MIB))
    fitting = description(described(early, *DEVICES))
    streams = craft(opening=OPEN_RETURN_PATH + serialize(early), end=b"\0" + fitting)
    cause, answers = await fails(listener, streams, folder)
    assert "early sections" in cause
    assert answers == [e.Shut(1)]
    await completes(listener, folder)


@pytest.mark.parametrize("listener", ["unix"], indirect=True)  # TCP holds so much of it that this takes long
async def test_a_source_that_does_not_read(
    listener: QemuListener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PINGs without end, and no answer is read: what is held of answers is bounded."""
    monkeypatch.setattr(limits, "MAIN_BACKLOG_BYTES_MAX", 64 * KIB)
    running = asyncio.create_task(destination(listener, craft(), folder).run())
    _, writer = await connect(listener.address)
    writer.write(configuration() + OPEN_RETURN_PATH)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(WAIT_S):
            while True:
                writer.write(PING * 5000)
                await writer.drain()
    with pytest.raises(MigrationError, match="does not read its return path"):
        await running
    writer.close()
    await completes(listener, folder)


# -- strangers ---------------------------------------------------------------------------------------------------------

STRANGERS: dict[str, bytes] = {
    "nothing": b"",
    "two bytes": b"QE",
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303") + bytes(64),
    "zeros": bytes(4096),
    "the native protocol": b"MFD1" + bytes(64),
    "half a handshake": serialize_handshake(e.Handshake(UUID, 0))[:40],
    "a handshake of another version": b"\x11\x22\x33\x44\0\0\0\2" + bytes(56),
    "channel 255": serialize_handshake(e.Handshake(UUID, 0))[:24] + b"\xff" + bytes(39),
    "channel 7 of 2": serialize_handshake(e.Handshake(UUID, 7)),
}
"""None of them takes the place of a connection that is awaited."""


@contextlib.asynccontextmanager
async def strangers(address: Address, said: Sequence[bytes]) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections that say this and then nothing."""
    connections = []
    for data in said:
        connections.append(await connect(address))
        connections[-1][1].write(data)
        await connections[-1][1].drain()
    yield [reader for reader, _ in connections]
    for _, writer in connections:
        writer.close()


@pytest.mark.parametrize(("name", "listener"), over_both(STRANGERS), indirect=["listener"])
async def test_strangers_before_the_source(listener: QemuListener, folder: Path, name: str) -> None:
    """Ten of them do not end the waiting, nor what is received then."""
    async with strangers(listener.address, [STRANGERS[name]] * 10):
        await completes(listener, folder)


async def test_strangers_are_dropped(listener: QemuListener, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says the wrong thing is dropped at once, who says nothing after a while; nobody begins the source's time."""
    monkeypatch.setattr(limits, "QEMU_FIRST_BYTES_DEADLINE_S", 0.2)
    monkeypatch.setattr(limits, "QEMU_SETUP_DEADLINE_S", 0.1)
    running = asyncio.create_task(destination(listener, craft(), folder).run())
    async with strangers(listener.address, [*STRANGERS.values()]) as readers:
        for reader in readers:
            await until_closed(reader)
    assert listener.dropped == len(STRANGERS)
    assert not running.done()
    monkeypatch.undo()
    answers = await ReplaySource(craft()).play(listener.address)
    await running
    assert answers[-1] == e.Shut(0)


async def test_a_crowd_of_strangers(listener: QemuListener, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who say nothing the oldest go when there are too many, and a source finds its place among them."""
    monkeypatch.setattr(limits, "QEMU_PENDING_CONNECTIONS_MAX", 20)
    monkeypatch.setattr(limits, "QEMU_FIRST_BYTES_DEADLINE_S", 10 * WAIT_S)
    running = asyncio.create_task(destination(listener, craft(), folder).run())
    async with strangers(listener.address, [b""] * 100) as readers:
        await until_closed(readers[0])
        answers = await ReplaySource(craft()).play(listener.address)
        await running
    assert answers[-1] == e.Shut(0)


async def test_connections_beyond_those_of_the_source(listener: QemuListener, folder: Path) -> None:
    """Another main, and a channel that is there already, come in the middle: they are dropped, the rest goes on."""
    streams = craft()
    running = asyncio.create_task(destination(listener, streams, folder).run())
    main_reader, main = await connect(listener.address)
    main.write(streams.main[:60])
    channels = [await connect(listener.address) for _ in streams.channels]
    for (_, writer), data in zip(channels, streams.channels, strict=True):
        writer.write(data)
    for data in (streams.channels[1][:64], streams.main):
        async with strangers(listener.address, [data]) as (reader,):
            await until_closed(reader)
    assert not running.done()
    main.write(streams.main[60:])
    answers = await main_reader.readexactly(16)
    assert answers.endswith(bytes.fromhex("0001 0004 00000000"))
    for _, writer in (*channels, (main_reader, main)):
        writer.close()
    await running
    assert names_in(folder) == ["vm"]


async def test_strangers_on_a_port_with_tls(folder: Path) -> None:
    """Who speaks no TLS is dropped, whatever it says, and a source that does is served."""
    listener = QemuListener.open("tcp:127.0.0.1:0", server())
    running = asyncio.create_task(destination(listener, craft(), folder).run())
    streams = craft()
    async with strangers(listener.address, [b"", bytes(99), streams.main, streams.channels[0]]) as readers:
        for reader in readers[1:]:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), WAIT_S)  # an alert, perhaps
        connections = [await Connection.connect(listener.address, tls=client()) for _ in range(3)]
        for connection, data in zip(connections, (streams.main, *streams.channels), strict=True):
            connection.write(data)
        assert (await connections[0].read_exactly(16)).endswith(serialize_return(e.Shut(0)))
        for connection in connections:
            await connection.close()
        await running
    await listener.close()
    assert names_in(folder) == ["vm"]
