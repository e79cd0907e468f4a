"""Asking again what became of COMMIT, by somebody who does not wait for the answer."""

from __future__ import annotations

import asyncio

import pytest
from harness import end_scripts as end
from harness.migration import Setup, bounded, check_nothing_runs, migration
from harness.proxy import cut_off_after, drop
from harness.ready_scripts import device
from harness.remote import DestinationHost

from multifd import Outcome, limits
from multifd import messages as m

pytestmark = pytest.mark.usefixtures("nothing_left")


@bounded
async def test_ask_again_can_be_cancelled(host: DestinationHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question ends with it, the session stays in doubt, and may be asked about once more."""
    monkeypatch.setattr(limits, "OUTCOME_PAUSE_S", 0.02)
    async with migration(host, Setup(here={"x": device()})) as it:
        it.proxy.rule(m.Commit, cut_off_after)
        await end.in_doubt(it)
        it.proxy.refusing = False
        it.proxy.rule(m.AskOutcome, drop)
        asking = asyncio.create_task(it.source.ask_again())
        await it.proxy.saw(m.AskOutcome)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        check_nothing_runs()
        assert it.source.report is not None
        assert it.source.report.outcome is Outcome.IN_DOUBT
        assert "was cancelled" in it.source.report.cause
        it.proxy.rule(m.AskOutcome, lambda message: (message,))
        assert (await end.ask_again(it)).outcome is Outcome.COMPLETED
        await it.check_completed()
