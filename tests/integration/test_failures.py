"""Migrations that go wrong: the cause is told at both ends, and the source runs on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from harness import stages
from harness.devices import GatedDevice
from harness.migration import CHUNK_KIND, RAM_KIND, Migration, Setup, bounded, migration
from harness.ready_scripts import device
from harness.remote import DestinationHost
from harness.stages import Stage, stage_name

from multifd import Outcome, Report, SourceOptions, limits
from multifd import messages as m
from multifd.device import DeviceState
from multifd.device.emulated_options import Step
from multifd.engine.options import DEVICE_CREDIT_BYTES_MIN
from multifd.limits import KIB
from multifd.wire.slots import SlotHeader

pytestmark = pytest.mark.usefixtures("nothing_left")


@bounded
async def test_owner_that_cannot_stop(host: DestinationHost) -> None:
    """An owner whose stop raises fails the migration, and runs on."""

    async def fail() -> None:
        raise RuntimeError("busy as a bee")

    async with migration(host, Setup(here={"x": device()})) as it:
        it.owner.at_stop = fail
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "busy as a bee" in report.cause
        await it.check_runs_on()
        await it.check_aborted_there("busy as a bee")


@bounded
async def test_owner_that_cannot_start_again(host: DestinationHost) -> None:
    """If the owner can't be started again after a failure, the report has both."""

    async def fail() -> None:
        raise RuntimeError("out of breath")

    async with migration(host, Setup(here={"x": device()}, owner_there="fails")) as it:
        it.owner.at_start = fail
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "told to fail" in report.cause
        assert "out of breath" in report.cause
        assert {each.state for each in it.devices.values()} == {DeviceState.RUNNING}


@bounded
async def test_owner_that_cannot_start_there(host: DestinationHost) -> None:
    """An owner whose start raises at the destination is told as ABORTED, and the source's goes on."""
    async with migration(host, Setup(here={"x": device()}, owner_there="fails")) as it:
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "told to fail" in report.cause
        assert it.states[-1] == "failed"
        assert it.destination.starts == 1
        await it.check_runs_on()
        await it.check_aborted_there("told to fail")
        assert len(it.owner.spells.all) == 2


STAGES = [stages.precopy, stages.stop_copy, stages.loading]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=stage_name)
@bounded
async def test_destination_killed(host: DestinationHost, stage: Stage) -> None:
    """A destination that is killed before COMMIT fails the migration, and the source runs on."""
    async with migration(host, Setup(here={"x": device()})) as it:
        await stage(it)
        it.destination.kill()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "main connection" in report.cause
        await it.check_runs_on()


@pytest.mark.parametrize("stage", STAGES, ids=stage_name)
@bounded
async def test_main_cut(host: DestinationHost, stage: Stage) -> None:
    """Losing main before COMMIT is a failure at both ends, and nobody asks for the outcome."""
    async with migration(host, Setup(here={"x": device()})) as it:
        await stage(it)
        it.proxy.cut_main()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "main connection" in report.cause
        assert it.proxy.questions == 0
        await it.check_runs_on()
        await it.check_aborted_there("main connection")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES[:2], ids=stage_name)
@bounded
async def test_channel_cut(host: DestinationHost, stage: Stage) -> None:
    """Losing a data channel is a failure that names the channel at both ends."""
    async with migration(host, Setup(here={"x": device()})) as it:
        await stage(it)
        it.proxy.cut_channel(2)
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "channel 2" in report.cause
        await it.check_runs_on()
        await it.check_aborted_there("channel 2")


@bounded
async def test_no_data_channel_can_be_opened(host: DestinationHost) -> None:
    """A destination that can't be reached any more after its VERDICT is a failure that says so."""
    async with migration(host, Setup(here={"x": device()})) as it:

        def stop_listening(verdict: m.Message) -> tuple[m.Message]:
            it.proxy.stop_listening()
            return (verdict,)

        it.proxy.rule(m.Verdict, stop_listening)
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "can't connect" in report.cause
        await it.check_runs_on()
        await it.destination.logged("can't connect")


@bounded
async def test_device_that_runs_again_is_left_alone(host: DestinationHost) -> None:
    """A device that was saving when the migration failed saves no more, and stays in RUNNING, once it runs again."""
    async with migration(host, Setup(here={"x": device()})) as it:
        await stages.stop_copy(it)
        x = it.devices["x"]
        assert isinstance(x, GatedDevice)

        async def go_on() -> None:
            assert x.state is DeviceState.RUNNING
            x.gate.set()
            pause_s = 0.03  # long against what a device that goes on would take to end its phase
            await asyncio.sleep(pause_s)

        it.owner.at_start = go_on
        it.proxy.cut_main()
        assert (await it.report()).outcome is Outcome.FAILED
        assert x.passed == 0
        await it.check_runs_on()


# -- corruption --------------------------------------------------------------------------------------------------------


