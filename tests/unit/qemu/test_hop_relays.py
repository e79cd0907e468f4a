"""Two relays back to back carry what two QEMUs say to each other, whole and in its order, whatever lies between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tls_directories
from hop_line import DEADLINE_S, Hop, MakeHop, hops
from qemu_machines import contents, description_of, device, memory_machine, state_of
from scripted_destination import ScriptedDestination, scripted

from multifd import elements as e
from multifd import limits
from multifd.elements import Compression
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.session import destination as destination_machine
from multifd.session.states import DestinationState
from multifd.stats import Outcome
from multifd.wire.qemu_packet import serialize_device_header, serialize_handshake, serialize_ram_header
from multifd.wire.qemu_return import ReturnReader
from multifd.wire.qemu_serialize import serialize


@pytest.fixture(autouse=True)
def short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here is far away."""
    monkeypatch.setattr(limits, "LAST_WORDS_S", 0.1)


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[MakeHop]:
    async with hops(tmp_path) as make:
        yield make


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[ScriptedDestination]:
    (tmp_path / "there").mkdir()
    async with scripted(tmp_path / "there") as made:
        yield made


@pytest.mark.parametrize(("machine_type", "compression", "far", "codec", "tls"), [
    ("pc-q35-7.2", Compression.NONE, None, "zstd", False),
    ("pc-q35-10.0", Compression.ZLIB, Compression.ZSTD, "lz4", True),
    ("pc-q35-10.0", Compression.ZSTD, None, "none", False),
    ("pc-q35-8.0", Compression.ZSTD, Compression.NONE, "zstd", True),
])  # fmt: skip
async def test_a_machine_goes_through(
    hop: MakeHop, machine_type: str, compression: Compression, far: Compression | None, codec: str, tls: bool
) -> None:
    """It arrives as it was sent, whatever lies between; the far end's compression is the far relay's to tell."""
    machine, copy = memory_machine(state_of(machine_type)), MemoryMachine()
    listener = QemuListener.open("tcp:127.0.0.1:0", tls_directories.server() if tls else None)
    options = QemuDestinationOptions(channels=3, compression=compression if far is None else far)
    receiving = asyncio.create_task(QemuDestination(listener, copy, options).run())
    made = await hop(
        str(listener.address), machine, compression=compression, far_compression=far, codec=codec, channels=3, tls=tls
    )
    sent, near, passed = await made.ended()
    received = await asyncio.wait_for(receiving, DEADLINE_S)
    await listener.close()
    assert contents(copy) == contents(machine)
    assert copy.state == machine.state
    assert {each.outcome for each in (sent, near, passed, received)} == {Outcome.COMPLETED}
    assert (near.packets, near.out_packets.wire_bytes) == (sent.packets, received.packets.wire_bytes)
    assert near.out_compression == options.compression.name.lower()
    assert (near.guest, near.shut, near.continued) == ("at the far end", 0, None)
    assert (passed.guest, passed.shut, passed.continued) == ("at this end", 0, None)
    assert (passed.machine, passed.out_channels) == (machine_type, 3)
    assert passed.main_bytes == near.main_bytes == received.main_bytes
    assert passed.channel_bytes == received.packets.wire_bytes + 3 * 64
    assert near.hop.codec == passed.hop.codec == codec
    # the far relay's first word goes the other way, the near one's last is one byte
    assert near.hop.bytes == passed.hop.bytes == passed.main_bytes + passed.channel_bytes + 1
    assert near.hop.security.startswith("TLS 1.3") is passed.out_security.startswith("TLS 1.3") is tls
    assert near.to_json()["hop"]["session"] == passed.to_json()["hop"]["session"]


async def test_the_far_end_is_connected_as_a_qemu_wants_it(hop: MakeHop, there: ScriptedDestination) -> None:
    """Main first with its first bytes, then channels with the handshakes as they came; all open until SHUT."""

    async def at_end() -> None:
        assert not [entry for entry in there.log if "closed" in entry]
        there.log.append("SHUT")
        await there.commit()

    there.at_end = at_end
    machine = memory_machine()
    made = await hop(there.address, machine)
    sent, near, far = await made.ended()
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.COMPLETED,) * 3
    await there.wait_log("main closed", "channel 0 closed", "channel 1 closed")
    assert there.log[0] == "main"
    assert there.handshakes == {number: e.Handshake(machine.state.uuid, number) for number in range(2)}
    assert there.log.index("SHUT") < min(there.log.index(entry) for entry in there.log if "closed" in entry)
    assert made.line.connections == 3


