"""Loading a device: in index order whatever the order of arrival, by the rules for epochs and phases, in its credit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from posted import Gate, Posted, SmallDevice

from multifd import limits
from multifd.device.interface import DeviceState, Phase
from multifd.engine.loader import DeviceLoader, LoadFailed, LoadProgress
from multifd.errors import DeviceError, RemoteProtocolError
from multifd.kinds.chunk import Chunk, chunk_cost
from multifd.wire.chunk import ChunkMeta

CREDIT = 1 << 20
INITIAL, LIVE, STOP_COPY = Phase


def chunk(index: int, phase: Phase, data: bytes = b"", *, epoch: int = 1, last: bool = False) -> Chunk:
    """As it arrives."""
    return Chunk(ChunkMeta(epoch, int(phase), last, index), memoryview(data))


class Loading:
    """A loader that runs, with its device and what it posts."""

    def __init__(self) -> None:
        self.device = SmallDevice()
        self.posted = Posted()
        self.loader = DeviceLoader(3, self.device, credit=CREDIT, events=self.posted)  # type: ignore[arg-type]
        self.loader.start()

    def put(self, *chunks: Chunk) -> None:
        """As the channels' workers do."""
        for each in chunks:
            self.loader.reserve(each.cost)
            self.loader.put(each)

    def until(self, doing: str, **fields: Any) -> LoadProgress:
        """The next progress that says this."""

        def fits(event: Any) -> bool:
            assert isinstance(event, LoadProgress), event
            status = event.status
            return status.doing == doing and all(getattr(status, key) == value for key, value in fields.items())

        found = self.posted.until(fits)
        assert isinstance(found, LoadProgress)
        return found

    def failure(self) -> LoadFailed:
        """How it failed."""
        found = self.posted.until(lambda event: isinstance(event, LoadFailed))
        assert isinstance(found, LoadFailed)
        return found


@pytest.fixture
def loading() -> Iterator[Loading]:
    """One that is stopped after the test."""
    made = Loading()
    yield made
    for gate in made.device.gates.values():
        gate.set()
    assert made.loader.stop()


def test_a_whole_load(loading: Loading) -> None:
    """Every phase with its set-up, the states of the device, and what is told of it."""
    loading.put(chunk(0, INITIAL, b"one"), chunk(1, INITIAL, b"two", last=True))
    first = loading.until("loading")
    assert (first.status.device, first.status.epoch, first.status.ready, first.chunks) == (3, 1, False, 1)
    setting_up = loading.until("set-up")
    assert not setting_up.status.ready
    ready = loading.until("ready", ready=True)
    assert (ready.chunks, ready.status.loaded_bytes, ready.complete) == (2, 6, False)
    loading.put(chunk(2, LIVE, b"more", last=True), chunk(3, STOP_COPY, b"rest", last=True))
    loaded = loading.until("loaded", ready=True)
    assert (loaded.chunks, loaded.complete, loaded.status.loaded_bytes) == (4, True, 14)
    assert loaded.status.load_s > 0
    assert loading.device.loaded == [(INITIAL, b"one"), (INITIAL, b"two"), (LIVE, b"more"), (STOP_COPY, b"rest")]
    assert loading.device.set_ups == [INITIAL, LIVE, STOP_COPY]
    assert loading.device.states == [DeviceState.RESUMING, DeviceState.STOP]


def test_chunks_are_loaded_in_index_order(loading: Loading) -> None:
    """Whatever order the channels deliver them in."""
    chunks = [chunk(index, INITIAL, str(index).encode(), last=index == 99) for index in range(100)]
    shuffled = chunks[:]
    random.Random(7).shuffle(shuffled)
    loading.put(*shuffled)
    loading.until("ready")
    assert [data for _, data in loading.device.loaded] == [str(index).encode() for index in range(100)]


