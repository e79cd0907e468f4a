"""Messages of devices, a flush, and the owner's right to run, in the parts of the engine and over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from posted import WAIT_S, Gate, Posted, SmallDevice

import multifd
from multifd import limits
from multifd import messages as m
from multifd.device import FLUSH, Say
from multifd.device.interface import Phase
from multifd.engine.loader import DeviceLoader, LoadFailed, LoadProgress, MessageSaid
from multifd.engine.saver import ChunkSaved, DeviceSaver, MessageHeard, SaveFailed
from multifd.errors import DeviceError
from multifd.kinds.chunk import Chunk
from multifd.slot import Buffer
from multifd.wire.chunk import ChunkMeta

PLENTY = 1 << 30
MOST = limits.DEVICE_MESSAGES_MAX


class Hearing(SmallDevice):
    """Remembers what it hears; step `hear` each time."""

    hears = True

    def __init__(self, **chunks: Sequence[Buffer]) -> None:
        super().__init__(**chunks)
        self.heard: list[bytes] = []

    async def hear(self, data: bytes) -> None:
        await self.step("hear")
        self.heard.append(data)


class Saying(SmallDevice):
    """Says what it is told to say when it begins to load."""

    def __init__(self, *said: bytes) -> None:
        super().__init__()
        self.said = list(said)
        self.say: Say | None = None

    def open_messages(self, say: Say) -> None:
        self.say = say

    async def load(self, phase: Phase, data: memoryview) -> None:
        assert self.say is not None
        while self.said:
            await self.say(self.said.pop(0))
            await self.step("said")
        await super().load(phase, data)


@pytest.fixture
async def saver() -> AsyncIterator[tuple[DeviceSaver, Hearing, Posted]]:
    device, posted = Hearing(initial=[b"one", FLUSH, b"two", FLUSH]), Posted()
    made = DeviceSaver(3, device, posted)  # type: ignore[arg-type]
    made.start()
    made.grant(PLENTY)
    yield made, device, posted
    for gate in device.gates.values():
        gate.set()
    assert await asyncio.to_thread(made.stop)


async def test_a_flush_sends_what_was_yielded(saver: tuple[DeviceSaver, Hearing, Posted]) -> None:
    """A chunk does not wait for the next one; LAST is then an empty one."""
    made, device, posted = saver
    device.gates["save-INITIAL-2"] = gate = Gate()
    made.save_initial(1)

    async def chunk() -> tuple[bool, bytes]:
        event = await asyncio.to_thread(posted.until, lambda event: isinstance(event, ChunkSaved))
        return ChunkMeta.parse(event.slot.meta).last, b"".join(event.slot.buffers)

    assert await chunk() == (False, b"one")
    await asyncio.to_thread(device.wait_for, "save-INITIAL-2")
    gate.set()
    assert [await chunk(), await chunk()] == [(False, b"two"), (True, b"")]


async def test_messages_are_heard_one_after_another(saver: tuple[DeviceSaver, Hearing, Posted]) -> None:
    """In their order, and told when each was dealt with; `heard_all` waits for them."""
    made, device, posted = saver
    device.gates["hear"] = gate = Gate()
    for number in range(3):
        made.deliver(bytes((number,)))
    await asyncio.to_thread(device.wait_for, "hear")
    waiting = asyncio.ensure_future(made.heard_all())
    assert posted.empty
    assert not waiting.done()
    gate.set()
    await asyncio.wait_for(waiting, WAIT_S)
    assert device.heard == [b"\0", b"\1", b"\2"]
    assert [posted.next() for _ in range(3)] == [MessageHeard(3)] * 3
    await made.heard_all()


async def test_a_message_that_can_not_be_dealt_with_fails_the_device(
    saver: tuple[DeviceSaver, Hearing, Posted],
) -> None:
    """And so does one for a device that hears none."""
    made, device, posted = saver
    device.fails["hear"] = OSError("no")
    made.deliver(b"x")
    failed = await asyncio.to_thread(posted.next)
    assert isinstance(failed, SaveFailed)
    assert str(failed.error) == "device nic/0: OSError: no"
    with pytest.raises(NotImplementedError, match="nic/0 hears no messages"):
        await SmallDevice().hear(b"x")


@pytest.fixture
async def loader() -> AsyncIterator[Any]:
    made: list[DeviceLoader] = []

    def make(device: SmallDevice, *, messages: bool = True) -> tuple[DeviceLoader, Posted]:
        posted = Posted()
        one = DeviceLoader(3, device, credit=PLENTY, events=posted, messages=messages)  # type: ignore[arg-type]
        made.append(one)
        one.start()
        return one, posted

    yield make
    for one in made:
        assert await asyncio.to_thread(one.stop)


async def test_what_is_said_waits_for_ears(loader: Any) -> None:
    """No more than `DEVICE_MESSAGES_MAX` at a time, and more as they are heard."""
    device = Saying(*(b"x" for _ in range(MOST + 2)))
    one, posted = loader(device)
    await asyncio.to_thread(device.wait_for, "resuming")
    begin(one)

    def said(count: int) -> None:
        assert [posted.next() for _ in range(count)] == [MessageSaid(3, b"x")] * count
        assert posted.empty

    await asyncio.to_thread(said, MOST)
    one.handle_heard(1)
    await asyncio.to_thread(said, 1)
    one.handle_heard(MOST + 1)
    await asyncio.to_thread(posted.until, lambda event: event == MessageSaid(3, b"x"))
    await asyncio.to_thread(posted.until, lambda event: isinstance(event, LoadProgress))


def begin(one: DeviceLoader) -> None:
    """Its first chunk."""
    one.put(Chunk(ChunkMeta(1, 1, True, 0), memoryview(b"")))


@pytest.mark.parametrize("said", [b"", bytes(limits.DEVICE_MESSAGE_BYTES_MAX + 1)])
async def test_what_can_not_be_said(loader: Any, said: bytes) -> None:
    """Too little and too much are the device's fault."""
    device = Saying(said)
    one, posted = loader(device)
    begin(one)
    failed = await asyncio.to_thread(posted.until, lambda event: isinstance(event, LoadFailed))
    assert isinstance(failed.error, DeviceError)
    assert f"says {len(said)} bytes" in str(failed.error)


