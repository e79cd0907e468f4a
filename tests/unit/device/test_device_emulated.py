"""Emulated devices: what they save, how they grow and re-arm, and that they fail and hang where they are told to."""

from __future__ import annotations

import asyncio

import pytest

from multifd.device import Device, DeviceState, EmulatedDevice, EmulatedOptions, Pending, Phase, Step
from multifd.device import emulated as module
from multifd.errors import DeviceError
from multifd.limits import CHUNK_BYTES_MAX, MIB

SMALL = EmulatedOptions(initial_bytes=5000, live_bytes=3000, stop_copy_bytes=2000, chunk_bytes=1024)


class ManualTime:
    """Stands in for the module's `time`: moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualTime:
    manual = ManualTime()
    monkeypatch.setattr(module, "time", manual)
    return manual


async def saved(device: Device, phase: Phase) -> list[bytes]:
    return [bytes(chunk) async for chunk in device.save(phase)]


async def move(source: EmulatedDevice, destination: EmulatedDevice, *phases: Phase) -> None:
    """One pass of each phase from source to destination, set-up included."""
    for phase in phases:
        async for chunk in source.save(phase):
            await destination.load(phase, memoryview(chunk))
        await destination.set_up(phase)


async def pair(options: EmulatedOptions) -> tuple[EmulatedDevice, EmulatedDevice]:
    """A source in PRE_COPY and a destination in RESUMING."""
    source = EmulatedDevice("nic", options)
    destination = EmulatedDevice("nic", options, state=DeviceState.STOP)
    await source.set_state(DeviceState.PRE_COPY)
    await destination.set_state(DeviceState.RESUMING)
    return source, destination


async def test_digests_agree_after_passes_and_re_arms() -> None:
    """A destination that loads every chunk in order has the source's digest, re-arms and repeated passes included."""
    source, destination = await pair(SMALL)
    await move(source, destination, Phase.INITIAL, Phase.LIVE)
    source.rearm()
    await move(source, destination, Phase.INITIAL, Phase.LIVE)
    await source.set_state(DeviceState.STOP_COPY)
    await move(source, destination, Phase.STOP_COPY)
    assert source.saved_bytes == destination.loaded_bytes == 5000 + 3000 + 5000 + 2000
    assert source.digest == destination.digest
    assert (source.rearms, destination.set_ups) == (1, 2)


@pytest.mark.parametrize("fault", ["order", "bit", "phase", "cut", "lost"])
async def test_digest_sees_every_difference(fault: str) -> None:
    """Chunks in another order, with another bit, of another phase, cut elsewhere or lost give another digest."""
    source, destination = await pair(SMALL)
    chunks = [(Phase.INITIAL, chunk) for chunk in await saved(source, Phase.INITIAL)]
    first, second = chunks[0][1], chunks[1][1]
    changed = {
        "order": [chunks[1], chunks[0], *chunks[2:]],
        "bit": [(Phase.INITIAL, bytes([first[0] ^ 1]) + first[1:]), *chunks[1:]],
        "phase": [(Phase.LIVE, first), *chunks[1:]],
        "cut": [(Phase.INITIAL, first + second), *chunks[2:]],
        "lost": chunks[1:],
    }[fault]
    for phase, chunk in changed:
        await destination.load(phase, memoryview(chunk))
    assert source.digest != destination.digest


async def test_empty_chunks_do_not_count() -> None:
    """An engine may mark the end of a pass with an empty chunk: the digest stays the same."""
    source, destination = await pair(SMALL)
    await move(source, destination, Phase.INITIAL)
    await destination.load(Phase.INITIAL, memoryview(b""))
    assert source.digest == destination.digest


async def test_content_is_seeded() -> None:
    """Two devices alike save the same bytes; another seed, id or instance gives others."""
    devices = [
        EmulatedDevice("nic", SMALL),
        EmulatedDevice("nic", SMALL),
        EmulatedDevice("nic", EmulatedOptions(initial_bytes=5000, chunk_bytes=1024, seed=1)),
        EmulatedDevice("gpu", SMALL),
        EmulatedDevice("nic", SMALL, instance=1),
    ]
    contents = []
    for device in devices:
        await device.set_state(DeviceState.PRE_COPY)
        contents.append(tuple(await saved(device, Phase.INITIAL)))
    assert contents[0] == contents[1]
    assert len(set(contents)) == 4


async def test_chunks_have_the_size_asked_for() -> None:
    """A pass is cut into chunks of `chunk_bytes` and one rest, and every pass of a phase that has nothing is empty."""
    source, _ = await pair(SMALL)
    assert [len(chunk) for chunk in await saved(source, Phase.INITIAL)] == [1024, 1024, 1024, 1024, 904]
    assert await saved(source, Phase.INITIAL) == []


async def test_pending_falls_chunk_by_chunk() -> None:
    """What was yielded is not pending any more."""
    source, _ = await pair(SMALL)
    seen = [source.pending().initial async for _chunk in source.save(Phase.INITIAL)]
    assert seen == [3976, 2952, 1928, 904, 0]
    assert source.pending() == Pending(initial=0, dirty=3000, stop_copy=2000)