def test_complete_is_told_when_the_device_has_stopped(loading: Loading) -> None:
    """Not while it goes to STOP: the destination must not call it loaded before."""
    loading.device.gates["stop"] = gate = Gate()
    loading.put(chunk(0, INITIAL, last=True), chunk(1, STOP_COPY, last=True))
    loading.device.wait_for("stop")
    while not loading.posted.empty:
        assert not loading.posted.next().complete
    gate.set()
    assert loading.until("loaded").complete


def test_a_rearm_takes_readiness_back(loading: Loading) -> None:
    """The next epoch's initial phase: not ready from its first chunk on, ready after its set-up."""
    loading.put(chunk(0, INITIAL, last=True))
    loading.until("ready", ready=True, epoch=1)
    loading.put(chunk(1, INITIAL, b"x", epoch=2))
    assert loading.until("loading").status.ready is False
    loading.put(chunk(2, INITIAL, b"y", epoch=2, last=True))
    assert loading.until("set-up", epoch=2).status.ready is False
    loading.until("ready", ready=True, epoch=2)
    loading.put(chunk(3, LIVE, epoch=2, last=True))
    loading.until("ready", ready=True, epoch=2)


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(0, LIVE)],
        [chunk(0, STOP_COPY)],
        [chunk(0, INITIAL, epoch=2)],
        [chunk(0, INITIAL), chunk(1, LIVE)],
        [chunk(0, INITIAL), chunk(1, INITIAL, epoch=2)],
        [chunk(0, INITIAL, last=True), chunk(1, LIVE), chunk(2, STOP_COPY)],
        [chunk(0, INITIAL, last=True), chunk(1, LIVE, last=True), chunk(2, INITIAL)],
        [chunk(0, INITIAL, last=True), chunk(1, LIVE), chunk(2, INITIAL, epoch=2)],
        [chunk(0, INITIAL, last=True), chunk(1, LIVE, epoch=2)],
        [chunk(0, INITIAL, last=True), chunk(1, INITIAL, epoch=3)],
        [chunk(0, INITIAL, last=True), chunk(1, INITIAL, epoch=2, last=True), chunk(2, LIVE)],
        [chunk(0, INITIAL, last=True), chunk(1, STOP_COPY), chunk(2, LIVE)],
        [chunk(0, INITIAL, last=True), chunk(1, STOP_COPY), chunk(2, INITIAL, epoch=2)],
    ],
)
def test_epochs_and_phases_follow_the_rules(loading: Loading, chunks: list[Chunk]) -> None:
    """proto/native.md section 3.3: never back, never ahead, nothing begins before LAST; the last of these breaks it."""
    loading.put(*chunks)
    failed = loading.failure()
    assert failed.device == 3
    assert isinstance(failed.error, RemoteProtocolError)
    assert failed.error.where == f"device-chunk {chunks[-1].meta.index} of nic/0"
    assert len(loading.device.loaded) == len(chunks) - 1


@pytest.mark.parametrize("index", [0, 5], ids=["loaded", "waiting"])
def test_an_index_that_comes_twice_is_an_error(loading: Loading, index: int) -> None:
    """Whether the first one is loaded or waits for its turn."""
    loading.put(chunk(0, INITIAL, b"x"), chunk(5, INITIAL, b"x"))
    loading.until("loading")
    loading.put(chunk(index, INITIAL, b"x"))
    error = loading.failure().error
    assert isinstance(error, RemoteProtocolError)
    assert error.where == "device-chunk index"


