"""When and in which order a source's owner is called, and what becomes of a call that fails."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from harness.migration import Setup, bounded, migration
from harness.proxy import drop
from harness.ready_scripts import device
from harness.remote import DestinationHost

import multifd
from multifd import Outcome
from multifd import messages as m
from multifd.device.emulated_options import Step
from multifd.errors import OwnerError
from multifd.session import actions as a
from multifd.session import source as machine
from multifd.session.states import SourceState

pytestmark = pytest.mark.usefixtures("nothing_left")
SMALL = multifd.EmulatedOptions(initial_bytes=4096)
HANGS = multifd.EmulatedOptions(initial_bytes=4096, hang_at=Step.SET_UP)
PATIENCE_S = 0.05  # how long a call waits for another one to come in at the same time


async def out_of_breath() -> None:
    """For an owner's `at_start`."""
    raise RuntimeError("out of breath")


@bounded
async def test_owner_that_cannot_start_again_on_the_return_to_precopy(host: DestinationHost) -> None:
    """The session fails with that as its cause: it does not copy on, and complete, for an owner that stands still."""
    setup = Setup(here={"x": device(rearm_at_stop=1)})
    async with migration(host, setup) as it:
        it.owner.at_start = out_of_breath
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "the owner to start again: RuntimeError: out of breath" in report.cause
        error = it.task.exception()
        assert error is not None
        assert isinstance(error.__cause__, OwnerError)
        assert it.owner.faults == []
        await it.check_aborted_there("out of breath")


@bounded
async def test_devices_are_stopped_again_there(host: DestinationHost) -> None:
    """When the destination's owner can't be started its devices do not run: the source's do."""
    async with migration(host, Setup(here={"x": device(), "y": device()}, owner_there="fails")) as it:
        await it.begin()
        assert (await it.report()).outcome is Outcome.FAILED
        await it.check_runs_on()
        there = await it.check_aborted_there("told to fail")
        assert {name: each["state"] for name, each in there.devices.items()} == {"x": "stop", "y": "stop"}


@bounded
async def test_downtime_lasts_until_the_owner_runs_again(
    host: DestinationHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the answer to OUTCOME says so: starting the owner again is a part of it."""
    words = machine._WAITS[SourceState.COMMITTED][1]
    monkeypatch.setitem(machine._WAITS, SourceState.COMMITTED, (0.05, words))
    slow_s = 0.05

    async def start_slowly() -> None:
        await asyncio.sleep(slow_s)

    async with migration(host, Setup(here={"x": device()})) as it:
        it.proxy.rule(m.Commit, drop)
        it.proxy.rule(m.Aborted, drop)
        it.owner.at_start = start_slowly
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert list(report.downtime_parts_ms)[-2:] == ["ask_outcome", "start_again"]
        assert report.downtime_parts_ms["start_again"] >= slow_s * 1e3
        assert report.downtime_ms is not None
        assert report.downtime_ms >= report.downtime_parts_ms["start_again"]


class Throttled(multifd.Owner):
    """Takes its time to slow down: until it is asked to stop, or for `patience_s`."""

    def __init__(self, patience_s: float | None) -> None:
        self.calls: list[str] = []
        self.asked = asyncio.Event()
        self._stopping = asyncio.Event()
        self._patience_s = patience_s

    async def throttle(self, level: float) -> None:
        self.asked.set()
        try:
            if level:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience_s):
                        await self._stopping.wait()
        finally:
            self.calls.append(f"throttled to {level:g}")

    async def stop(self) -> None:
        self._stopping.set()
        self.calls.append("stopped")


async def migrate(owner: Throttled, *, call_off: bool) -> multifd.Report:
    """A migration whose owner is asked to slow down when precopy begins; if it is to be called off, after that."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    loop = asyncio.get_running_loop()
    there = multifd.EmulatedDevice("x", HANGS if call_off else SMALL, state=multifd.DeviceState.STOP)
    receiving = asyncio.create_task(multifd.Destination(listener, devices=[there]).run())

    class Here(multifd.EmulatedDevice):
        async def set_state(self, state: multifd.DeviceState) -> None:
            await super().set_state(state)
            if state is multifd.DeviceState.PRE_COPY:
                loop.call_soon_threadsafe(throttle)
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(owner.asked.wait(), loop))

    def throttle() -> None:
        assert source._run is not None
        source._run._throttle(a.Throttle(0.5))

    source = multifd.Source(listener.address, devices=[Here("x", SMALL)], owner=owner)
    sending = asyncio.create_task(source.run())
    await owner.asked.wait()
    if call_off:
        assert source.cancel()
    try:
        return await sending
    except multifd.MigrationError as error:
        return error.report
    finally:
        await asyncio.gather(receiving, return_exceptions=True)
        await listener.close()


@bounded
async def test_throttling_is_over_before_the_owner_is_stopped() -> None:
    """Calls of an owner do not overlap."""
    owner = Throttled(PATIENCE_S)
    report = await migrate(owner, call_off=False)
    assert report.outcome is Outcome.COMPLETED
    assert owner.calls == ["throttled to 0.5", "stopped"]


@bounded
async def test_the_last_throttling_is_to_full_speed() -> None:
    """Whatever call is under way when a migration is called off has ended before the owner is set to full speed."""
    owner = Throttled(None)
    report = await migrate(owner, call_off=True)
    assert report.outcome is Outcome.CANCELLED
    assert owner.calls == ["throttled to 0.5", "throttled to 0"]