async def test_live_state_grows_while_the_owner_runs(clock: ManualTime) -> None:
    """Live state grows from PRE_COPY on at the rate asked for, stands still while the owner does, and ends in
    STOP_COPY.
    """
    source = EmulatedDevice("nic", EmulatedOptions(live_bytes=100, dirty_bytes_per_s=1000))
    clock.now += 5
    await source.set_state(DeviceState.PRE_COPY)
    assert source.pending().dirty == 100
    clock.now += 2
    assert source.pending().dirty == 2100
    assert sum(map(len, await saved(source, Phase.LIVE))) == 2100
    clock.now += 1
    source.owner_stopped()
    clock.now += 10
    assert source.pending().dirty == 1000
    source.owner_started()
    clock.now += 1
    await source.set_state(DeviceState.STOP_COPY)
    clock.now += 10
    assert source.pending() == Pending(initial=0, dirty=0, stop_copy=2000)
    assert sum(map(len, await saved(source, Phase.STOP_COPY))) == 2000


async def test_growth_during_a_pass_is_for_the_next_one(clock: ManualTime) -> None:
    """A live pass ends although the state grows as fast as it is saved."""
    source = EmulatedDevice("nic", EmulatedOptions(live_bytes=4096, dirty_bytes_per_s=1024, chunk_bytes=1024))
    await source.set_state(DeviceState.PRE_COPY)
    chunks = 0
    async for _chunk in source.save(Phase.LIVE):
        clock.now += 1
        chunks += 1
    assert chunks == 4
    assert source.pending().dirty == 4096


async def test_re_arms_come_at_their_times(clock: ManualTime) -> None:
    """Each time in `rearm_after_s` brings initial data again, counted from the end of the first initial phase."""
    source = EmulatedDevice("nic", EmulatedOptions(initial_bytes=500, rearm_after_s=(3.0, 1.0)))
    await source.set_state(DeviceState.PRE_COPY)
    clock.now += 100
    assert source.pending().initial == 500
    await saved(source, Phase.INITIAL)
    assert source.pending().initial == 0
    for seconds, rearms in ((1.0, 1), (2.0, 2), (50.0, 2)):
        clock.now += seconds
        left = source.pending().initial
        assert (left, source.rearms) == ((500 if seconds < 50 else 0), rearms)
        await saved(source, Phase.INITIAL)
        assert source.pending().initial == 0


async def test_re_arms_when_the_owner_stops() -> None:
    """`rearm_at_stop` stops of the owner each re-arm, the next one does not."""
    source, _ = await pair(EmulatedOptions(initial_bytes=500, rearm_at_stop=2))
    for expected in (500, 500, 0):
        await saved(source, Phase.INITIAL)
        source.owner_stopped()
        assert source.pending().initial == expected
        source.owner_started()


async def test_a_re_arm_stays_visible_in_stop_copy() -> None:
    """A device that re-arms at the last moment still says so in STOP_COPY, where an engine has to fail."""
    source, _ = await pair(SMALL)
    await saved(source, Phase.INITIAL)
    source.rearm()
    await source.set_state(DeviceState.STOP_COPY)
    assert source.pending() == Pending(initial=5000, dirty=0, stop_copy=5000)


async def test_what_precopy_left_goes_in_the_stop() -> None:
    """STOP_COPY saves everything that no precopy pass took, the first initial phase included."""
    source = EmulatedDevice("nic", SMALL)
    await source.set_state(DeviceState.STOP_COPY)
    assert source.states == [DeviceState.RUNNING, DeviceState.STOP, DeviceState.STOP_COPY]
    assert sum(map(len, await saved(source, Phase.STOP_COPY))) == 10000


async def test_estimates_lie_by_the_factor() -> None:
    """`wrong_estimate` bends all that a device says is left, but never hides a re-arm."""
    source, _ = await pair(
        EmulatedOptions(initial_bytes=5000, live_bytes=3000, stop_copy_bytes=2000, wrong_estimate=0.1)
    )
    assert source.pending() == Pending(initial=500, dirty=300, stop_copy=200)
    assert source.expected_bytes == 1000
    liar, _ = await pair(EmulatedOptions(initial_bytes=5000, live_bytes=3000, wrong_estimate=0))
    assert liar.pending() == Pending(initial=1, dirty=0, stop_copy=0)
    await saved(liar, Phase.INITIAL)
    assert liar.pending().initial == 0


async def test_estimates_can_be_unknown() -> None:
    """With `unknown_estimate` nothing is said but a re-arm."""
    source, _ = await pair(EmulatedOptions(initial_bytes=500, unknown_estimate=True))
    assert source.expected_bytes is None
    assert source.pending() == Pending(None, None, None)
    await saved(source, Phase.INITIAL)
    assert source.pending() == Pending(0, None, None)
    source.rearm()
    assert source.pending() == Pending(500, None, None)


