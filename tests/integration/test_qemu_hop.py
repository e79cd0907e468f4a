"""Two relays over real sockets: captured migrations of stock QEMUs go through them whole, what is spoiled or lost
between the relays does no harm, and both are commands.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import tls_directories
from harness.proxy import Proxy, cut_off_before
from harness.qemu_replay import ReplaySource, digests, options_for
from qemu_corpus import CAPTURES, Streams, whole
from qemu_machines import contents, memory_machine, state_of

import multifd
from multifd import messages as m
from multifd.cli.ending import ExitCode
from multifd.cli.main import run
from multifd.elements import Compression, Pong, Shut, SwitchoverAck
from multifd.engine.transport import Address
from multifd.errors import MigrationError
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.hop_far import FarRelay
from multifd.qemu.hop_near import NearRelay
from multifd.qemu.hop_options import NearOptions
from multifd.qemu.hop_report import FarReport, NearReport
from multifd.qemu.listener import QemuListener
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.report import QemuReport
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.stats import Outcome, Report
from multifd.wire.slots import SlotHeader

WAIT_S = 30.0  # far more than anything here takes


class Way:
    """A replayed source, two relays with a proxy between them, and a destination in memory."""

    def __init__(self, stack: AsyncExitStack, streams: Streams, proxy: Proxy, options: dict[str, Any]) -> None:
        self.machine = MemoryMachine()
        self.source = ReplaySource(streams)
        self.proxy = proxy
        self._stack = stack
        self._streams = streams
        self._options = options

    async def ended(self, far_listener: multifd.Listener) -> tuple[QemuReport, NearReport, FarReport]:
        """Begin all, and wait for all ends: reports, also of those that failed."""
        streams = self._streams
        listener, near_listener = (QemuListener.open("tcp:127.0.0.1:0") for _ in range(2))
        for each in (listener, near_listener):
            self._stack.push_async_callback(each.close)
        told = NearOptions(
            channels=len(streams.channels), compression=streams.compression, description=streams.description,
            **self._options,
        )  # fmt: skip
        runs: list[asyncio.Task[Report]] = [
            asyncio.create_task(each.run())
            for each in (
                QemuDestination(listener, self.machine, options_for(streams)),
                NearRelay(near_listener, await self.proxy.open(), told),
                FarRelay(far_listener, str(listener.address)),
            )
        ]
        playing = asyncio.create_task(self.source.play(near_listener.address))
        done = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), WAIT_S)
        await asyncio.wait_for(playing, WAIT_S)
        received, near, far = [each.report if isinstance(each, MigrationError) else each for each in done]
        assert isinstance(received, QemuReport), received
        assert isinstance(near, NearReport), near
        assert isinstance(far, FarReport), far
        return received, near, far


async def through(
    capture: str, *, proxy: Proxy | None = None, **options: Any
) -> tuple[Way, QemuReport, NearReport, FarReport]:
    """A capture through both."""
    async with AsyncExitStack() as stack:
        listener = await multifd.listen("tcp://127.0.0.1:0")
        stack.push_async_callback(listener.close)
        between = proxy or Proxy(str(listener.address))
        between._target = Address.parse(str(listener.address))
        stack.push_async_callback(between.close)
        way = Way(stack, whole(capture), between, options)
        return way, *(await way.ended(listener))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("capture", CAPTURES)
async def test_captures_go_through_whole(capture: str) -> None:
    """RAM is as the source had it, and what the destination says arrives in its order."""
    codec = ("none", "zstd", "lz4")[CAPTURES.index(capture) % 3]
    way, received, near, far = await through(capture, codec=codec, relay_channels=3)
    streams, recorded = whole(capture), digests(capture)
    assert {each.outcome for each in (received, near, far)} == {Outcome.COMPLETED}
    sent = {name: digest for name, digest in received.digests.items() if name in recorded}
    assert sent == {name: digest for name, digest in recorded.items() if name in sent}
    assert len(sent) >= (1 if streams.ignore_shared else len(recorded))
    assert way.source.answers[-1] == Shut(0)
    assert Pong(1) in way.source.answers
    assert way.source.answers.count(SwitchoverAck()) == received.acks.given == near.acks.given
    assert received.main_bytes == near.main_bytes == far.main_bytes == len(streams.main)
    assert received.bytes_sent == sum(len(data) - 64 for data in streams.channels)
    assert (near.machine, near.sections, near.blocks) == (received.machine, received.sections, received.blocks)
    assert (near.hop.codec, near.hop.channels) == (codec, 3)
    assert near.hop.wire_bytes < near.hop.bytes or codec == "none"
    assert near.hop.corrupt_resends == 0
    (hello,) = (message for message in way.proxy.of(m.Hello) if message.secret == bytes(16))
    assert m.DEVICE_MESSAGES in hello.features
    names = [device.name for page in way.proxy.of(m.Inventory) for device in page.devices]
    assert names == ["qemu-main/0", *(f"qemu-channel/{number}" for number in range(len(streams.channels)))]
    assert way.proxy.count(m.DeviceHeard) == way.proxy.count(m.DeviceMessage) >= 4  # facts, PONG, released, whole


CAPTURE = "10.0-zstd-ch8"


async def test_what_is_spoiled_between_the_relays_is_sent_again() -> None:
    """As anything in the native dialect: the machine is whole."""
    proxy = Proxy("tcp://h:1")
    spoiled: list[SlotHeader] = []

    def spoil(header: SlotHeader) -> bool:
        if len(spoiled) < 4 and header.payload_length > 1000:
            spoiled.append(header)
            return True
        return False

    proxy.spoil = spoil
    _, received, near, far = await through(CAPTURE, proxy=proxy)
    assert {each.outcome for each in (received, near, far)} == {Outcome.COMPLETED}
    assert near.hop.corrupt_resends == far.hop.corrupt_resends == 4
    assert received.digests == digests(CAPTURE)


async def test_a_line_that_spoils_everything_leaves_the_guest_at_the_source() -> None:
    """Given up, with SHUT 1. A near relay that has handed everything over can't know how far it came."""
    proxy = Proxy("tcp://h:1")
    proxy.spoil = lambda header: header.payload_length > 1000
    way, received, near, far = await through(CAPTURE, proxy=proxy)
    assert (received.outcome, far.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert near.outcome in (Outcome.FAILED, Outcome.IN_DOUBT)
    assert Shut(0) not in way.source.answers
    assert far.guest == "at the source"
    assert "corrupt" in near.cause


async def test_a_lost_loaded_is_a_doubt() -> None:
    """The far end has said SHUT 0 to its relay, and the source never hears it: both may run, and both relays say so."""
    proxy = Proxy("tcp://h:1")
    proxy.rule(m.Loaded, cut_off_before)
    way, received, near, far = await through(CAPTURE, proxy=proxy)
    assert received.outcome is Outcome.COMPLETED
    assert (near.outcome, far.outcome) == (Outcome.IN_DOUBT, Outcome.IN_DOUBT)
    assert Shut(0) not in way.source.answers
    assert "compare query-status at both" in near.cause
    assert "compare query-status at both" in far.cause


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def command() -> AsyncIterator[Any]:
    """Starts commands that end with the test; gives the process and where it listens."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: object) -> tuple[Process, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "multifd", "qemu", "relay", *map(str, arguments), stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.push_async_callback(_killed, process)
            assert process.stderr is not None
            while b"listening on" not in (line := await asyncio.wait_for(process.stderr.readline(), WAIT_S)):
                assert line, "it never listened"
            return process, line.decode().split()[-1]

        yield start


async def _killed(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


@pytest.mark.slow
async def test_two_commands(command: Any) -> None:
    """Under TLS between them, with compressions that differ; one tells programs and the other people."""
    machine, copy = memory_machine(state_of(pages=3000)), MemoryMachine()
    listener = QemuListener.open("tcp:127.0.0.1:0")
    there = QemuDestination(listener, copy, QemuDestinationOptions(channels=3, compression=Compression.ZSTD))
    receiving = asyncio.create_task(there.run())
    tls = tls_directories.tls_dir()
    far, far_at = await command(
        "--listen-relay", "tcp:127.0.0.1:0", "--to", listener.uri, "--out-compression", "zstd", "--tls-dir", tls
    )
    near, near_at = await command(
        "--listen", "tcp:127.0.0.1:0", "--to-relay", far_at, "--channels", 3, "--compression", "zlib", "--codec",
        "zstd", "--relay-channels", 2, "--out-tls-dir", tls, "--json",
    )  # fmt: skip
    options = QemuSourceOptions(channels=3, compression=Compression.ZLIB)
    sent = await asyncio.wait_for(QemuSource(near_at, machine, options).run(), WAIT_S)
    await asyncio.wait_for(receiving, WAIT_S)
    (out, _), (words, _) = await asyncio.gather(near.communicate(), far.communicate())
    await listener.close()
    assert (sent.outcome, near.returncode, far.returncode) == (Outcome.COMPLETED, 0, 0)
    assert contents(copy) == contents(machine)
    data = json.loads(out)
    assert (data["side"], data["guest"], data["hop"]["codec"]) == ("near relay", "at the far end", "zstd")
    assert (data["hop"]["channels"], data["hop"]["security"][:7]) == (2, "TLS 1.3")
    text = words.decode()
    assert "passed pc-q35-10.0 on to tcp" in text
    assert "guest at this end" in text
    assert "2 connections (zstd, TLS 1.3" in text


FROM_RELAY, TO_RELAY = ("--listen-relay", "tcp:h:1"), ("--to-relay", "tcp:h:2")
FROM_QEMU, TO_QEMU = ("--listen", "tcp:h:1"), ("--to", "tcp:h:2")


@pytest.mark.parametrize(("arguments", "words"), [
    ((*FROM_RELAY, *TO_RELAY), "a QEMU on one side at least"),
    ((*FROM_RELAY, *TO_QEMU, "--channels", "3"), "--channels: for the relay beside the source"),
    ((*FROM_QEMU, *TO_RELAY, "--out-qmp", "unix:x"), "--out-qmp: for the relay beside the far end"),
    ((*FROM_QEMU, *TO_QEMU, "--codec", "zstd"), "--codec: for a relay that is given --to-relay"),
    ((*FROM_QEMU, *TO_RELAY, "--relay-channels", "65"), "1 to 64"),
])  # fmt: skip
def test_options_of_another_relay(arguments: tuple[str, ...], words: str) -> None:
    """Refused, and it is said whose they are."""
    ending = run(["qemu", "relay", *arguments])
    assert ending.code is ExitCode.USAGE
    assert words in ending.fault
