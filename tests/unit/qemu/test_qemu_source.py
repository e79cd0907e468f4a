"""A source to a QEMU: to our own destination, and to one that does what it should not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import tls_directories
from qemu_machines import UUID, contents, memory_machine, state_of
from scripted_destination import ScriptedDestination, scripted

from multifd import elements as e
from multifd import limits
from multifd.elements import Compression, SyncDialect, ZeroPages
from multifd.errors import (
    LocalProtocolError,
    MigrationCancelledError,
    MigrationError,
    MigrationFailedError,
    MigrationInDoubtError,
    StorageError,
)
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.report import QemuReport
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.stats import Outcome, Progress

DEADLINE_S = 10.0
LARGE = 20_000  # pages: more than all sockets take


@pytest.fixture
async def destination(tmp_path: Path) -> AsyncIterator[ScriptedDestination]:
    async with scripted(tmp_path) as made:
        yield made


async def run(source: QemuSource) -> QemuReport:
    return await asyncio.wait_for(source.run(), DEADLINE_S)


async def fails(
    source: QemuSource, kind: type[MigrationError] = MigrationFailedError, outcome: Outcome = Outcome.FAILED
) -> str:
    """The cause, as the report has it too."""
    with pytest.raises(kind) as caught:
        await run(source)
    assert isinstance(caught.value.report, QemuReport)
    assert caught.value.report.cause == str(caught.value)
    assert caught.value.report.outcome is outcome
    return str(caught.value)


async def is_in_doubt(source: QemuSource) -> str:
    """The same of one that has sent everything and does not know what became of it."""
    return await fails(source, MigrationInDoubtError, Outcome.IN_DOUBT)


async def send_to_ours(
    machine: MemoryMachine, options: QemuSourceOptions, address: str = "tcp:127.0.0.1:0", **theirs: object
) -> tuple[QemuReport, QemuReport, MemoryMachine]:
    """Both reports, and what arrived."""
    copy = MemoryMachine()
    listener = QemuListener.open(address, tls_directories.server() if options.tls else None)
    try:
        receiving = QemuDestination(
            listener,
            copy,
            QemuDestinationOptions(channels=options.channels, compression=options.compression, **theirs),  # type: ignore[arg-type]
        )
        task = asyncio.create_task(receiving.run())
        sent = await run(QemuSource(str(listener.address), machine, options))
        return sent, await asyncio.wait_for(task, DEADLINE_S), copy
    finally:
        await listener.close()


# -- to our own destination


@pytest.mark.parametrize("machine_type", ["pc-q35-7.2", "pc-q35-8.2", "pc-i440fx-10.0", "pc-q35-11.1"])
@pytest.mark.parametrize("compression", Compression)
async def test_a_machine_arrives_as_it_is(machine_type: str, compression: Compression) -> None:
    """RAM, sections in order, description and UUID, in the dialect of each machine type."""
    machine = memory_machine(state_of(machine_type))
    sent, received, copy = await send_to_ours(machine, QemuSourceOptions(compression=compression, channels=3))
    assert contents(copy) == contents(machine)
    assert copy.state == machine.state
    assert sent.outcome is Outcome.COMPLETED
    assert received.dialect.sync == sent.dialect.sync
    assert (sent.dialect.sync == "per-section") is (machine_type == "pc-q35-7.2")
    assert (sent.dialect.zero_pages == ("legacy",)) is (machine_type in ("pc-q35-7.2", "pc-q35-8.2"))
    assert sent.packets == received.packets
    assert (sent.main_bytes, sent.zero_records, sent.parts) == (
        received.main_bytes, received.zero_records, received.parts,
    )  # fmt: skip


@pytest.mark.parametrize("zero_pages", ZeroPages)
@pytest.mark.parametrize("sync", SyncDialect)
async def test_dialects_can_be_chosen(zero_pages: ZeroPages, sync: SyncDialect) -> None:
    """Against what the machine type says: how zero pages travel, and what marks sync points."""
    machine = memory_machine()
    sent, received, copy = await send_to_ours(machine, QemuSourceOptions(zero_pages=zero_pages, sync=sync))
    assert contents(copy) == contents(machine)
    assert received.dialect.sync == sync.value
    listed, records = received.packets.zero_pages, received.zero_records
    assert (listed > 0, records > 0) == (zero_pages is ZeroPages.MULTIFD, zero_pages is ZeroPages.LEGACY)
    assert listed + records + sent.packets.normal_pages == 717


async def test_over_tls() -> None:
    """Every connection, with its name checked; the report says how."""
    machine = memory_machine()
    options = QemuSourceOptions(tls=tls_directories.client(), compression=Compression.ZSTD)
    sent, received, copy = await send_to_ours(machine, options)
    assert contents(copy) == contents(machine)
    assert sent.security == received.security
    assert sent.security.startswith("TLS 1.3")


async def test_without_a_description(tmp_path: Path) -> None:
    """A machine that was saved without one is sent without; also over a unix socket, by one channel."""
    machine = memory_machine(state_of(described=False))
    options = QemuSourceOptions(channels=1)
    sent, _, copy = await send_to_ours(machine, options, f"unix:{tmp_path / 'in'}", description=False)
    assert contents(copy) == contents(machine)
    assert any("VM description" in note for note in sent.notes)


async def test_progress_is_told() -> None:
    """From connecting to the end, and what is left falls to none."""
    copy = MemoryMachine()
    listener = QemuListener.open("tcp:127.0.0.1:0")
    receiving = asyncio.create_task(QemuDestination(listener, copy).run())
    source = QemuSource(str(listener.address), memory_machine())
    seen = asyncio.create_task(_all(source))
    await run(source)
    looks = await seen
    assert looks[-1].state == "completed"
    assert looks[-1].bytes_left == 0
    assert looks[-1].bytes_total == 717 * 4096
    await receiving
    await listener.close()


async def _all(source: QemuSource) -> list[Progress]:
    return [each async for each in source.progress()]


# -- the order of things


async def test_main_comes_first_and_channels_stay_to_the_end(destination: ScriptedDestination) -> None:
    """Main with its header before any channel is connected, handshakes at once; all of them open until SHUT."""
    machine = memory_machine()

    async def at_end() -> None:
        assert not [entry for entry in destination.log if "closed" in entry]
        destination.log.append("SHUT")
        await destination.commit()

    destination.at_end = at_end
    report = await run(QemuSource(destination.address, machine))
    await destination.wait_log("main closed", "channel 0 closed", "channel 1 closed")
    assert destination.log[0] == "main"
    assert {"channel 0", "channel 1"} < set(destination.log[: destination.log.index("SHUT")])
    assert {number: each.uuid for number, each in destination.handshakes.items()} == {0: UUID, 1: UUID}
    assert sum(destination.received.values()) == report.bytes_sent
    assert destination.elements[0] == machine.state.configuration
    sections = [each for each in destination.elements if isinstance(each, e.Section)]
    assert sections == [*machine.state.early, *machine.state.sections]
    assert destination.elements[-1] == e.Description(machine.state.description or b"")


# -- what a destination should not do


async def test_a_refusal_is_told(destination: ScriptedDestination) -> None:
    """SHUT 1: the destination's guest does not run."""
    destination.at_end = lambda: destination.say(e.Shut(1))
    assert "refused the machine (SHUT 1)" in await fails(QemuSource(destination.address, memory_machine()))


