"""Saving a device: epochs, phases, indices and LAST as the specification has them, and never beyond its credit."""

from __future__ import annotations

import array
import asyncio
from collections.abc import AsyncIterator

import pytest
from posted import WAIT_S, Gate, Posted, SmallDevice

from multifd import limits
from multifd.device.interface import DeviceState, Pending, Phase
from multifd.engine.saver import ChunkSaved, DeviceSaver, Rearmed, SaveFailed
from multifd.errors import DeviceError
from multifd.kinds.chunk import NAME, chunk_cost
from multifd.wire.chunk import ChunkMeta

PLENTY = 1 << 30


class Saving:
    """A saver that runs, with its device and what it posts."""

    def __init__(self, device: SmallDevice, credit: int = PLENTY) -> None:
        self.device = device
        self.posted = Posted()
        self.saver = DeviceSaver(3, device, self.posted)  # type: ignore[arg-type]
        self.saver.start()
        self.saver.grant(credit)

    async def next(self, kind: type) -> object:
        return await asyncio.to_thread(self.posted.until, lambda event: isinstance(event, kind))

    async def chunk(self) -> tuple[ChunkMeta, bytes]:
        """The next chunk."""
        event = await self.next(ChunkSaved)
        assert isinstance(event, ChunkSaved)
        assert event.device == 3
        slot = event.slot
        data = b"".join(slot.buffers)
        assert (slot.kind, slot.owner, slot.length, slot.live) == (NAME, 3, len(data), False)
        return ChunkMeta.parse(slot.meta), data

    async def chunks(self, count: int) -> list[tuple[int, str, bool, int, bytes]]:
        """The next ones: epoch, phase, LAST, index, data."""
        found = []
        for _ in range(count):
            meta, data = await self.chunk()
            found.append((meta.epoch, Phase(meta.phase).name, meta.last, meta.index, data))
        return found


@pytest.fixture
async def savings() -> AsyncIterator[list[Saving]]:
    """Those that a test makes are stopped after it."""
    made: list[Saving] = []
    yield made
    for saving in made:
        assert await asyncio.to_thread(saving.saver.stop)


async def test_all_phases_in_their_order(savings: list[Saving]) -> None:
    """Indices run through, LAST ends each pass, an empty pass is an empty LAST; states are those of the device."""
    saving = Saving(SmallDevice(initial=[b"one", b"two"], live=[b"three"], stop_copy=[]))
    savings.append(saving)
    saving.device.left = Pending(0, 7, 0)
    saving.saver.save_initial(1)
    assert await saving.chunks(3) == [
        (1, "INITIAL", False, 0, b"one"),
        (1, "INITIAL", True, 1, b"two"),
        (1, "LIVE", True, 2, b"three"),
    ]
    await saving.saver.pause()
    assert saving.saver.initial_saved
    assert not await saving.saver.has_rearmed()
    await saving.saver.save_stop_copy()
    assert await saving.chunks(1) == [(1, "STOP_COPY", True, 3, b"")]
    assert saving.device.states == [DeviceState.PRE_COPY, DeviceState.STOP_COPY, DeviceState.STOP]
    assert (saving.saver.chunks, saving.saver.bytes) == (4, 11)


async def test_nothing_dirty_is_no_live_pass(savings: list[Saving]) -> None:
    """But a device that can't say what is dirty is saved again and again."""
    saving = Saving(SmallDevice(initial=[b"one"], live=[b"more"]))
    savings.append(saving)
    saving.saver.save_initial(1)
    await saving.chunks(1)
    await saving.saver.pause()
    assert saving.posted.empty
    saving.device.left = Pending(0, None, None)
    saving.saver.go_on()
    assert (await saving.chunks(1))[0][1] == "LIVE"
    await saving.saver.pause()


async def test_no_chunk_goes_beyond_the_credit(savings: list[Saving]) -> None:
    """Each costs its length and `CHUNK_COST_BYTES`; the next one waits for more, which counts from the start."""
    chunks = [b"x" * 100] * 4
    cost = chunk_cost(100)
    saving = Saving(SmallDevice(initial=chunks), credit=2 * cost + cost - 1)
    savings.append(saving)
    saving.saver.save_initial(1)
    await saving.chunks(2)
    await asyncio.to_thread(saving.device.wait_for, "save-INITIAL-3")  # held back: the third waits for credit
    assert saving.posted.empty
    assert saving.saver.chunks == 2
    saving.saver.grant(1)  # less than before: no effect
    saving.saver.grant(3 * cost)
    assert (await saving.chunks(1))[0][3] == 2
    assert saving.posted.empty
    saving.saver.grant(4 * cost)
    assert (await saving.chunks(1))[0][2] is True


