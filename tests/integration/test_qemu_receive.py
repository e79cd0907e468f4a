"""A destination of QEMU's dialect over real sockets: captured migrations arrive whole, whatever the order and the
pieces, and whatever else connects; broken ones are told.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.qemu_receiving import WAIT_S, Failing, Stopped, fail, names_in, receive, until_closed, waiting
from harness.qemu_replay import ReplaySource, connect, digests, options_for
from qemu_corpus import CAPTURES, Streams, channel_elements, thin, whole

from multifd import limits
from multifd.elements import DevicePacket, Handshake, Pong, Shut, SwitchoverAck
from multifd.engine.transport import Address
from multifd.errors import (
    DeadlineError,
    MigrationCancelledError,
    MigrationRefusedError,
    RefusedError,
    RemoteProtocolError,
    TransportError,
)
from multifd.qemu.destination import QemuDestination
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.saved import SavedMachine, SavingMachine
from multifd.stats import Outcome
from multifd.wire.qemu_packet import serialize_device_header, serialize_handshake

PLAIN = "10.0-none-uuid-validate"
ZEROS_ON_MAIN = "11.1-none-zero-legacy-rp"
pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
async def listener() -> AsyncIterator[QemuListener]:
    listener = QemuListener.open("tcp:127.0.0.1:0")
    yield listener
    await listener.close()


# -- what arrives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("main_first", [True, False], ids=["main-first", "channels-first"])
@pytest.mark.parametrize("capture", CAPTURES)
async def test_captures_arrive_whole(capture: str, main_first: bool, listener: QemuListener) -> None:
    """Whether main or the channels come first, and in whatever pieces: SHUT 0, and RAM as the source had it."""
    streams, machine = whole(capture), MemoryMachine()
    destination = QemuDestination(listener, machine, options_for(streams))
    source = ReplaySource(streams, seed=main_first, main_first=main_first)
    report = await receive(destination, source, listener)
    assert source.answers[-1] == Shut(0)
    assert Pong(1) in source.answers
    assert source.answers.count(SwitchoverAck()) == report.acks.given == report.acks.owed
    recorded = digests(capture)
    sent = {name: digest for name, digest in report.digests.items() if name in recorded}
    assert sent == {name: digest for name, digest in recorded.items() if name in sent}
    assert len(sent) >= (1 if streams.ignore_shared else len(recorded))
    assert (report.outcome, report.main_bytes) == (Outcome.COMPLETED, len(streams.main))
    assert report.bytes_sent == sum(len(data) - 64 for data in streams.channels)
    assert machine.committed


async def test_the_report_tells_what_was_in_use(listener: QemuListener) -> None:
    """Machine, dialect, ack, times and counts are those of the stream."""
    streams = whole("10.0-none-switchover-ack")
    destination = QemuDestination(listener, MemoryMachine(), options_for(streams, hold_ack_s=0.05))
    report = await receive(destination, ReplaySource(streams), listener)
    data = report.to_json()
    assert data["machine"] == "pc-q35-10.0"
    assert data["dialect"] == {
        "sync": "per-round", "ack": "legacy", "zero_pages": ["multifd"], "compression": "none", "return_path": True,
        "switchover_start": True, "description": True,
    }  # fmt: skip
    assert (data["switchover_ack"]["owed"], data["switchover_ack"]["given"]) == (1, 1)
    assert data["switchover_ack"]["held_s"] >= 0.05
    assert (data["security"], data["channels"], data["main"]["parts"]) == ("plain", 2, 1369)
    assert data["blocks"][0]["name"] == "m"
    assert {section["name"] for section in data["sections"]} >= {"timer", "cpu_common", "globalstate"}
    assert 0 < data["commit_s"] <= data["stop_s"] <= data["elapsed_s"]
    assert 0 < data["commit_share"] <= 1


async def test_a_unix_socket_and_a_folder(tmp_path: Path) -> None:
    """Over a unix socket into a saved machine: what is opened from there is what the source had."""
    capture = "10.0-zstd-ch8"
    streams = whole(capture)
    listener = QemuListener.open(f"unix:{tmp_path / 'socket'}")
    assert listener.uri == f"unix:{tmp_path / 'socket'}"
    destination = QemuDestination(listener, SavingMachine(tmp_path / "saved"), options_for(streams))
    report = await receive(destination, ReplaySource(streams), listener)
    await listener.close()
    saved = SavedMachine.open(tmp_path / "saved")
    assert report.digests == digests(capture)
    assert [
        (each.header.name, each.header.instance, len(each.body)) for each in saved.state.sections
    ] == report.sections
    assert names_in(tmp_path) == ["saved"]


async def test_zeros_on_main_may_take_a_while(listener: QemuListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many zero pages are written in the pool; main goes on after that."""
    monkeypatch.setattr(limits, "QEMU_ZERO_NOW_PAGES_MAX", 1)
    destination = QemuDestination(listener, MemoryMachine(), options_for(whole(ZEROS_ON_MAIN)))
    report = await receive(destination, ReplaySource(whole(ZEROS_ON_MAIN)), listener)
    assert report.digests == digests(ZEROS_ON_MAIN)
    assert report.dialect.zero_pages == ("legacy",)


