"""Messages and answers that never come, on connections that live: every wait ends, and says what was waited for."""

from __future__ import annotations

import pytest
from harness import stages
from harness.migration import Setup, bounded, migration
from harness.proxy import drop
from harness.ready_scripts import device
from harness.remote import DestinationHost
from harness.stages import Stage

from multifd import Outcome, SourceOptions, limits
from multifd import messages as m
from multifd.session import source as machine
from multifd.session.states import SourceState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]
X = {"x": device()}


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (stages.hello, "the destination's HELLO"),
        (stages.inventory, "the destination's VERDICT"),
        (stages.attach, "the data channels to attach"),
        (stages.switching, "the owner to stop"),
        (stages.loading, "LOADED"),
    ],
)
@bounded
async def test_source_waits_no_longer(
    host: DestinationHost, stage: Stage, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state of the source that something must end is ended by its deadline, and the source runs on."""
    state = SourceState(stage.__name__.replace("_", "-"))
    monkeypatch.setitem(machine._WAITS, state, (0.3, machine._WAITS[state][1]))
    async with migration(host, Setup(here=X)) as it:
        await stage(it)
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert report.cause.startswith("gave up after 0.3 s waiting for")
        assert words in report.cause
        await it.check_runs_on()


@bounded
async def test_owner_that_does_not_stop(host: DestinationHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner whose stop does not return is given up after a deadline of its own, and started again."""
    monkeypatch.setattr(limits, "OWNER_DEADLINE_S", 0.2)
    async with migration(host, Setup(here=X)) as it:
        await stages.switching(it)
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert report.cause == "gave up after 0.2 s waiting for the owner to stop"
        await it.check_runs_on()


@pytest.mark.parametrize(
    ("message_type", "state", "words"),
    [
        (m.Inventory, "inventory", "the source's INVENTORY"),
        (m.StopCopy, "precopy", ""),
        (m.End, "stop-copy", "the source to send anything"),
        (m.Commit, "loaded", "the source's COMMIT"),
    ],
)
@bounded
async def test_destination_waits_no_longer(host: DestinationHost, message_type: type, state: str, words: str) -> None:
    """A message of the source that is lost is missed by the destination, which tells the source why it gave up."""
    async with migration(host, Setup(here=X, waits_there={state: 0.3})) as it:
        it.proxy.rule(message_type, drop)
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert words in report.cause
        await it.check_runs_on()


@bounded
async def test_stall(host: DestinationHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that are not settled for too long are a stall, which is told with their number."""
    monkeypatch.setattr(limits, "STALL_DEADLINE_S", 0.3)
    async with migration(host, Setup(here=X)) as it:
        it.proxy.rule(m.Settled, drop)
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "the destination to settle" in report.cause
        await it.check_runs_on()
        await it.check_aborted_there("the destination to settle")


@bounded
async def test_round_that_never_ends(host: DestinationHost) -> None:
    """A SYNC_DONE that is lost keeps the source from switching, until the migration's own deadline."""
    setup = Setup(here=X, options=SourceOptions(channels=2, deadline_s=0.3))
    async with migration(host, setup) as it:
        it.proxy.rule(m.SyncDone, drop)
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "a round is under way" in report.cause
        await it.check_runs_on()


@bounded
async def test_owner_there_takes_for_ever(host: DestinationHost) -> None:
    """An owner whose start does not return at the destination is given up after a deadline, and the source goes on."""
    setup = Setup(here=X, owner_there="waits", limits_there={"OWNER_DEADLINE_S": 0.2})
    async with migration(host, setup) as it:
        await it.begin()
        report = await it.report()
        assert report.outcome is Outcome.FAILED
        assert "the owner did not start in time" in report.cause
        await it.check_runs_on()
        await it.check_aborted_there("the owner did not start in time")