async def test_an_early_refusal_is_what_is_told(destination: ScriptedDestination) -> None:
    """Also when the channels are cut before it, while pages are under way: a lost channel waits for last words."""

    async def refuse(element: e.StreamElement) -> None:
        if isinstance(element, e.BlockList):
            for writer in destination.writers[1:]:
                writer.transport.abort()
            await asyncio.sleep(0)
            await destination.say(e.Shut(1))

    destination.reads_channels = False
    destination.on_element = refuse
    assert "refused" in await fails(QemuSource(destination.address, memory_machine(state_of(pages=LARGE))))


async def test_a_death_points_to_its_stderr(destination: ScriptedDestination) -> None:
    """With what this side was set to, since a difference there is the likely reason."""
    machine = memory_machine(state_of(pages=LARGE))

    async def die(element: e.StreamElement) -> None:
        if isinstance(element, e.BlockList):
            for writer in destination.writers[1:]:
                writer.transport.abort()

    destination.on_element = die
    options = QemuSourceOptions(compression=Compression.ZSTD)
    cause = await fails(QemuSource(destination.address, machine, options))
    assert "its stderr says why" in cause
    assert "multifd-channels is 2, multifd-compression zstd" in cause


async def test_an_end_without_shut_is_in_doubt(destination: ScriptedDestination) -> None:
    """It may have the machine: that is said."""
    destination.at_end = destination.die
    assert "before SHUT" in await is_in_doubt(QemuSource(destination.address, memory_machine()))


async def test_shut_0_too_early_is_a_failure(destination: ScriptedDestination) -> None:
    """A destination can't have taken what was not sent."""

    async def commit(element: e.StreamElement) -> None:
        if isinstance(element, e.BlockList):
            await destination.commit()

    destination.on_element = commit
    assert "SHUT" in await fails(QemuSource(destination.address, memory_machine(state_of(pages=LARGE))))