async def test_a_surplus_sync_at_the_end_is_taken(listener: QemuListener) -> None:
    """Sources of 9.1 and 9.2 send one SYNC more than main has marks."""
    streams = thin(PLAIN)
    for number, data in enumerate(streams.channels):
        last = [each for each in channel_elements(data) if each.kind == "SYNC"][-1]
        streams = streams.put(f"channel{number}", data + data[last.begin : last.end])
    destination = QemuDestination(listener, MemoryMachine(), options_for(streams))
    report = await receive(destination, ReplaySource(streams), listener)
    assert report.outcome is Outcome.COMPLETED


async def test_what_has_come_is_flushed_while_the_guest_runs(
    listener: QemuListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sync point, long before the stop."""
    monkeypatch.setattr(limits, "QEMU_FLUSH_PAUSE_S", 0.0)
    flushed = threading.Event()

    class Flushed(MemoryMachine):
        def flush(self) -> None:
            super().flush()
            flushed.set()

    class Patient(QemuDestination):
        syncs = 0

        def before_sync(self, channel: int) -> None:
            self.syncs += channel == 0
            if self.syncs == 5:
                assert flushed.wait(WAIT_S)

    streams, machine = thin("10.0-none-switchover-ack"), Flushed()
    report = await receive(Patient(listener, machine, options_for(streams)), ReplaySource(streams), listener)
    assert machine.flushes == report.early_flushes >= 1


async def test_an_address_in_place_of_a_listener(tmp_path: Path) -> None:
    """The destination then listens by itself, and removes its socket."""
    streams = thin(PLAIN)
    path = tmp_path / "socket"
    destination = QemuDestination(f"unix:{path}", MemoryMachine(), options_for(streams))
    running = asyncio.create_task(destination.run())
    assert await waiting(destination, "a QEMU source to connect")
    await ReplaySource(streams).play(Address(path=str(path)))
    assert (await running).outcome is Outcome.COMPLETED
    assert not path.exists()


async def test_progress_says_what_it_waits_for(listener: QemuListener) -> None:
    """A source, its main connection, its channels, an acknowledgement that is held back."""
    streams = thin("10.0-none-switchover-ack")
    destination = QemuDestination(listener, MemoryMachine(), options_for(streams, hold_ack_s=WAIT_S))
    running = asyncio.create_task(destination.run())
    assert await waiting(destination, "a QEMU source to connect")
    writers = []
    for data, waits in (
        (streams.channels[0], "1 of 2 channels came"),
        (streams.channels[1], "the source's main connection"),
        (streams.main[:20_000], "acknowledgement, which is held back"),
    ):
        _, writer = await connect(listener.address)
        writers.append(writer)
        writer.write(data)
        assert await waiting(destination, waits), waits
    assert destination.cancel("enough")
    with pytest.raises(MigrationCancelledError):
        await running
    for writer in writers:
        writer.close()


# -- who may connect ---------------------------------------------------------------------------------------------------


async def test_a_strangers_channel_gives_way(listener: QemuListener) -> None:
    """One of another machine that came before the source: dropped when the source's first channel comes."""
    streams = thin("10.0-none-switchover-ack")
    destination = QemuDestination(listener, MemoryMachine(), options_for(streams))
    running = asyncio.create_task(destination.run())
    reader, writer = await connect(listener.address)
    writer.write(serialize_handshake(Handshake(b"s" * 16, 1)))
    assert await waiting(destination, "1 of 2 channels came")
    playing = asyncio.create_task(ReplaySource(streams).play(listener.address))
    await until_closed(reader)
    writer.close()
    assert (await running).outcome is Outcome.COMPLETED
    await playing


async def test_strangers_do_not_disturb(listener: QemuListener) -> None:
    """Connections that say something else, nothing, or half of a handshake: dropped or waiting, while a migration goes
    through.
    """
    streams = thin(PLAIN)
    destination = QemuDestination(listener, MemoryMachine(), options_for(streams))
    running = asyncio.create_task(destination.run())
    said = (b"GET / HTTP/1.1\r\n\r\n", b"", streams.channels[0][:40], b"QEV", streams.channels[0][:24] + b"\xfe" * 40)
    strangers = [await connect(listener.address) for _ in said]
    for (_, writer), data in zip(strangers, said, strict=True):
        writer.write(data)
    for dropped in (0, 4):
        await until_closed(strangers[dropped][0])
    assert await waiting(destination, "a QEMU source to connect (2 dropped, the last: ")
    await ReplaySource(streams).play(listener.address)
    assert (await running).outcome is Outcome.COMPLETED
    assert listener.dropped >= 2
    for reader, writer in strangers:
        await until_closed(reader)
        writer.close()


async def test_what_is_too_much_is_closed(listener: QemuListener) -> None:
    """A second main, a channel twice, a channel beyond the number agreed on: each is closed, and the rest goes on."""
    streams = thin(PLAIN)
    destination = Stopped(listener, MemoryMachine(), options_for(streams))
    source = ReplaySource(streams)
    running = asyncio.create_task(receive(destination, source, listener))
    await asyncio.wait_for(destination.asked.wait(), WAIT_S)
    beyond = streams.channels[0][:24] + b"\x02" + streams.channels[0][25:64]
    for data in (streams.main[:100], streams.channels[0][:64], beyond):
        reader, writer = await connect(listener.address)
        writer.write(data)
        await until_closed(reader)
        writer.close()
    assert listener.dropped == 3
    destination.go_on.set()
    assert (await running).outcome is Outcome.COMPLETED


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.2, 0.5, 0.9, 0.9999])
async def test_a_main_stream_that_ends_early(share: float, listener: QemuListener, tmp_path: Path) -> None:
    """Wherever it ends, the source has cancelled or died: nothing is kept."""
    streams = thin(PLAIN)
    cut = streams.put("main", streams.main[: max(5, int(share * len(streams.main)))])
    destination = QemuDestination(listener, SavingMachine(tmp_path / "saved"), options_for(cut))
    error = await fail(destination, ReplaySource(cut, then_end=True), listener)
    assert isinstance(error.__cause__, TransportError)
    assert names_in(tmp_path) == []