def first(condition: Callable[[SlotHeader], bool]) -> Callable[[SlotHeader], bool]:
    """Spoil the first slot that fits."""
    done = False

    def spoil(header: SlotHeader) -> bool:
        nonlocal done
        if done or not condition(header):
            return False
        done = True
        return True

    return spoil


async def spoiled(it: Migration, spoil: Callable[[SlotHeader], bool]) -> Report:
    """Migrate with some slots spoiled."""
    it.proxy.spoil = spoil
    await it.begin()
    return await it.report()


@bounded
async def test_mismatch_of_live_memory(host: DestinationHost) -> None:
    """A live slot that changed on its way is counted as a mismatch and sent in a later round."""
    async with migration(host, Setup(here={"x": device()})) as it:
        it.owner.busy = False  # or it might make a mismatch of its own
        report = await spoiled(it, first(lambda header: header.live))
        there = await it.check_completed()
        assert (report.mismatches, there.report["mismatches"]) == (1, 1)
        assert (report.corrupt_resends, there.report["corrupt_resends"]) == (0, 0)
        assert report.rounds >= 2


@pytest.mark.parametrize("kind", [RAM_KIND, CHUNK_KIND])
@bounded
async def test_corruption_that_is_repaired(host: DestinationHost, kind: int) -> None:
    """A slot that nobody writes to and that changed on its way is sent again, once, and the migration completes."""
    async with migration(host, Setup(here={"x": device()})) as it:
        report = await spoiled(it, first(lambda header: header.kind == kind and not header.live))
        there = await it.check_completed()
        assert (report.corrupt_resends, there.report["corrupt_resends"]) == (1, 1)
        assert it.proxy.count(m.Resend) == 1 + report.mismatches


@pytest.mark.parametrize("kind", [RAM_KIND, CHUNK_KIND])
@bounded
async def test_corruption_that_stays(host: DestinationHost, kind: int) -> None:
    """A link that spoils every slot after the stop, or every chunk, is given up after a bounded number of repairs."""
    async with migration(host, Setup(here={"x": device()})) as it:
        report = await spoiled(it, lambda header: header.kind == kind and not header.live)
        assert report.outcome is Outcome.FAILED
        assert "corrupted on their way" in report.cause
        assert 1 < it.proxy.count(m.Resend) <= limits.CORRUPT_RESENDS_MAX + 3
        await it.check_runs_on()
        await it.check_aborted_there("corrupted on their way")


# -- several devices ---------------------------------------------------------------------------------------------------


def ready_devices(it: Migration) -> list[int]:
    """Numbers of devices that said so, as they did."""
    return [status.device for status in it.proxy.of(m.DeviceStatus) if status.ready]


@bounded
async def test_one_slow_load_holds_up_nobody(host: DestinationHost) -> None:
    """Of eight devices one does not load at all, with more data than its credit: memory and all others get on."""
    names = [f"d{number}" for number in range(8)]
    here = {name: device(initial_bytes=1300 * KIB, chunk_bytes=130 * KIB) for name in names}
    there = here | {"d3": device(initial_bytes=1300 * KIB, hang_at=Step.LOAD_INITIAL)}
    setup = Setup(
        here=here,
        there=there,
        options_there={"device_credit": DEVICE_CREDIT_BYTES_MIN},
        options=SourceOptions(channels=2),
    )
    async with migration(host, setup) as it:
        await it.begin()
        others = {*range(1, 9)} - {4}
        await it.proxy.until(lambda: set(ready_devices(it)) == others, "all other devices to be ready")
        rounds = it.proxy.count(m.SyncDone)
        await it.proxy.saw(m.SyncDone, times=rounds + 2)
        slow = [status for status in it.proxy.of(m.DeviceStatus) if status.device == 4]
        assert [status.loaded_bytes for status in slow] == []
        assert it.proxy.count(m.SwitchoverReady) == 0
        await it.waits_for("device d3/0")
        assert it.source.cancel()
        assert (await it.report()).outcome is Outcome.CANCELLED
        await it.check_runs_on()


@pytest.mark.slow
@bounded
async def test_eight_devices_complete(host: DestinationHost) -> None:
    """Eight devices, one slow to load, all arrive whole, through credit that is much smaller than their data."""
    here = {f"d{number}": device(initial_bytes=1300 * KIB, chunk_bytes=130 * KIB) for number in range(8)}
    there = here | {"d3": device(initial_bytes=1300 * KIB, load_s_per_mib=0.2)}
    async with migration(
        host, Setup(here=here, there=there, options_there={"device_credit": DEVICE_CREDIT_BYTES_MIN})
    ) as it:
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.COMPLETED, report.cause
        await it.check_completed()
        ready = ready_devices(it)
        assert set(ready[: ready.index(4)]) == {*range(1, 9)} - {4}, "the slow one was not the last to be ready"