async def test_a_second_migration_begins_anew() -> None:
    """After a migration that was called off the next one sends everything, and counts from zero."""
    source, _ = await pair(SMALL)
    first = await saved(source, Phase.INITIAL)
    digest = source.digest
    await source.set_state(DeviceState.STOP_COPY)
    await source.set_state(DeviceState.RUNNING)
    await source.set_state(DeviceState.PRE_COPY)
    assert source.saved_bytes == 0
    assert await saved(source, Phase.INITIAL) == first
    assert source.digest == digest


@pytest.mark.parametrize("kind", ["fail", "hang"])
@pytest.mark.parametrize("step", list(Step))
async def test_fails_and_hangs_where_it_is_told(step: Step, kind: str) -> None:
    """Every step can fail with a `DeviceError` that names it, or hang until it is cancelled; the others still work."""
    told = EmulatedOptions(
        initial_bytes=5000,
        live_bytes=3000,
        stop_copy_bytes=2000,
        chunk_bytes=1024,
        fail_at=step if kind == "fail" else None,
        hang_at=step if kind == "hang" else None,
    )
    source = EmulatedDevice("nic", told)
    destination = EmulatedDevice("nic", told)

    async def migrate() -> None:
        await source.set_state(DeviceState.PRE_COPY)
        await destination.set_state(DeviceState.RESUMING)
        await move(source, destination, Phase.INITIAL, Phase.LIVE)
        await source.set_state(DeviceState.STOP_COPY)
        await move(source, destination, Phase.STOP_COPY)
        await source.set_state(DeviceState.STOP)
        await destination.set_state(DeviceState.RUNNING)

    if kind == "fail":
        with pytest.raises(DeviceError, match=f"device nic/0: told to fail at {step}$"):
            await migrate()
    else:
        task = asyncio.create_task(migrate())
        for _turn in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_save_fails_after_its_first_chunk() -> None:
    """A failing save has data under way, which is the harder case for an engine."""
    source, _ = await pair(EmulatedOptions(live_bytes=5000, chunk_bytes=1024, fail_at=Step.SAVE_LIVE))
    chunks = aiter(source.save(Phase.LIVE))
    assert len(await anext(chunks)) == 1024
    with pytest.raises(DeviceError, match="save-live"):
        await anext(chunks)


async def test_takes_its_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving and loading wait in proportion to each chunk, set-up its own time and only after the initial phase."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    source, destination = await pair(
        EmulatedOptions(
            initial_bytes=MIB + MIB // 2, chunk_bytes=MIB, save_s_per_mib=2, load_s_per_mib=8, setup_s=77, live_bytes=1
        )
    )
    await move(source, destination, Phase.INITIAL)
    assert waited == [2, 8, 1, 4, 77]
    await move(source, destination, Phase.LIVE)
    assert 77 not in waited[5:]


async def test_refuses_calls_in_the_wrong_state() -> None:
    """Saving and loading are refused in any state but theirs."""
    device = EmulatedDevice("nic", SMALL)
    with pytest.raises(DeviceError, match="called in state running, not in pre-copy or pre-copy-p2p"):
        await saved(device, Phase.INITIAL)
    with pytest.raises(DeviceError, match="called in state running, not in stop-copy"):
        await saved(device, Phase.STOP_COPY)
    with pytest.raises(DeviceError, match="called in state running, not in resuming"):
        await device.load(Phase.INITIAL, memoryview(b"x"))
    await device.set_state(DeviceState.STOP_COPY)
    with pytest.raises(DeviceError, match="no way"):
        await device.set_state(DeviceState.PRE_COPY)
    assert device.state is DeviceState.STOP_COPY


def test_tells_what_the_options_say() -> None:
    """Token, explicit switchover and the declared time are the options'."""
    device = EmulatedDevice("nic", EmulatedOptions(token="a/b;2", explicit_switchover=False, declared_stop_s=0.5))
    assert (device.name, device.token, device.explicit_switchover, device.stop_seconds) == (
        "nic/0",
        "a/b;2",
        False,
        0.5,
    )
    assert device.check("a/b;2", 1) is None
    assert device.check("a/b;1", 1) == "token 'a/b;1' at the source, 'a/b;2' here"


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_bytes": -1},
        {"dirty_bytes_per_s": -0.5},
        {"chunk_bytes": 0},
        {"chunk_bytes": CHUNK_BYTES_MAX + 1},
        {"rearm_after_s": (1.0,)},
        {"rearm_at_stop": 1},
    ],
)
def test_refuses_options_that_make_no_sense(wrong: dict[str, object]) -> None:
    """Negative numbers, chunks out of bounds and re-arms without initial data are refused at once."""
    with pytest.raises(ValueError, match=r"negative|chunk_bytes|re-arm"):
        EmulatedOptions(**wrong)  # type: ignore[arg-type]


def test_re_arming_needs_initial_data() -> None:
    """A device without initial data cannot re-arm."""
    with pytest.raises(ValueError, match="no initial data"):
        EmulatedDevice("nic").rearm()