async def test_what_the_far_end_says_comes_back_in_its_order(hop: MakeHop, there: ScriptedDestination) -> None:
    """More than may be under way at once, while nothing else moves: the source hears every acknowledgement."""
    count = limits.DEVICE_MESSAGES_MAX * 3

    async def acks(element: e.StreamElement) -> None:
        if isinstance(element, e.BlockList):
            await there.say(*(e.SwitchoverAck() for _ in range(count)))

    there.on_element = acks
    sent, near, _ = await (await hop(there.address)).ended()
    assert (sent.outcome, sent.acks.given, near.acks.given) == (Outcome.COMPLETED, count, count)


# -- what comes late on the channels


async def test_state_of_devices_may_come_after_the_end_of_main(hop: MakeHop, there: ScriptedDestination) -> None:
    """A VFIO device's state comes on any channel, after its last SYNC too: a far end that waits for it gets it."""
    state, pieces = bytes(range(256)) * 8000, 3
    packets = [e.DevicePacket("0000:00:05.0/vfio", 0, state + bytes((number,))) for number in range(pieces)]
    late = b"".join(serialize_device_header(packet) + packet.payload for packet in packets)
    whole = asyncio.Event()

    async def at_end() -> None:
        whole.set()
        async with asyncio.timeout(DEADLINE_S):
            while there.received.get(0, 0) < len(SYNC) * 2 + len(late):
                await rest(0.01)  # it tells nobody
        await there.commit()

    there.at_end = at_end
    made = await hop(there.address)
    async with by_hand(made) as (main, channels):
        main.write(serialize(*live_stream("0000:00:05.0/vfio")))
        await asyncio.wait_for(whole.wait(), DEADLINE_S)
        channels[0].write(late)
    assert there.received == {0: len(SYNC) * 2 + len(late), 1: len(SYNC) * 2}


async def test_a_line_that_is_silent_is_kept_alive(
    hop: MakeHop, there: ScriptedDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that sends nothing for longer than a destination of the native dialect waits is not given up."""
    monkeypatch.setattr(limits, "QEMU_HOP_ALIVE_S", 0.05)
    seconds, state = 0.5, DestinationState.PRECOPY
    monkeypatch.setitem(destination_machine._WAITS, state, (seconds, "anything"))
    made = await hop(there.address)
    stream = serialize(*live_stream("pci/other"))
    async with by_hand(made) as (main, _):
        main.write(stream[:-100])
        await rest(3 * seconds)
        main.write(stream[-100:])


async def rest(seconds: float) -> None:
    """Let them go by."""
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, over.set_result, None)
    await over


@asynccontextmanager
async def by_hand(made: Hop) -> AsyncIterator[tuple[asyncio.StreamWriter, list[asyncio.StreamWriter]]]:
    """A source whose handshakes and SYNCs are written: main is left. At the end all has gone well."""
    made.tasks = [asyncio.create_task(made.near.run()), asyncio.create_task(made.far.run())]
    reader, main = await asyncio.open_unix_connection(made.source_path)
    channels = [(await asyncio.open_unix_connection(made.source_path))[1] for _ in range(2)]
    for number, channel in enumerate(channels):
        channel.write(serialize_handshake(e.Handshake(bytes(16), number)) + SYNC * 2)
    try:
        yield main, channels
        answers = list(ReturnReader().feed(await asyncio.wait_for(reader.readexactly(16), DEADLINE_S)))
        assert answers == [e.Pong(1), e.Shut(0)]
    finally:
        for writer in (main, *channels):
            writer.close()
    near, far = await asyncio.wait_for(asyncio.gather(*made.tasks), DEADLINE_S)
    assert (near.outcome, far.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)


_NONE = np.empty(0, np.int64)
SYNC = serialize_ram_header(e.RamPacket("", _NONE, _NONE, sync=True), e.PAGE_BYTES)


def live_stream(name: str) -> list[e.StreamElement]:
    """A machine with two sync points and one more live device."""
    ram, device_header = e.SectionHeader(2, "ram", 0, 4), e.SectionHeader(3, name, 0, 1)
    body = bytes.fromhex("ffffffffef100001")
    full = device("timer")
    return [
        e.Configuration("pc-q35-10.0"),
        e.Command(e.CommandNumber.OPEN_RETURN_PATH),
        e.Command(e.CommandNumber.PING, (1).to_bytes(4, "big")),
        e.RamBegins(e.Phase.START, ram),
        e.BlockList((e.RamBlock("m", 4096),)),
        e.SyncMark(),
        e.RamEnds(e.Phase.START),
        e.Section(e.Phase.START, device_header, body),
        e.Command(e.CommandNumber.SWITCHOVER_START),
        e.RamBegins(e.Phase.END, ram),
        e.SyncMark(),
        e.RamEnds(e.Phase.END),
        e.Section(e.Phase.END, device_header, body),
        full,
        e.EndOfState(),
        e.Description(description_of([full])),
    ]