async def test_silence_at_the_begin_names_the_channels(
    destination: ScriptedDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination that waits for more channels answers no PING, though all bytes of a small machine leave."""
    monkeypatch.setattr(limits, "QEMU_PONG_DEADLINE_S", 0.2)
    destination.pongs = False
    destination.at_end = lambda: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    cause = await is_in_doubt(QemuSource(destination.address, memory_machine()))  # it may go on with what it has got
    assert "PONG" in cause
    assert "is its multifd-channels more than 2" in cause


async def test_a_stall_names_what_may_differ(destination: ScriptedDestination, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that has begun and takes no more."""
    monkeypatch.setattr(limits, "QEMU_STALL_DEADLINE_S", 0.4)
    destination.reads_channels = False
    cause = await fails(QemuSource(destination.address, memory_machine(state_of(pages=LARGE))))
    assert "to take more bytes" in cause
    assert "multifd-compression none" in cause
    assert "sync points per-round" in cause


async def test_no_shut_in_time_is_in_doubt(destination: ScriptedDestination) -> None:
    """And says what may be the reason: a VM description that one side does not expect."""
    destination.at_end = lambda: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    options = QemuSourceOptions(shut_deadline_s=0.2)
    cause = await is_in_doubt(QemuSource(destination.address, memory_machine(), options))
    assert "SHUT" in cause
    assert "suppress-vmdesc=off" in cause


async def test_a_slow_destination_is_not_a_stalled_one(
    destination: ScriptedDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as bytes go, the wait begins anew."""
    monkeypatch.setattr(limits, "QEMU_STALL_DEADLINE_S", 0.5)
    destination.rest_s = 0.12  # after each MiB: less than the deadline, and more than it in all
    report = await run(QemuSource(destination.address, memory_machine(state_of(pages=6000))))
    assert report.elapsed_s > 0.5


# -- ending it from here


async def test_it_can_be_called_off(destination: ScriptedDestination) -> None:
    """At any time; the destination sees an end in the middle of the stream."""
    destination.reads_channels = False
    source = QemuSource(destination.address, memory_machine(state_of(pages=LARGE)))
    assert not source.cancel()
    task = asyncio.create_task(source.run())
    await destination.wait_log("PING")
    assert source.cancel("not today")
    with pytest.raises(MigrationCancelledError, match="not today"):
        await task
    assert not source.cancel()
    await destination.wait_log("main closed")
    assert "end" not in destination.log


async def test_calling_it_off_when_all_was_sent_is_in_doubt(destination: ScriptedDestination) -> None:
    """The destination has the machine and may run it: nothing here can stop that."""
    at_end = asyncio.Event()

    async def silent() -> None:
        at_end.set()
        await asyncio.Event().wait()

    destination.at_end = silent
    source = QemuSource(destination.address, memory_machine())
    task = asyncio.create_task(source.run())
    await asyncio.wait_for(at_end.wait(), DEADLINE_S)
    assert source.cancel("not today")
    with pytest.raises(MigrationInDoubtError, match="not today; the destination may have the machine") as caught:
        await task
    assert caught.value.report.outcome is Outcome.IN_DOUBT


async def test_a_cancelled_task_leaves_nothing(destination: ScriptedDestination) -> None:
    """Threads and connections are gone when it has ended."""
    destination.reads_channels = False
    source = QemuSource(destination.address, memory_machine(state_of(pages=LARGE)))
    task = asyncio.create_task(source.run())
    await destination.wait_log("PING")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.report is not None
    assert source.report.outcome is Outcome.CANCELLED
    run_ = source._run
    assert run_ is not None
    assert not any(sender._thread.is_alive() for sender in run_.senders)


async def test_nobody_there(tmp_path: Path) -> None:
    """Connecting fails: that is the cause."""
    cause = await fails(QemuSource(f"unix:{tmp_path / 'nobody'}", memory_machine()))
    assert cause.startswith("can't connect to unix://")


async def test_channels_that_can_not_be_connected(tmp_path: Path) -> None:
    """Main alone is no migration."""
    path = tmp_path / "in"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        task = asyncio.create_task(run(QemuSource(f"unix:{path}", memory_machine())))
        main, _ = await asyncio.get_running_loop().sock_accept(listener)
        path.unlink()
    with main, pytest.raises(MigrationFailedError, match=r"can't connect|lost|refused"):
        await task


# -- what can't be sent


def _without_sections(state: e.MachineState) -> e.MachineState:
    return e.MachineState(state.configuration, (), state.ram, state.blocks, True, (), None)


def _without_one(state: e.MachineState) -> e.MachineState:
    return e.MachineState(
        state.configuration, state.early, state.ram, state.blocks, True, state.sections[1:], state.description
    )


@pytest.mark.parametrize("broken", [_without_sections, _without_one])
async def test_a_machine_that_is_not_whole_is_not_sent(
    destination: ScriptedDestination, broken: Callable[[e.MachineState], e.MachineState]
) -> None:
    """A QEMU would not notice that a section is missing; nothing is connected."""
    with pytest.raises(StorageError, match="save it again"):
        await run(QemuSource(destination.address, memory_machine(broken(state_of()))))
    assert not destination.log


async def test_a_source_runs_once(destination: ScriptedDestination) -> None:
    """One object, one session."""
    source = QemuSource(destination.address, memory_machine())
    assert source.report is None
    await run(source)
    with pytest.raises(LocalProtocolError, match="once"):
        await run(source)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"channels": 256}, {"shut_deadline_s": 0}, {"socket_buffer": 0}])
def test_options_that_can_not_be(wrong: dict[str, int]) -> None:
    """Refused by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QemuSourceOptions(**wrong)  # type: ignore[arg-type]