async def test_a_channel_that_ends_early(listener: QemuListener) -> None:
    """Main is given a moment to say why; then it is a loss, which names the channel and its offset."""
    streams = thin(PLAIN)
    cut = streams.put("channel1", streams.channels[1][:5000])
    machine = Failing("")
    source = ReplaySource(cut, then_end=True)
    error = await fail(QemuDestination(listener, machine, options_for(cut)), source, listener)
    assert isinstance(error.__cause__, TransportError)
    assert "channel 1 at " in str(error)
    assert machine.aborted


def broken(stream: str, at: bytes | int, new: bytes) -> Streams:
    """A migration with some bytes of one stream replaced: at an offset, or where some bytes first stand."""
    streams = thin(PLAIN)
    data = streams.get(stream)
    begin = at if isinstance(at, int) else data.index(at)
    return streams.put(stream, data[:begin] + new + data[begin + len(new) :])


PACKET = 64 + 1344  # of a channel: the second packet; SYNC is the first
BROKEN: dict[str, tuple[str, bytes | int, bytes]] = {
    "another magic": ("main", 0, b"QEVN"),
    "another version": ("main", 4, b"\0\0\0\2"),
    "an unknown command": ("main", b"\x08\x00\x01\x00\x00", b"\x08\x00\x0d"),
    "another section for ram": ("main", b"\x03ram\0\0\0\0", b"\x03raM"),
    "a description that is no JSON": ("main", b'{"configuration"', b"["),
    "a handshake of no channel": ("channel1", 24, b"\x02"),
    "a handshake of another machine": ("channel1", 8, b"\xff"),
    "a packet without magic": ("channel1", PACKET, b"\0"),
    "more pages than there is room for": ("channel1", PACKET + 16, b"\0\0\1\0"),
    "an unknown block": ("channel1", PACKET + 64, b"nobody"),
    "an offset within a page": ("channel1", PACKET + 320, bytes(7) + b"\1"),
    "an offset beyond the block": ("channel1", PACKET + 320, b"\x7f" + bytes(7)),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_broken_streams_are_told_and_leave_nothing(
    what: str, listener: QemuListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typed error, and an end on both sides without SHUT 0. A connection that is not known is dropped, and missed."""
    monkeypatch.setattr(limits, "QEMU_SETUP_DEADLINE_S", 0.1)
    machine, streams = Failing(""), broken(*BROKEN[what])
    source = ReplaySource(streams, then_end=True)
    error = await fail(QemuDestination(listener, machine, options_for(streams)), source, listener)
    assert isinstance(error.__cause__, RemoteProtocolError | RefusedError | TransportError | DeadlineError)
    assert machine.aborted


async def test_a_stream_without_its_main_memory_is_refused(listener: QemuListener) -> None:
    """Unless an option allows it: before any of it is stored, with the option's name in the text."""
    streams = thin("10.0-none-ignore-shared")
    source, machine = ReplaySource(streams), Failing("")
    error = await fail(
        QemuDestination(listener, machine, options_for(streams, allow_ignore_shared=False)), source, listener
    )
    assert isinstance(error, MigrationRefusedError)
    assert "x-ignore-shared" in str(error)
    assert source.answers[-1] == Shut(1)
    assert machine.blocks == {}


async def test_a_device_that_sends_its_state_over_channels_is_refused(listener: QemuListener) -> None:
    """A saved machine has no place for it: the error says what to turn off at the source."""
    streams = thin(PLAIN)
    packet = DevicePacket("0000:00:03.0/vfio", 0, b"state")
    data = streams.channels[0]
    first = channel_elements(data)[1]
    data = data[: first.end] + serialize_device_header(packet) + packet.payload + data[first.end :]
    source = ReplaySource(streams.put("channel0", data))
    error = await fail(QemuDestination(listener, MemoryMachine(), options_for(streams)), source, listener)
    assert "x-migration-multifd-transfer=off" in str(error)
    assert source.answers[-1] == Shut(1)