def test_credit_is_never_exceeded(loading: Loading) -> None:
    """What the source may have under way is bounded, empty chunks among it; loading gives it back."""
    loading.device.gates["load-INITIAL"] = gate = Gate()
    half = bytes(CREDIT // 2 - limits.CHUNK_COST_BYTES)
    loading.put(chunk(0, INITIAL, half), chunk(1, INITIAL, half))
    with pytest.raises(RemoteProtocolError, match="at most 0 bytes of credit"):
        loading.loader.reserve(chunk_cost(0))
    gate.set()
    progress = loading.posted.until(lambda event: event.chunks == 2)
    assert progress.credit == 2 * CREDIT
    loading.loader.reserve(CREDIT)
    with pytest.raises(RemoteProtocolError):
        loading.loader.reserve(1)


def test_a_chunk_that_comes_again_has_paid_already(loading: Loading) -> None:
    """What is reserved for one that did not match is given back."""
    for _ in range(10):
        loading.loader.reserve(CREDIT)
        loading.loader.release(CREDIT)
    loading.put(chunk(0, INITIAL, last=True))
    loading.until("ready")


def test_more_chunks_than_fit_are_taken_together(loading: Loading) -> None:
    """As many empty chunks as the credit allows are taken while the device is busy: channels never wait for it."""
    loading.device.gates["load-INITIAL"] = gate = Gate()
    count = CREDIT // chunk_cost(0)
    loading.put(*(chunk(index, INITIAL, last=index == count - 1) for index in range(count)))
    gate.set()
    assert loading.until("ready").chunks == count


@pytest.mark.parametrize("step", ["resuming", "load-INITIAL", "set-up-INITIAL"])
def test_what_a_device_raises_names_it(step: str) -> None:
    """As a `DeviceError`; a `DeviceError` of its own is passed on as it is."""
    for error, text in (
        (OSError("bus error"), "device nic/0: OSError: bus error"),
        (DeviceError("nic/0", "its own words"), "device nic/0: its own words"),
    ):
        device, posted = SmallDevice(), Posted()
        device.fails[step] = error
        loader = DeviceLoader(3, device, credit=CREDIT, events=posted)  # type: ignore[arg-type]
        loader.start()
        loader.put(chunk(0, INITIAL, last=True))
        failed = posted.until(lambda event: isinstance(event, LoadFailed))
        assert (failed.device, type(failed.error), str(failed.error)) == (3, DeviceError, text)
        assert loader.stop()


async def test_the_device_runs_when_the_owner_starts(loading: Loading) -> None:
    """RUNNING, or an error that names it."""
    loading.put(chunk(0, INITIAL, last=True), chunk(1, STOP_COPY, last=True))
    loading.until("loaded")
    await loading.loader.run_device()
    assert loading.device.states[-1] is DeviceState.RUNNING
    loading.device.fails["running"] = RuntimeError("no")
    with pytest.raises(DeviceError, match="device nic/0: RuntimeError: no"):
        await loading.loader.run_device()


def test_stopping_drops_what_waits(loading: Loading) -> None:
    """A session that ends early does not load the rest; a channel that puts then is told so."""
    loading.device.gates["load-INITIAL"] = Gate()
    loading.put(chunk(0, INITIAL, b"x"), chunk(1, INITIAL, b"x"))
    loading.device.wait_for("load-INITIAL")
    assert loading.loader.stop()
    assert loading.device.loaded == []


@pytest.mark.parametrize("early", [True, False], ids=["that waits already", "that comes later"])
def test_nothing_follows_the_last_chunk(loading: Loading, early: bool) -> None:
    """A chunk after LAST of stop-copy is an error at once, in its turn or beyond it."""
    end = [chunk(0, INITIAL, last=True), chunk(1, STOP_COPY, last=True)]
    if early:
        loading.put(chunk(7, STOP_COPY, b"x"), *end)
    else:
        loading.put(*end)
        loading.until("loaded")
        loading.put(chunk(2, STOP_COPY, b"x"))
    error = loading.failure().error
    assert isinstance(error, RemoteProtocolError)
    assert "nothing after LAST" in str(error)
    assert len(loading.device.loaded) == 2


def test_nothing_follows_the_last_chunk_in_one_batch(loading: Loading) -> None:
    """Not even if it is next."""
    loading.device.gates["load-INITIAL"] = gate = Gate()
    loading.put(chunk(0, INITIAL, last=True))
    loading.device.wait_for("load-INITIAL")
    loading.put(chunk(1, STOP_COPY, last=True), chunk(2, STOP_COPY, b"x"))
    gate.set()
    error = loading.failure().error
    assert isinstance(error, RemoteProtocolError)
    assert "nothing after LAST" in str(error)