async def test_a_rearm_is_told_once_and_saved_under_its_epoch(savings: list[Saving]) -> None:
    """New initial data in precopy: no live pass until the machine has given the epoch."""
    saving = Saving(SmallDevice(initial=[b"one"], live=[b"more"]))
    savings.append(saving)
    saving.saver.save_initial(1)
    await saving.chunks(1)
    saving.device.left = Pending(5, 5, 0)
    assert await saving.next(Rearmed) == Rearmed(3)
    assert not saving.saver.initial_saved
    saving.device.left = Pending(0, 0, 0)
    saving.saver.save_initial(2)
    assert await saving.chunks(1) == [(2, "INITIAL", True, 1, b"one")]
    await saving.saver.pause()
    assert saving.posted.empty
    assert saving.saver.initial_saved


async def test_a_pass_keeps_its_epoch_to_its_end(savings: list[Saving]) -> None:
    """A new epoch that is given while a live pass runs begins with the next initial pass, not inside the live one."""
    saving = Saving(SmallDevice(initial=[b"one"], live=[b"a", b"b", b"c"]))
    savings.append(saving)
    saving.device.gates["save-LIVE-2"] = gate = Gate()
    saving.device.left = Pending(0, 5, 0)
    saving.saver.save_initial(1)
    await saving.chunks(2)
    await asyncio.to_thread(saving.device.wait_for, "save-LIVE-2")
    saving.saver.save_initial(2)
    gate.set()
    assert await saving.chunks(3) == [
        (1, "LIVE", False, 2, b"b"),
        (1, "LIVE", True, 3, b"c"),
        (2, "INITIAL", True, 4, b"one"),
    ]
    await saving.saver.pause()


async def test_a_rearm_found_when_asked(savings: list[Saving]) -> None:
    """With the owner stopped the device is asked once more; whatever it has, no pass begins by itself."""
    saving = Saving(SmallDevice(initial=[b"one"]))
    savings.append(saving)
    saving.saver.save_initial(1)
    await saving.chunks(1)
    await saving.saver.pause()
    saving.device.left = Pending(1, 0, 0)
    assert await saving.saver.has_rearmed()
    assert saving.posted.empty
    saving.device.left = Pending(0, 0, 0)
    saving.saver.save_initial(2)
    assert await saving.chunks(1) == [(2, "INITIAL", True, 1, b"one")]


async def test_a_rearm_in_stop_copy_is_told(savings: list[Saving]) -> None:
    """It can't be granted, so somebody must hear of it."""
    saving = Saving(SmallDevice(initial=[b"one"], stop_copy=[b"rest"]))
    savings.append(saving)
    saving.saver.save_initial(1)
    await saving.chunks(1)
    await saving.saver.pause()
    saving.device.left = Pending(9, 0, 0)
    await saving.saver.save_stop_copy()
    assert await saving.chunks(1) == [(1, "STOP_COPY", True, 1, b"rest")]
    assert await saving.next(Rearmed) == Rearmed(3)


async def test_pause_lets_the_pass_end(savings: list[Saving]) -> None:
    """It returns when LAST is out, and not before."""
    saving = Saving(SmallDevice(initial=[b"one", b"two"]))
    savings.append(saving)
    saving.device.gates["save-INITIAL-1"] = gate = Gate()
    saving.saver.save_initial(1)
    await asyncio.to_thread(saving.device.wait_for, "save-INITIAL-1")
    pausing = asyncio.create_task(saving.saver.pause())
    await asyncio.sleep(0)
    assert not pausing.done()
    gate.set()
    async with asyncio.timeout(WAIT_S):
        await pausing
    assert [chunk[2] for chunk in await saving.chunks(2)] == [False, True]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such register"), "device nic/0: ValueError: no such register"),
        (DeviceError("nic/0", "its own words"), "device nic/0: its own words"),
    ],
)
async def test_what_a_device_raises_in_precopy_names_it(savings: list[Saving], error: Exception, text: str) -> None:
    """Whatever it is, it fails the session as a `DeviceError`."""
    saving = Saving(SmallDevice(initial=[b"one", b"two"]))
    savings.append(saving)
    saving.device.fails["save-INITIAL-1"] = error
    saving.saver.save_initial(1)
    failed = await saving.next(SaveFailed)
    assert isinstance(failed, SaveFailed)
    assert (failed.device, str(failed.error)) == (3, text)
    assert isinstance(failed.error, DeviceError)
    await saving.saver.pause()  # nothing runs any more


