"""What happens around SWITCHOVER_READY: scripts for rows of the switchover table.

Each runs a migration and returns the source's report.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from harness.devices import GatedDevice
from harness.migration import Migration
from harness.proxy import Way, twice
from multifd import EmulatedOptions, Phase, Report
from multifd import messages as m

Script = Callable[[Migration], Awaitable[Report]]
READY_OF = "READY of epoch"


async def run_through(it: Migration) -> Report:
    """Nothing happens."""
    await it.begin()
    return await it.report()


async def ready_is_waited_for(it: Migration) -> Report:
    """READY is held back: the source waits for it, and for nothing else."""
    ready = it.proxy.hold(Way.TO_SOURCE, m.SwitchoverReady)
    await it.begin()
    await it.proxy.saw(m.SwitchoverReady)
    await it.waits_for("READY")
    assert (it.owner.stops, it.proxy.count(m.StopCopy)) == (0, 0)
    ready.release()
    report = await it.report()
    assert it.proxy.of(m.SwitchoverReady) == [m.SwitchoverReady({1: 1})]
    assert report.switchover[0].set_up_ms > 0
    stopped = it.owner.spells.all[0].ended
    assert stopped is not None
    assert stopped > it.proxy.at(m.SwitchoverReady), "the owner was stopped before the set-up was over"
    return report


async def no_ready_is_sent(it: Migration) -> Report:
    """Nobody takes part: the source waits for nobody, and nobody says anything."""
    report = await run_through(it)
    assert it.proxy.count(m.SwitchoverReady) == 0
    assert [each for each in report.switchover if each.took_part] == []
    assert it.proxy.of(m.StopCopy) == [m.StopCopy({})]
    return report


async def only_x_takes_part(it: Migration) -> Report:
    """READY and STOP_COPY speak of X alone."""
    report = await run_through(it)
    assert {each.name: each.took_part for each in report.switchover} == {"x/0": True, "y/0": False}
    assert it.proxy.of(m.SwitchoverReady) == [m.SwitchoverReady({1: 1})]
    assert it.proxy.of(m.StopCopy) == [m.StopCopy({1: 1})]
    return report


async def refused_before_data(it: Migration) -> Report:
    """Both ends say why, no data channel is opened, and the destination goes on listening."""
    report = await run_through(it)
    words = it.proxy.of(m.Verdict)[0].refusals[0].cause if it.proxy.count(m.Verdict) else "explicit-switchover"
    await it.destination.logged(words)
    assert (it.proxy.data_channels, it.proxy.slots) == (0, [])
    assert it.destination.end is None
    assert not it.destination.gone
    return report


async def rearmed_with_ready_under_way(it: Migration) -> Report:
    """X re-arms while its READY is under way: that one counts for nothing, and the next is waited for."""
    ready = it.proxy.hold(Way.TO_SOURCE, m.SwitchoverReady)
    await it.begin()
    await it.proxy.saw(m.SwitchoverReady)
    it.devices["x"].rearm()
    await it.proxy.saw(m.DeviceStatus, where=lambda status: status.epoch == 2)
    it.proxy.inject(Way.TO_SOURCE, m.SwitchoverReady({1: 1}))
    await it.waits_for("READY")
    await it.proxy.saw(m.SwitchoverReady, where=lambda message: message.epochs == {1: 2})
    await it.waits_for("READY")
    assert it.owner.stops == 0
    ready.release()
    report = await it.report()
    assert it.proxy.of(m.StopCopy) == [m.StopCopy({1: 2})]
    assert report.switchover[0].epoch == 2
    return report


async def rearmed_after_ready(it: Migration) -> Report:
    """X re-arms when its READY is accepted and only Z stands in the way: X is waited for again."""
    z = GatedDevice("z", it.setup.here["z"], phase=Phase.INITIAL)
    it.replace_device(z)
    await it.begin()
    await it.proxy.saw(m.SwitchoverReady)
    await it.waits_for("device z/0: initial data")
    later = it.proxy.hold(Way.TO_SOURCE, m.SwitchoverReady)
    it.devices["x"].rearm()
    await it.proxy.saw(m.SwitchoverReady, times=2)
    z.gate.set()
    await it.waits_for("READY")
    assert it.owner.stops == 0
    later.release()
    report = await it.report()
    assert it.proxy.of(m.StopCopy) == [m.StopCopy({1: 2})]
    return report


async def returned_once(it: Migration) -> Report:
    """X re-arms when the owner is stopped: it is started again, and the next switchover is under epoch 2."""
    report = await run_through(it)
    assert report.switchover_returns == 1
    assert it.owner.stops == 2
    assert len(it.owner.spells.all) == 2
    assert it.proxy.of(m.StopCopy) == [m.StopCopy({1: 2})]
    return report


async def others_go_on_after_a_return(it: Migration) -> Report:
    """After a return Y, which did not re-arm, has its live passes as before."""
    await it.begin()
    await it.proxy.saw(m.SwitchoverReady)
    later = it.proxy.hold(Way.TO_SOURCE, m.SwitchoverReady)
    await it.proxy.saw(m.SwitchoverReady, times=2)
    assert it.owner.stops == 1
    before = it.chunks_of("y")
    await it.proxy.until(lambda: it.chunks_of("y") > before + 3, "live chunks of Y after the return")
    later.release()
    report = await it.report()
    assert report.switchover_returns == 1
    return report


async def rearmed_in_stop_copy(it: Migration) -> Report:
    """X re-arms when it is too late for that."""
    x = GatedDevice("x", it.setup.here["x"], phase=Phase.STOP_COPY)
    it.replace_device(x)
    await it.begin()
    await it.reached("stop-copy")
    x.rearm()
    x.gate.set()
    return await it.report()


def injected(epochs: Mapping[int, int]) -> Script:
    """The destination's READY is replaced by one with these epochs."""

    async def script(it: Migration) -> Report:
        it.proxy.rule(m.SwitchoverReady, lambda _message: (m.SwitchoverReady(epochs),))
        return await run_through(it)

    return script


async def injected_where_unused(it: Migration) -> Report:
    """READY comes though explicit switchover is not in use."""
    z = GatedDevice("x", it.setup.here["x"], phase=Phase.INITIAL)
    it.replace_device(z)
    await it.begin()
    await it.reached("precopy")
    it.proxy.inject(Way.TO_SOURCE, m.SwitchoverReady({1: 1}))
    return await it.report()


async def ready_twice(it: Migration) -> Report:
    """READY comes a second time, at once and after the decision."""
    it.proxy.rule(m.SwitchoverReady, twice)
    loaded = it.proxy.hold(Way.TO_SOURCE, m.Loaded)
    await it.begin()
    await it.proxy.saw(m.Loaded)
    it.proxy.inject(Way.TO_SOURCE, m.SwitchoverReady({1: 1}))
    loaded.release()
    return await it.report()


def device(**options: object) -> EmulatedOptions:
    """An emulated device with a little of everything."""
    return EmulatedOptions(**{"initial_bytes": 70_000, "live_bytes": 3000, "stop_copy_bytes": 9000, **options})  # type: ignore[arg-type]