async def test_nothing_can_be_said_to_who_does_not_hear(loader: Any) -> None:
    """The device is not given the means."""
    device = Saying()
    loader(device, messages=False)
    await asyncio.to_thread(device.wait_for, "resuming")
    assert device.say is None


# -- over real connections


class Asked(multifd.Owner):
    """At the source. Asks somebody for the right to run, who may say no; remembers its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.error = error
        self.at_release: list[bytes] = []
        self.device: Hearing | None = None

    async def stop(self) -> None:
        self.calls.append("stop")

    async def start(self) -> None:
        self.calls.append("start")

    async def release(self) -> None:
        self.calls.append("release")
        if self.device is not None:
            self.at_release = list(self.device.heard)
        if self.error is not None:
            raise self.error


async def migrate(device: Hearing, there: Saying, owner: Asked) -> tuple[multifd.Report | Exception, list[str]]:
    """A whole migration; and the destination's owner's calls."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    other = Asked()
    owner.device = device
    destination = multifd.Destination(listener, devices=lambda _offered: [there], owner=other)
    receiving = asyncio.create_task(destination.run())
    source = multifd.Source(str(listener.address), devices=[device], owner=owner)
    try:
        report: multifd.Report | Exception = await asyncio.wait_for(source.run(), WAIT_S)
    except multifd.MigrationError as error:
        report = error
    await asyncio.wait({receiving})
    await asyncio.gather(receiving, return_exceptions=True)
    await listener.close()
    return report, other.calls


async def test_all_is_heard_before_the_right_to_run_is_given_up() -> None:
    """Many times what may be under way; then the owner is asked, once, and the destination's starts."""
    said = [number.to_bytes(2, "big") for number in range(5 * MOST)]
    device, there, owner = Hearing(initial=[b"x"]), Saying(*said), Asked()
    report, calls = await migrate(device, there, owner)
    assert isinstance(report, multifd.Report)
    assert report.outcome is multifd.Outcome.COMPLETED
    assert device.heard == owner.at_release == said
    assert owner.calls == ["stop", "release"]
    assert calls == ["start"]


async def test_an_owner_that_keeps_the_right_runs_on() -> None:
    """The session fails with what it raised, and only it runs."""
    device, there, owner = Hearing(initial=[b"x"]), Saying(b"x"), Asked(OSError("somebody said no"))
    report, calls = await migrate(device, there, owner)
    assert isinstance(report, multifd.MigrationFailedError)
    assert "the owner could not give up the right to run: OSError: somebody said no" in str(report)
    assert owner.calls == ["stop", "release", "start"]
    assert calls == []


async def test_a_provider_of_devices_may_refuse() -> None:
    """With its own words, and for what it does not make with the usual ones."""
    listener = await multifd.listen("tcp://127.0.0.1:0")

    def provider(offered: Sequence[m.DeviceInfo]) -> Sequence[multifd.Device]:
        if len(offered) > 1:
            raise multifd.MultifdError("one at most")
        return ()

    receiving = asyncio.create_task(multifd.Destination(listener, devices=provider).run())
    first, second = SmallDevice(), SmallDevice()
    second.instance = 1
    for devices, words in (([first, second], "one at most"), ([first], "no such device at the destination")):
        with pytest.raises(multifd.MigrationRefusedError, match=words):
            await multifd.Source(str(listener.address), devices=devices).run()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await listener.close()
