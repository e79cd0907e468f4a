"""Devices that fail or hang at every step, on either side: who did it is told at both ends, and the source runs on."""

from __future__ import annotations

import pytest
from harness.devices import RaisingDevice, StickingDevice
from harness.migration import Migration, Setup, bounded, migration
from harness.ready_scripts import device
from harness.remote import DestinationHost

from multifd import EmulatedOptions, Outcome, Report, SourceOptions, limits
from multifd.device import DeviceState
from multifd.device.emulated_options import Step
from multifd.session import source as machine
from multifd.session.states import SourceState

pytestmark = pytest.mark.usefixtures("nothing_left")
Y = device()
AT_SOURCE = [
    Step.STATE_PRE_COPY, Step.SAVE_INITIAL, Step.SAVE_LIVE, Step.STATE_STOP_COPY, Step.SAVE_STOP_COPY, Step.STATE_STOP,
]  # fmt: skip
AT_DESTINATION = [
    Step.STATE_RESUMING, Step.LOAD_INITIAL, Step.SET_UP, Step.LOAD_LIVE, Step.LOAD_STOP_COPY, Step.STATE_STOP,
    Step.STATE_RUNNING,
]  # fmt: skip


def ends(here: EmulatedOptions, there: EmulatedOptions, **others: object) -> Setup:
    """X is odd at one end, Y well at both."""
    return Setup(here={"x": here, "y": Y}, there={"x": there, "y": Y}, **others)  # type: ignore[arg-type]


async def failed(it: Migration) -> Report:
    """Migrate, and fail because of X."""
    await it.begin()
    report = await it.report()
    assert report.outcome is Outcome.FAILED
    assert "x/0" in report.cause, report.cause
    await it.check_aborted_there("x/0")
    return report


@pytest.mark.parametrize("step", AT_SOURCE)
@bounded
async def test_device_fails_at_the_source(host: DestinationHost, step: Step) -> None:
    """A device that fails at the source is named at both ends; all that can run again do."""
    async with migration(host, ends(device(fail_at=step), device())) as it:
        report = await failed(it)
        # X can't run again if the way there is the step at which it fails, and then that is told as well.
        stuck = step is Step.STATE_STOP
        assert ("and then" in report.cause) == stuck
        await it.check_runs_on(stuck=["x"] if stuck else [])


@bounded
async def test_device_raises_what_it_likes(host: DestinationHost) -> None:
    """Whatever a device raises names it at both ends."""
    async with migration(host, ends(device(), device())) as it:
        it.replace_device(RaisingDevice("x", it.setup.here["x"]))
        report = await failed(it)
        assert "device x/0: ZeroDivisionError: no INITIAL" in report.cause
        await it.check_runs_on()


@bounded
async def test_device_between_two_states(host: DestinationHost) -> None:
    """A device that is on its way into PRE_COPY when the migration fails is taken back to RUNNING."""
    async with migration(host, ends(device(), device())) as it:
        x = StickingDevice("x", it.setup.here["x"])
        it.replace_device(x)
        await it.begin()
        await it.proxy.until(
            lambda: x.state is DeviceState.PRE_COPY and it.chunks_of("y") > 1, "both devices in PRE_COPY"
        )
        it.proxy.cut_main()
        assert (await it.report()).outcome is Outcome.FAILED
        await it.check_runs_on()


@bounded
async def test_device_that_cannot_run_again(host: DestinationHost) -> None:
    """If a device can't run again after a failure the report has both, and the owner is started all the same."""
    setup = ends(device(fail_at=Step.STATE_RUNNING), device(fail_at=Step.LOAD_STOP_COPY))
    async with migration(host, setup) as it:
        report = await failed(it)
        assert f"told to fail at {Step.LOAD_STOP_COPY.value}" in report.cause
        assert f"told to fail at {Step.STATE_RUNNING.value}" in report.cause
        await it.check_runs_on(stuck=["x"])


@pytest.mark.parametrize("step", AT_DESTINATION)
@bounded
async def test_device_fails_at_the_destination(host: DestinationHost, step: Step) -> None:
    """A device that fails at the destination is named at both ends, also after COMMIT; the source runs on."""
    async with migration(host, ends(device(), device(fail_at=step))) as it:
        report = await failed(it)
        assert f"told to fail at {step.value}" in report.cause
        assert it.destination.starts == 0
        await it.check_runs_on()


HANGS_HERE = [
    (Step.STATE_PRE_COPY, "initial data"),
    (Step.SAVE_INITIAL, "initial data"),
    (Step.SAVE_LIVE, ""),
    (Step.STATE_STOP_COPY, ""),
    (Step.SAVE_STOP_COPY, ""),
    (Step.STATE_STOP, ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "words"), HANGS_HERE)
@bounded
async def test_device_hangs_at_the_source(
    host: DestinationHost, step: Step, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that never returns from a step is waited for no longer than a deadline, and then is named."""
    short(monkeypatch)
    setup = ends(device(hang_at=step), device(), options=SourceOptions(channels=2, deadline_s=0.5))
    async with migration(host, setup) as it:
        report = await failed(it)
        assert words in report.cause
        await it.check_runs_on(stuck=["x"] if step is Step.STATE_STOP else [])


@pytest.mark.slow
@pytest.mark.parametrize("step", AT_DESTINATION)
@bounded
async def test_device_hangs_at_the_destination(
    host: DestinationHost, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that never returns from a step at the destination is waited for no longer than a deadline."""
    short(monkeypatch)
    options = SourceOptions(channels=2, deadline_s=0.5)
    there = {"OWNER_DEADLINE_S": 0.2}
    async with migration(host, ends(device(), device(hang_at=step), options=options, limits_there=there)) as it:
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert it.destination.starts == 0
        await it.check_runs_on()
        await it.check_aborted_there()


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of the source that a hanging device runs into."""
    for state, seconds in [(SourceState.SWITCHING, 0.3), (SourceState.LOADING, 0.3), (SourceState.COMMITTED, 2.0)]:
        monkeypatch.setitem(machine._WAITS, state, (seconds, machine._WAITS[state][1]))
    monkeypatch.setattr(limits, "STALL_DEADLINE_S", 0.4)
    monkeypatch.setattr(limits, "OWNER_DEADLINE_S", 0.25)
