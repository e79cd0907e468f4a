"""A relay gives up on whoever stands still while the guest does, and on nobody who is only slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hop_line import MakeHop, hops
from qemu_machines import description_of, device, memory_machine
from relay_line import DEADLINE_S, MakeLine, lines, running
from scripted_destination import ScriptedDestination, scripted
from scripted_monitor import ScriptedMonitor, monitored

from multifd import elements as e
from multifd import limits
from multifd.errors import MigrationCancelledError, MigrationFailedError
from multifd.stats import Outcome
from multifd.wire.qemu_packet import serialize_handshake, serialize_ram_header
from multifd.wire.qemu_return import ReturnReader
from multifd.wire.qemu_serialize import serialize

SHORT_S = 0.6
STANDS_S = 0.2
_NONE = np.empty(0, np.int64)
SYNC = serialize_ram_header(e.RamPacket("", _NONE, _NONE, sync=True), e.PAGE_BYTES)
RAM = e.SectionHeader(2, "ram", 0, 4)
TIMER = device("timer")
PAGES = 128  # of a packet
PACKETS = 32  # 16 MiB

BEFORE: list[e.StreamElement] = [
    e.Configuration("pc-q35-10.0"),
    e.Command(e.CommandNumber.OPEN_RETURN_PATH),
    e.RamBegins(e.Phase.START, RAM),
    e.BlockList((e.RamBlock("m", PAGES * PACKETS * e.PAGE_BYTES),)),
]
MARK: list[e.StreamElement] = [e.SyncMark()]
STARTED: list[e.StreamElement] = [e.RamEnds(e.Phase.START)]
END: list[e.StreamElement] = [e.RamBegins(e.Phase.END, RAM), e.SyncMark(), e.RamEnds(e.Phase.END)]
REST: list[e.StreamElement] = [TIMER, e.EndOfState(), e.Description(description_of([TIMER]))]


def packets() -> bytes:
    """Of all of RAM, each page once."""
    made = bytearray()
    for number in range(PACKETS):
        offsets = np.arange(number * PAGES, (number + 1) * PAGES, dtype=np.int64) * e.PAGE_BYTES
        packet = e.RamPacket("m", offsets, _NONE, payload_bytes=PAGES * e.PAGE_BYTES)
        made += serialize_ram_header(packet, e.PAGE_BYTES) + b"x" * PAGES * e.PAGE_BYTES
    return bytes(made)


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[MakeLine]:
    async with lines(tmp_path) as make:
        yield make


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[MakeHop]:
    async with hops(tmp_path) as make:
        yield make


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[ScriptedDestination]:
    (tmp_path / "far").mkdir()
    async with scripted(tmp_path / "far") as made:
        yield made


@pytest.fixture
async def monitor(tmp_path: Path) -> AsyncIterator[ScriptedMonitor]:
    async with monitored(tmp_path) as made:
        yield made


@asynccontextmanager
async def by_hand(path: str, *channels: bytes, stream: list[e.StreamElement], shut: int) -> AsyncIterator[None]:
    """A source that writes this; it is told `shut`, and nothing before, and ends."""
    reader, main = await asyncio.open_unix_connection(path)
    writers = [main]
    for number, data in enumerate(channels):
        writers.append((await asyncio.open_unix_connection(path))[1])
        writers[-1].write(serialize_handshake(e.Handshake(bytes(16), number)) + data)
    main.write(serialize(*stream))

    async def told() -> list[e.ReturnMessage]:
        try:
            return list(ReturnReader().feed(await asyncio.wait_for(reader.readexactly(8), DEADLINE_S)))
        finally:
            for writer in writers:
                writer.close()

    hearing = asyncio.create_task(told())
    yield
    assert await hearing == [e.Shut(shut)]


@pytest.mark.parametrize(("bound", "stream", "syncs", "told"), [
    ("QEMU_SYNC_DEADLINE_S", BEFORE + MARK, 0, "SYNC on channel 0, 1 to be passed on, at mark 1 of main"),
    ("QEMU_STOP_SILENCE_S", BEFORE + MARK + STARTED + END, 1, "SYNC on channel 0, 1 to be passed on, at mark 2"),
    ("QEMU_STOP_SILENCE_S", BEFORE + MARK + STARTED + END + REST[:1], 2, "rest of a machine that stands still"),
    ("QEMU_STOP_SILENCE_S", BEFORE + MARK + STARTED + END + REST[:2], 2, "--no-vmdesc"),
])  # fmt: skip
async def test_a_source_that_stands_still(
    line: MakeLine, far: ScriptedDestination, monkeypatch: pytest.MonkeyPatch, bound: str,
    stream: list[e.StreamElement], syncs: int, told: str,
) -> None:  # fmt: skip
    """At a mark, or with its guest stopped: it is told SHUT 1, and the far end never has the machine."""
    monkeypatch.setattr(limits, bound, STANDS_S)
    made = line(far.address)
    task = asyncio.create_task(made.relay.run())
    async with by_hand(made.listener.address.path, SYNC * syncs, SYNC * syncs, stream=stream, shut=1):
        with pytest.raises(MigrationFailedError, match=told):
            await asyncio.wait_for(task, DEADLINE_S)
    assert "end" not in far.log


@pytest.mark.parametrize("stands", ["main", "channels"])
async def test_a_far_end_that_takes_nothing(
    line: MakeLine, far: ScriptedDestination, monkeypatch: pytest.MonkeyPatch, stands: str
) -> None:
    """While the guest is stopped: it goes on at the source."""
    monkeypatch.setattr(limits, "QEMU_STOP_SILENCE_S", STANDS_S)
    monkeypatch.setattr(limits, "MAIN_BACKLOG_BYTES_MAX", 1 << 20)
    far.reads_channels = stands != "channels"
    large = [device("virtio-gpu", bytes(8 << 20), instance=n, number=40 + n) for n in range(2)]

    async def stand(element: e.StreamElement) -> None:
        if isinstance(element, e.RamBegins) and element.phase is e.Phase.END and stands == "main":
            await asyncio.Event().wait()

    far.on_element = stand
    made = line(far.address)
    task = asyncio.create_task(made.relay.run())
    data = SYNC + packets() + SYNC
    stream = [*BEFORE, *MARK, *STARTED, *END, *large]
    async with by_hand(made.listener.address.path, data, SYNC * 2, stream=stream, shut=1):
        with pytest.raises(MigrationFailedError, match="a machine that stands still"):
            await asyncio.wait_for(task, DEADLINE_S)
    assert made.relay.report is not None
    assert made.relay.report.guest == "at the source"


@pytest.mark.slow
@pytest.mark.parametrize("through_two", [False, True])
async def test_a_far_end_that_is_slow(
    line: MakeLine, hop: MakeHop, far: ScriptedDestination, monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch,
    through_two: bool,
) -> None:  # fmt: skip
    """For longer than any of the waits is long, with the guest stopped: bytes leave all the time."""
    for bound in ("QEMU_SYNC_DEADLINE_S", "QEMU_STOP_SILENCE_S", "QEMU_SHUT_DEADLINE_S"):
        monkeypatch.setattr(limits, bound, SHORT_S)
    far.rest_s = SHORT_S / 6
    stream = [*BEFORE, *MARK, *STARTED, *END, *REST]
    data = SYNC + packets() + SYNC
    relays: list[Any]
    if through_two:
        two = await hop(far.address, out_qmp=monitor.address)
        path, relays = two.source_path, [two.near, two.far]
    else:
        one = line(far.address, out_qmp=monitor.address)
        path, relays = one.listener.address.path, [one.relay]
    tasks = [asyncio.create_task(each.run()) for each in relays]
    async with by_hand(path, data, SYNC * 2, stream=stream, shut=0):
        await far.wait_log("end")
    reports = await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)
    assert {each.outcome for each in reports} == {Outcome.COMPLETED}
    assert reports[0].stop_s > 1.5 * SHORT_S


async def test_a_far_end_that_waits_and_says_nothing(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't run by itself: the guest goes on at the source."""
    monkeypatch.setattr(limits, "QEMU_SHUT_DEADLINE_S", STANDS_S)
    far.at_end = _never
    passed, sent = await line(far.address, memory_machine(running()), out_qmp=monitor.address).ended()
    assert (passed.outcome, sent.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert "the far end's SHUT" in passed.cause
    assert "SHUT 1" in sent.cause
    assert "cont" not in monitor.commands


async def test_a_far_end_that_may_run_is_waited_for(
    line: MakeLine, far: ScriptedDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long: progress says what for, and where the guest is."""
    monkeypatch.setattr(limits, "QEMU_STOP_SILENCE_S", STANDS_S)
    monkeypatch.setattr(limits, "QEMU_SHUT_DEADLINE_S", STANDS_S)
    far.at_end = _never
    made = line(far.address)
    made.start()
    looks = 0
    async for progress in made.relay.progress():
        if progress.state == "released":
            assert progress.waiting_for == ("the far end's SHUT (guest in doubt)",)
            looks += 1
            if looks == 4:  # ten a second
                await far.commit()
    passed, _ = await made.ended()
    assert passed.outcome is Outcome.COMPLETED
    assert looks >= 4


async def _never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("silent", ["from the first", "after its greeting"])
async def test_called_off_while_a_monitor_does_not_answer(
    line: MakeLine, far: ScriptedDestination, tmp_path: Path, silent: str
) -> None:
    """At once: no deadline of a monitor is waited for."""
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if silent == "after its greeting":
            writer.write(b'{"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}, '
                         b'"capabilities": []}}\r\n')  # fmt: skip
            await reader.read(100)
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "silent")
    made = line(far.address, in_qmp=f"unix:{tmp_path / 'silent'}")
    task = asyncio.create_task(made.relay.run())
    await asyncio.wait_for(asked.wait(), DEADLINE_S)
    assert made.relay.cancel("not today")
    with pytest.raises(MigrationCancelledError, match="not today"):
        await asyncio.wait_for(task, limits.QEMU_QMP_DEADLINE_S / 5)
    server.close()
    await server.wait_closed()
