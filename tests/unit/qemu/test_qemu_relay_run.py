"""A relay between our own source and our own destination, and others that do what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tls_directories
from qemu_machines import contents, memory_machine, state_of
from relay_line import DEADLINE_S, LARGE, MakeLine, lines, running
from scripted_destination import ScriptedDestination, scripted
from scripted_monitor import ScriptedMonitor, monitored

from multifd import elements as e
from multifd import limits
from multifd.elements import Compression
from multifd.errors import (
    LocalProtocolError,
    MigrationCancelledError,
    MigrationFailedError,
    MultifdError,
    TransportError,
)
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.relay import QemuRelay
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.qemu.relay_report import RelayReport
from multifd.qemu.report import QemuReport
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.stats import Outcome
from multifd.wire.qemu_packet import serialize_handshake


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[MakeLine]:
    async with lines(tmp_path) as make:
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


@pytest.fixture
async def source_monitor(tmp_path: Path) -> AsyncIterator[ScriptedMonitor]:
    async with monitored(tmp_path, "source-qmp") as made:
        yield made


async def through(
    line: MakeLine, machine: MemoryMachine, compression: tuple[Compression, Compression] = (Compression.NONE,) * 2,
    *, tls: bool = False, channels: int = 2, **options: object,
) -> tuple[RelayReport, QemuReport, QemuReport, MemoryMachine]:  # fmt: skip
    """All reports, and what arrived."""
    copy = MemoryMachine()
    listener = QemuListener.open("tcp:127.0.0.1:0", tls_directories.server() if tls else None)
    try:
        receiving = QemuDestination(
            listener, copy, QemuDestinationOptions(channels=channels, compression=compression[1])
        )
        task = asyncio.create_task(receiving.run())
        made = line(
            str(listener.address), machine, compression=compression[0], out_compression=compression[1],
            channels=channels, tls=tls, out_tls=tls_directories.client() if tls else None, **options,
        )  # fmt: skip
        passed, sent = await made.ended()
        return passed, sent, await asyncio.wait_for(task, DEADLINE_S), copy
    finally:
        await listener.close()


# -- what it is for


@pytest.mark.parametrize("machine_type", ["pc-q35-7.2", "pc-q35-10.0"])
@pytest.mark.parametrize("compression", [
    (Compression.NONE, Compression.NONE), (Compression.ZLIB, Compression.ZLIB), (Compression.NONE, Compression.ZSTD),
    (Compression.ZSTD, Compression.ZLIB), (Compression.ZLIB, Compression.NONE),
])  # fmt: skip
async def test_a_machine_goes_through(
    line: MakeLine, machine_type: str, compression: tuple[Compression, Compression]
) -> None:
    """It arrives as it was sent, in the dialect of its machine type; the relay's report is of both sides."""
    machine = memory_machine(state_of(machine_type))
    passed, sent, received, copy = await through(line, machine, compression, channels=3)
    assert contents(copy) == contents(machine)
    assert copy.state == machine.state
    assert passed.outcome is sent.outcome is received.outcome is Outcome.COMPLETED
    assert passed.packets == sent.packets
    assert passed.out_packets.wire_bytes == received.packets.wire_bytes
    assert (passed.main_bytes, passed.zero_records, passed.syncs) == (
        received.main_bytes, received.zero_records, received.syncs,
    )  # fmt: skip
    assert passed.dialect.sync == received.dialect.sync
    assert passed.sections == received.sections
    assert passed.blocks == received.blocks
    assert (passed.guest, passed.shut, passed.continued) == ("at the far end", 0, None)
    assert passed.stop_s is not None
    assert passed.to_json()["out"]["compression"] == compression[1].name.lower()


async def test_both_sides_under_tls(line: MakeLine) -> None:
    """Each with its own session."""
    machine = memory_machine()
    passed, _, _, copy = await through(line, machine, tls=True)
    assert contents(copy) == contents(machine)
    assert passed.security.startswith("TLS 1.3")
    assert passed.out_security.startswith("TLS 1.3")


