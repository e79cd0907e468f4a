"""Migrations that go wrong, between two processes: the cause is told at both ends, and the source runs on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from harness.devices import GatedDevice
from harness.migration import Migration, Setup, bounded, migration
from harness.proxy import Way
from harness.ready_scripts import device
from harness.remote import DestinationHost

from multifd import Outcome, Phase, Report, SourceOptions, limits
from multifd import messages as m
from multifd.device.emulated_options import Step
from multifd.limits import KIB
from multifd.wire.slots import SlotHeader

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]
RAM, CHUNK = 1, 3
"""Numbers of kinds in the source's INVENTORY: ram, zero, device-chunk."""


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


async def in_precopy(it: Migration) -> None:
    """Begin, and stay in precopy."""
    it.proxy.hold(Way.TO_SOURCE, m.SwitchoverReady)
    await it.begin()
    await it.proxy.saw(m.SwitchoverReady)
    await it.proxy.saw(m.SyncDone)


async def in_stop_copy(it: Migration) -> None:
    """Begin, and stay in stop-copy."""
    it.replace_device(GatedDevice("x", it.setup.here["x"], phase=Phase.STOP_COPY))
    await it.begin()
    await it.reached("stop-copy")


async def in_loading(it: Migration) -> None:
    """Begin, and hold LOADED back."""
    it.proxy.hold(Way.TO_SOURCE, m.Loaded)
    await it.begin()
    await it.proxy.saw(m.Loaded)


STAGES = [in_precopy, in_stop_copy, in_loading]


@pytest.mark.parametrize("stage", STAGES)
@bounded
async def test_destination_killed(host: DestinationHost, stage: Callable[[Migration], asyncio.Future[None]]) -> None:
    """A destination that is killed before COMMIT fails the migration, and the source runs on."""
    async with migration(host, Setup(here={"x": device()})) as it:
        await stage(it)
        it.destination.kill()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "main connection" in report.cause
        await it.check_runs_on()


@pytest.mark.parametrize("stage", STAGES)
@bounded
async def test_main_cut(host: DestinationHost, stage: Callable[[Migration], asyncio.Future[None]]) -> None:
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


@pytest.mark.parametrize("stage", STAGES[:2])
@bounded
async def test_channel_cut(host: DestinationHost, stage: Callable[[Migration], asyncio.Future[None]]) -> None:
    """Losing a data channel is a failure that names the channel at both ends."""
    async with migration(host, Setup(here={"x": device()})) as it:
        await stage(it)
        it.proxy.cut_channel(2)
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "channel 2" in report.cause
        await it.check_runs_on()
        await it.check_aborted_there("channel 2")


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


@pytest.mark.parametrize("kind", [RAM, CHUNK])
@bounded
async def test_corruption_that_is_repaired(host: DestinationHost, kind: int) -> None:
    """A slot that nobody writes to and that changed on its way is sent again, once, and the migration completes."""
    async with migration(host, Setup(here={"x": device()})) as it:
        report = await spoiled(it, first(lambda header: header.kind == kind and not header.live))
        there = await it.check_completed()
        assert (report.corrupt_resends, there.report["corrupt_resends"]) == (1, 1)
        assert it.proxy.count(m.Resend) == 1 + report.mismatches


@pytest.mark.parametrize("kind", [RAM, CHUNK])
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


@bounded
async def test_one_slow_load_holds_up_nobody(host: DestinationHost) -> None:
    """Of eight devices one does not load at all, with more data than its credit: memory and all others get on."""
    names = [f"d{number}" for number in range(8)]
    here = {name: device(initial_bytes=300 * KIB, chunk_bytes=30 * KIB) for name in names}
    there = here | {"d3": device(initial_bytes=300 * KIB, hang_at=Step.LOAD_INITIAL)}
    setup = Setup(here=here, there=there, options_there={"device_credit": 64 * KIB}, options=SourceOptions(channels=2))
    async with migration(host, setup) as it:
        await it.begin()
        for number in {*range(1, 9)} - {4}:
            await it.proxy.saw(m.DeviceStatus, where=lambda status, number=number: status.device == number and status.ready)
        rounds = it.proxy.count(m.SyncDone)
        await it.proxy.saw(m.SyncDone, times=rounds + 2)
        slow = [status for status in it.proxy.of(m.DeviceStatus) if status.device == 4]
        assert [status.loaded_bytes for status in slow] == []
        assert it.proxy.count(m.SwitchoverReady) == 0
        await it.waits_for("device d3/0")
        assert it.source.cancel()
        assert (await it.report()).outcome is Outcome.CANCELLED
        await it.check_runs_on()


@bounded
async def test_eight_devices_complete(host: DestinationHost) -> None:
    """Eight devices, one slow to load, all arrive whole, through credit that is much smaller than their data."""
    here = {f"d{number}": device(initial_bytes=300 * KIB, chunk_bytes=30 * KIB) for number in range(8)}
    there = here | {"d3": device(initial_bytes=300 * KIB, load_s_per_mib=0.5)}
    async with migration(host, Setup(here=here, there=there, options_there={"device_credit": 64 * KIB})) as it:
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.COMPLETED, report.cause
        await it.check_completed()
        ready = [status.device for status in it.proxy.of(m.DeviceStatus) if status.ready]
        assert set(ready[: ready.index(4)]) == {*range(1, 9)} - {4}, "the slow one was not the last to be ready"
