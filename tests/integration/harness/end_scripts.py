"""What happens around COMMIT and STARTED: scripts for rows of the switchover table.

Each runs a migration and returns the source's last report.
"""

from __future__ import annotations

import asyncio

from harness.migration import Migration, reported
from harness.proxy import Cut, Rule, Way, cut_before, drop
from harness.ready_scripts import Script
from multifd import Outcome, Report
from multifd import messages as m
from multifd.messages import Fate


def lost(message_type: type, rule: Rule) -> Script:
    """A message of the end is lost in some way; the source asks what became of its COMMIT."""

    async def script(it: Migration) -> Report:
        it.proxy.rule(message_type, rule)
        await it.begin()
        report = await it.report()
        assert it.proxy.questions >= 1
        return report

    return script


def disturbed(message_type: type, rule: Rule) -> Script:
    """Something is done to a message of the end, and changes nothing."""

    async def script(it: Migration) -> Report:
        it.proxy.rule(message_type, rule)
        await it.begin()
        return await it.report()

    return script


async def answered_on_main_alone(it: Migration) -> Report:
    """COMMIT and the answer to OUTCOME are lost, but main lives and tells that the destination gave up."""
    it.proxy.rule(m.Commit, drop)
    it.proxy.rule(m.OutcomeIs, drop)
    await it.begin()
    return await it.report()


async def late_commit(it: Migration) -> Report:
    """COMMIT arrives when the destination has answered ABORTED: it starts nothing."""
    commit = it.proxy.hold(Way.TO_DESTINATION, m.Commit)

    def answer(message: m.Message) -> tuple[m.Message]:
        commit.release()
        return (message,)

    it.proxy.rule(m.OutcomeIs, answer)
    await it.begin()
    report = await it.report()
    assert it.proxy.of(m.OutcomeIs)[0].outcome is Fate.ABORTED
    await it.destination.ended()
    assert it.destination.starts == 0
    return report


async def slow_to_start(it: Migration) -> Report:
    """The destination's owner starts later than STARTED is awaited: the answer comes when it is known."""
    it.proxy.rule(m.Started, drop)
    await it.begin()
    await it.proxy.saw(m.AskOutcome)
    assert it.proxy.count(m.OutcomeIs) == 0
    it.destination.order("go on")
    report = await it.report()
    assert it.proxy.of(m.OutcomeIs)[0].outcome is Fate.STARTED
    return report


async def in_doubt(it: Migration) -> Report:
    """Run until the source is in doubt: it has given up its owner, says so, and says how to go on."""
    await it.begin()
    report = await it.report()
    assert report.outcome is Outcome.IN_DOUBT
    assert "in doubt" in report.cause
    assert not it.owner.spells.running
    return report


async def ask_again(it: Migration) -> Report:
    """Ask once more."""
    return await reported(asyncio.create_task(it.source.ask_again()))


async def resolve(it: Migration, *, started: bool) -> Report:
    """The operator's word."""
    return await reported(asyncio.create_task(it.source.resolve(started=started)))


def cut_off(message_type: type, rule: Rule) -> Script:
    """Main is cut and nobody can connect, until the link is there again: then asking again tells."""

    async def script(it: Migration) -> Report:
        it.proxy.rule(message_type, rule)
        await in_doubt(it)
        assert (await ask_again(it)).outcome is Outcome.IN_DOUBT
        assert not it.owner.spells.running
        it.proxy.refusing = False
        return await ask_again(it)

    return script


def killed_after_commit(*, started: bool) -> Script:
    """The destination's process is killed when COMMIT has come to it; the operator says what became of it."""

    async def script(it: Migration) -> Report:
        def kill(_message: m.Message) -> tuple[Cut]:
            it.destination.kill()
            return (Cut.AND_SERVE,)

        it.proxy.rule(m.Commit, kill)
        await in_doubt(it)
        assert (await ask_again(it)).outcome is Outcome.IN_DOUBT
        return await resolve(it, started=started)

    return script


async def unknown_there(it: Migration) -> Report:
    """Whoever answers does not know the session, which settles nothing; the next answer does."""
    it.proxy.rule(m.Started, cut_before)
    it.proxy.rule(m.OutcomeIs, lambda _message: (m.OutcomeIs(Fate.UNKNOWN, "no such session"),))
    report = await in_doubt(it)
    assert "does not know the session" in report.cause
    it.proxy.rule(m.OutcomeIs, lambda message: (message,))
    return await ask_again(it)