async def test_the_far_end_is_connected_as_a_qemu_wants_it(line: MakeLine, far: ScriptedDestination) -> None:
    """Main first with its first bytes, then channels with the handshakes as they came; all open until SHUT."""

    async def at_end() -> None:
        assert not [entry for entry in far.log if "closed" in entry]
        far.log.append("SHUT")
        await far.commit()

    far.at_end = at_end
    machine = memory_machine()
    passed, sent = await line(far.address, machine).ended()
    assert (passed.outcome, sent.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
    await far.wait_log("main closed", "channel 0 closed", "channel 1 closed")
    assert far.log[0] == "main"
    assert far.handshakes == {number: e.Handshake(machine.state.uuid, number) for number in range(2)}
    assert far.log.index("SHUT") < min(far.log.index(entry) for entry in far.log if "closed" in entry)


# -- when the far end may have the guest


async def test_the_end_is_held_back_while_a_channel_is_behind(line: MakeLine, far: ScriptedDestination) -> None:
    """A far end that does not read its channels never gets what starts the guest."""
    far.reads_channels = False
    made = line(far.address, memory_machine(state_of(pages=LARGE)))
    made.start()
    await far.wait_log("PING")
    assert made.relay.cancel("enough")
    passed, sent = await made.ended()
    assert (passed.outcome, sent.outcome) == (Outcome.CANCELLED, Outcome.FAILED)
    assert "SHUT 1" in sent.cause
    assert "end" not in far.log


async def test_the_far_end_is_continued_when_the_source_is_done(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """Not before: at SHUT 0 nobody has said `cont`."""
    seen: list[list[str]] = []
    machine = memory_machine(running("running"))
    made = line(
        far.address, machine, out_qmp=monitor.address, steps={e.Shut: lambda: seen.append(list(monitor.commands))}
    )
    passed, _ = await made.ended()
    assert "cont" not in seen[0]
    assert monitor.commands[-2:] == ["cont", "query-status"]
    assert (passed.outcome, passed.continued, passed.run_state) == (Outcome.COMPLETED, True, "running")


async def test_a_paused_guest_stays_paused(line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor) -> None:
    """Whoever paused it at the source will not find it running."""
    passed, _ = await line(far.address, memory_machine(running("paused")), out_qmp=monitor.address).ended()
    assert "cont" not in monitor.commands
    assert (passed.outcome, passed.continued) == (Outcome.COMPLETED, False)
    assert "paused" in passed.notes[0]


async def test_a_far_end_that_does_not_continue_is_in_doubt(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """The guest is there, stopped; nobody else has it."""
    monitor.after_cont = "internal-error"
    passed, sent = await line(far.address, memory_machine(running("running")), out_qmp=monitor.address).ended()
    assert (passed.outcome, sent.outcome) == (Outcome.IN_DOUBT, Outcome.COMPLETED)
    assert "give it `cont`" in passed.cause
    assert passed.continued is False


async def test_a_source_that_was_called_off_after_shut_0_keeps_its_guest(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor, source_monitor: ScriptedMonitor
) -> None:
    """It closes main as one that is done does: its monitor knows better."""
    source_monitor.migrations = ["cancelling", "cancelling", "cancelled"]
    machine = memory_machine(running("running"))
    passed, _ = await line(far.address, machine, in_qmp=source_monitor.address, out_qmp=monitor.address).ended()
    assert source_monitor.commands.count("query-migrate") == 3
    assert (passed.outcome, passed.guest) == (Outcome.FAILED, "at the source")
    assert "cont" not in monitor.commands


async def test_a_source_that_is_done_says_so(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor, source_monitor: ScriptedMonitor
) -> None:
    """Then the far end goes on."""
    source_monitor.migrations = ["device", "completed"]
    machine = memory_machine(running("running"))
    passed, _ = await line(far.address, machine, in_qmp=source_monitor.address, out_qmp=monitor.address).ended()
    assert (passed.outcome, passed.continued) == (Outcome.COMPLETED, True)


async def test_a_far_end_that_does_not_wait_is_refused(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """Before anything is begun: the monitor is of a QEMU that runs, or of none."""
    monitor.state = "running"
    with pytest.raises(MultifdError, match="-incoming and -S"):
        await line(far.address, out_qmp=monitor.address).relay.run()
    with pytest.raises(TransportError, match="monitor"):
        await QemuRelay("unix:/nowhere/x", far.address, QemuRelayOptions(out_qmp="unix:/nowhere/qmp")).run()
    assert not far.log


# -- failures on either side


async def test_a_refusal_is_passed_on(line: MakeLine, far: ScriptedDestination) -> None:
    """SHUT 1, as it came."""
    far.at_end = lambda: far.say(e.Shut(1))
    passed, sent = await line(far.address).ended()
    assert (passed.outcome, sent.outcome, passed.shut) == (Outcome.FAILED, Outcome.FAILED, 1)
    assert "SHUT 1" in sent.cause
    assert passed.guest == "at the source"


@pytest.mark.parametrize("at", [e.BlockList, e.EndOfState])
async def test_a_far_end_that_dies(line: MakeLine, far: ScriptedDestination, at: type) -> None:
    """The source hears SHUT 1, early or late."""

    async def die(element: e.StreamElement) -> None:
        if isinstance(element, at):
            await far.die()

    far.on_element = die
    passed, sent = await line(far.address, memory_machine(state_of(pages=LARGE))).ended()
    assert (passed.outcome, sent.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert "SHUT 1" in sent.cause


async def test_a_far_end_that_is_not_there(line: MakeLine, tmp_path: Path) -> None:
    """The source's migration fails at once."""
    passed, sent = await line(f"unix:{tmp_path / 'nobody'}").ended()
    assert passed.cause.startswith("can't connect to")
    assert (passed.outcome, sent.outcome) == (Outcome.FAILED, Outcome.FAILED)


async def test_a_far_channel_that_is_lost(line: MakeLine, far: ScriptedDestination) -> None:
    """Both sides are torn down."""

    async def cut(element: e.StreamElement) -> None:
        if isinstance(element, e.BlockList):
            far.writers[-1].transport.abort()

    far.on_element = cut
    passed, sent = await line(far.address, memory_machine(state_of(pages=LARGE))).ended()
    assert "channel" in passed.cause
    assert "far end" in passed.cause
    assert "SHUT 1" in sent.cause
    await far.wait_log("main closed")
    assert "end" not in far.log


async def test_a_source_that_is_called_off(line: MakeLine, far: ScriptedDestination) -> None:
    """The far end sees an end in the middle of the stream."""
    far.reads_channels = False
    made = line(far.address, memory_machine(state_of(pages=LARGE)))
    made.start()
    await far.wait_log("PING")
    made.source.cancel("not today")
    passed, sent = await made.ended()
    assert (passed.outcome, sent.outcome) == (Outcome.FAILED, Outcome.CANCELLED)
    await far.wait_log("main closed")
    assert "end" not in far.log


@pytest.mark.parametrize("waits", [False, True])
async def test_a_source_that_gives_up_late(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor, waits: bool
) -> None:
    """When the far end has everything: in doubt, unless the far end waits for us."""
    made = line(far.address, out_qmp=monitor.address if waits else None)

    async def at_end() -> None:
        made.source.cancel("too late")

    far.at_end = at_end
    passed, _ = await made.ended()
    assert passed.outcome is (Outcome.FAILED if waits else Outcome.IN_DOUBT)
    assert ("end that QEMU" if waits else "stop one") in passed.cause
    assert "cont" not in monitor.commands


async def test_a_stream_that_breaks_a_rule(line: MakeLine, far: ScriptedDestination) -> None:
    """Goes no further than the fault; main's offset is told."""
    made = line(far.address)
    made.tasks = [asyncio.create_task(made.relay.run())]
    path = made.listener.address.path
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for first in (b"QEVM\0\0\0\3" + b"\x55" * 100, *(_handshake(number) for number in range(2))):
            each = stack.enter_context(socket.socket(socket.AF_UNIX))
            each.setblocking(False)
            await loop.sock_connect(each, path)
            await loop.sock_sendall(each, first)
        with pytest.raises(MigrationFailedError, match="main at 8"):
            await asyncio.wait_for(made.tasks[0], DEADLINE_S)


def _handshake(channel: int) -> bytes:
    return serialize_handshake(e.Handshake(bytes(16), channel))


async def test_channels_that_do_not_come(
    line: MakeLine, monkeypatch: pytest.MonkeyPatch, far: ScriptedDestination
) -> None:
    """The source has fewer: it would wait for ever."""
    monkeypatch.setattr(limits, "QEMU_SETUP_DEADLINE_S", 0.3)
    made = line(far.address, channels=3)
    made.source = QemuSource(str(made.listener.address), memory_machine(), QemuSourceOptions(channels=2))
    passed, _ = await made.ended()
    assert "multifd-channels 3" in passed.cause
    assert not far.log


# -- ending it from here


async def test_it_can_not_be_called_off_late(line: MakeLine, far: ScriptedDestination) -> None:
    """When the far end has everything, its word counts."""
    made = line(far.address)
    refused: list[bool] = []

    async def at_end() -> None:
        refused.append(made.relay.cancel("too late"))
        await far.commit()

    far.at_end = at_end
    passed, sent = await made.ended()
    assert refused == [False]
    assert (passed.outcome, sent.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)


async def test_a_cancelled_task_leaves_nothing(line: MakeLine, far: ScriptedDestination) -> None:
    """Also when it is too late: then it is in doubt."""
    made = line(far.address)
    far.at_end = _never
    made.start()
    await far.wait_log("end")
    made.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await made.tasks[0]
    assert made.relay.report is not None
    assert made.relay.report.outcome is Outcome.IN_DOUBT
    run = made.relay._run
    assert run is not None
    assert not any(channel._thread.is_alive() for channel in run.channels)


async def _never() -> None:
    await asyncio.Event().wait()


async def test_called_off_while_monitors_are_connected(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """It never waits for a source."""
    made = line(far.address, out_qmp=monitor.address)
    task = asyncio.create_task(made.relay.run())
    await asyncio.sleep(0)
    assert made.relay.report is None
    assert made.relay.cancel("not today")
    with pytest.raises(MigrationCancelledError, match="not today"):
        await asyncio.wait_for(task, DEADLINE_S)


async def test_a_far_end_that_runs_by_itself_is_told_of(
    line: MakeLine, far: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """Without -S nothing keeps the guest from running twice."""
    made = line(far.address, memory_machine(running("running")), out_qmp=monitor.address)

    async def at_end() -> None:
        monitor.state = "running"
        await far.commit()

    far.at_end = at_end
    passed, _ = await made.ended()
    assert passed.outcome is Outcome.COMPLETED
    assert any("start it with -S" in note for note in passed.notes)


async def test_a_relay_runs_once(line: MakeLine, far: ScriptedDestination) -> None:
    """One object, one migration; TLS belongs to the listener."""
    made = line(far.address)
    assert made.relay.report is None
    assert not made.relay.cancel()
    await made.ended()
    with pytest.raises(LocalProtocolError, match="once"):
        await made.relay.run()
    with pytest.raises(LocalProtocolError, match="listener"):
        QemuRelay(made.listener, far.address, QemuRelayOptions(tls=tls_directories.server()))


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"channels": 256}, {"socket_buffer": 0}])
def test_options_that_can_not_be(wrong: dict[str, int]) -> None:
    """Refused by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QemuRelayOptions(**wrong)  # type: ignore[arg-type]