@pytest.mark.parametrize("step", ["stop-copy", "save-STOP_COPY-0", "stop"])
async def test_what_a_device_raises_in_the_stop_names_it(savings: list[Saving], step: str) -> None:
    """Changing state and saving alike."""
    saving = Saving(SmallDevice(stop_copy=[b"rest"]))
    savings.append(saving)
    saving.device.fails[step] = OSError("bus error")
    with pytest.raises(DeviceError, match="device nic/0: OSError: bus error"):
        await saving.saver.save_stop_copy()


async def test_a_chunk_that_is_too_large_is_the_devices_fault(savings: list[Saving]) -> None:
    """At most `CHUNK_BYTES_MAX`; that much is taken."""
    saving = Saving(SmallDevice(stop_copy=[bytes(limits.CHUNK_BYTES_MAX), bytes(limits.CHUNK_BYTES_MAX + 1)]))
    savings.append(saving)
    with pytest.raises(DeviceError, match=f"at most {limits.CHUNK_BYTES_MAX}"):
        await saving.saver.save_stop_copy()
    assert (await saving.chunks(1))[0][2] is False


async def test_a_chunk_may_be_a_view_of_numbers(savings: list[Saving]) -> None:
    """Its length is counted in bytes, whatever its items are."""
    numbers = array.array("d", [1.0, 2.0, 3.0])
    saving = Saving(SmallDevice(stop_copy=[memoryview(numbers)]))
    savings.append(saving)
    await saving.saver.save_stop_copy()
    assert (await saving.chunks(1))[0][4] == numbers.tobytes()
    assert saving.saver.bytes == 24


async def test_resume_drops_a_precopy_that_waits(savings: list[Saving]) -> None:
    """Called off while it waits for credit: the device runs on, and nothing more is saved."""
    saving = Saving(SmallDevice(initial=[b"one", b"two"]), credit=0)
    savings.append(saving)
    saving.saver.save_initial(1)
    await asyncio.to_thread(saving.device.wait_for, "save-INITIAL-1")
    await saving.saver.resume()
    assert saving.device.states == [DeviceState.PRE_COPY, DeviceState.RUNNING]
    saving.saver.grant(PLENTY)
    assert not await saving.saver.has_rearmed()
    assert saving.posted.empty


async def test_resume_drops_a_stop_copy_under_way(savings: list[Saving]) -> None:
    """Called off in the stop: the device is left running, and not stopped by what was still to come."""
    saving = Saving(SmallDevice(stop_copy=[b"a", b"b"]))
    savings.append(saving)
    saving.device.gates["save-STOP_COPY-1"] = gate = Gate()
    stopping = asyncio.create_task(saving.saver.save_stop_copy())
    await asyncio.to_thread(saving.device.wait_for, "save-STOP_COPY-1")
    await saving.saver.resume()
    gate.set()
    await asyncio.gather(stopping, return_exceptions=True)
    assert not await saving.saver.has_rearmed()
    assert saving.device.states == [DeviceState.STOP_COPY, DeviceState.RUNNING]


async def test_a_device_that_can_not_run_on_says_so(savings: list[Saving]) -> None:
    """The error names it: somebody has to look."""
    saving = Saving(SmallDevice(stop_copy=[]))
    savings.append(saving)
    await saving.saver.save_stop_copy()
    saving.device.fails["running"] = RuntimeError("stuck")
    with pytest.raises(DeviceError, match="RuntimeError: stuck"):
        await saving.saver.resume()


async def test_a_device_that_was_never_asked_for_a_state_is_left_alone(savings: list[Saving]) -> None:
    """Called off before its first pass: it has run all the time, and is not told to run."""
    saving = Saving(SmallDevice(initial=[b"one"]))
    savings.append(saving)
    assert saving.saver.started
    await saving.saver.resume()
    assert saving.device.states == []


async def test_a_state_that_failed_is_left_again(savings: list[Saving]) -> None:
    """Whatever came of the change: the device is told to run on."""
    saving = Saving(SmallDevice(initial=[b"one"]))
    savings.append(saving)
    saving.device.fails["pre-copy"] = OSError("half way")
    saving.saver.save_initial(1)
    await saving.next(SaveFailed)
    await saving.saver.resume()
    assert saving.device.states == [DeviceState.RUNNING]
