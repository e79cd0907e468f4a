"""Two relays back to back, and one of the ends, the line or a relay that fails: the guest runs once at most, and both
relays say where it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tls_directories
from hop_line import DEADLINE_S, LARGE, MakeHop, hops, running
from qemu_machines import memory_machine, state_of
from scripted_destination import ScriptedDestination, scripted
from scripted_monitor import ScriptedMonitor, monitored

import multifd
from multifd import elements as e
from multifd import limits
from multifd.errors import LocalProtocolError, MigrationError, MultifdError
from multifd.qemu.hop_near import NearRelay
from multifd.qemu.hop_options import NearOptions
from multifd.qemu.listener import QemuListener
from multifd.session import qemu_relay as r
from multifd.stats import Outcome


@pytest.fixture(autouse=True)
def short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here is far away."""
    monkeypatch.setattr(limits, "LAST_WORDS_S", 0.1)


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[MakeHop]:
    async with hops(tmp_path) as make:
        yield make


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[ScriptedDestination]:
    (tmp_path / "there").mkdir()
    async with scripted(tmp_path / "there") as made:
        yield made


@pytest.fixture
async def monitor(tmp_path: Path) -> AsyncIterator[ScriptedMonitor]:
    async with monitored(tmp_path) as made:
        yield made


async def test_the_far_end_is_continued_when_the_source_is_done(
    hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """Not before: when COMMIT is about to be written nobody has said `cont`."""
    seen: list[list[str]] = []
    steps = dict.fromkeys((e.Shut, r.ContinueFar), lambda: seen.append(list(monitor.commands)))
    made = await hop(there.address, running(), out_qmp=monitor.address, steps=steps)
    sent, near, far = await made.ended()
    assert [each for each in seen if "cont" in each] == []
    assert len(seen) == 2
    assert monitor.commands[-2:] == ["cont", "query-status"]
    assert (sent.outcome, near.continued, far.continued) == (Outcome.COMPLETED, True, True)
    assert near.run_state == "running"


async def test_a_paused_guest_stays_paused(hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor) -> None:
    """Whoever paused it at the source will not find it running."""
    made = await hop(there.address, running("paused"), out_qmp=monitor.address)
    _, near, far = await made.ended()
    assert "cont" not in monitor.commands
    assert (near.outcome, far.outcome, far.continued) == (Outcome.COMPLETED, Outcome.COMPLETED, False)
    assert "not continued" in far.notes[0]


async def test_a_far_end_that_does_not_continue_is_in_doubt(
    hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """The guest is there, stopped; nobody else has it. Both relays say so."""
    monitor.after_cont = "internal-error"
    sent, near, far = await (await hop(there.address, running(), out_qmp=monitor.address)).ended()
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.COMPLETED, Outcome.IN_DOUBT, Outcome.IN_DOUBT)
    assert "give it `cont`" in near.cause
    assert "stands still here" in far.cause


async def test_a_far_end_that_does_not_wait_is_refused(
    hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor
) -> None:
    """Before anything is begun."""
    monitor.state = "running"
    made = await hop(there.address, out_qmp=monitor.address)
    with pytest.raises(MultifdError, match="-incoming and -S"):
        await made.far.run()
    assert not there.log


CUTS: dict[str, tuple[type | None, tuple[Outcome, Outcome, Outcome]]] = {
    "live": (None, (Outcome.FAILED, Outcome.FAILED, Outcome.FAILED)),
    "release": (r.Release, (Outcome.FAILED, Outcome.FAILED, Outcome.FAILED)),
    "shut": (e.Shut, (Outcome.COMPLETED, Outcome.IN_DOUBT, Outcome.IN_DOUBT)),
    "continue": (r.ContinueFar, (Outcome.COMPLETED, Outcome.IN_DOUBT, Outcome.IN_DOUBT)),
}
"""Where the line is cut → the step before which, and how source, near and far relay end."""


@pytest.mark.parametrize("cut", CUTS)
async def test_a_line_that_is_cut_leaves_one_guest_at_most(
    hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor, cut: str
) -> None:
    """With a far end that waits: up to SHUT 0 the guest runs on at the source, after it it stands still there."""
    step, outcomes = CUTS[cut]
    there.reads_channels = step is not None
    made = await hop(there.address, running(pages=700 if step is not None else LARGE), out_qmp=monitor.address)

    async def cut_now(element: e.StreamElement) -> None:
        if step is None and isinstance(element, e.BlockList):
            made.line.cut()

    there.on_element = cut_now
    made.near.steps = {step: made.line.cut} if step is not None else {}
    sent, near, far = await made.ended()
    assert (sent.outcome, near.outcome, far.outcome) == outcomes
    assert "cont" not in monitor.commands
    if sent.outcome is Outcome.FAILED:
        assert "SHUT 1" in sent.cause
    else:
        assert "give it `cont`" in near.cause
        assert "`cont` it only if query-migrate at the source says completed" in far.cause


@pytest.mark.parametrize("waits", [True, False])
async def test_a_line_that_is_cut_just_before_the_far_ends_shut(
    hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor, waits: bool
) -> None:
    """The far end has everything: in doubt, unless it waits for us; then it is to be ended."""
    made = await hop(there.address, running(), out_qmp=monitor.address if waits else None)

    async def at_end() -> None:
        made.line.cut()
        await asyncio.wait(made.tasks, return_when=asyncio.FIRST_COMPLETED)

    there.at_end = at_end
    sent, near, far = await made.ended()
    assert near.outcome is far.outcome is (Outcome.FAILED if waits else Outcome.IN_DOUBT)
    assert ("end that QEMU" if waits else "stop one") in near.cause
    assert ("end it" if waits else "stop one") in far.cause
    assert sent.outcome is near.outcome
    assert "cont" not in monitor.commands


async def test_a_far_relay_that_is_lost_at_the_end_without_a_monitor(hop: MakeHop, there: ScriptedDestination) -> None:
    """After SHUT 0 the source is done and the guest runs there: the near relay has nothing to wait for."""
    made = await hop(there.address, running())
    made.near.steps = {e.Shut: made.line.cut}
    sent, near, far = await made.ended()
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED, Outcome.IN_DOUBT)
    assert near.guest == "at the far end"


# -- failures at the ends


async def test_a_refusal_is_passed_on(hop: MakeHop, there: ScriptedDestination) -> None:
    """SHUT 1, as it came."""
    there.at_end = lambda: there.say(e.Shut(1))
    sent, near, far = await (await hop(there.address)).ended()
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.FAILED,) * 3
    assert (near.shut, far.shut) == (1, 1)
    assert "SHUT 1" in sent.cause
    assert "SHUT 1" in near.cause
    assert near.guest == far.guest == "at the source"


@pytest.mark.parametrize("at", [e.BlockList, e.EndOfState])
async def test_a_far_end_that_dies(hop: MakeHop, there: ScriptedDestination, at: type) -> None:
    """The source hears SHUT 1, early or late; nobody is in doubt, as it died by itself."""

    async def die(element: e.StreamElement) -> None:
        if isinstance(element, at):
            await there.die()

    there.on_element = die
    sent, near, far = await (await hop(there.address, memory_machine(state_of(pages=LARGE)))).ended()
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.FAILED,) * 3
    assert "SHUT 1" in sent.cause
    assert "stderr says why" in near.cause + far.cause


async def test_a_far_channel_that_is_lost(hop: MakeHop, there: ScriptedDestination) -> None:
    """Everything is torn down, on both sides."""

    async def cut(element: e.StreamElement) -> None:
        if isinstance(element, e.BlockList):
            await there.wait_log("channel 0", "channel 1")  # main is the first writer
            there.writers[-1].transport.abort()

    there.on_element = cut
    sent, near, far = await (await hop(there.address, memory_machine(state_of(pages=LARGE)))).ended()
    assert (near.outcome, far.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert "channel" in far.cause
    assert "channel" in near.cause
    assert "SHUT 1" in sent.cause
    await there.wait_log("main closed")
    assert "end" not in there.log


async def test_no_qemu_at_the_far_end(hop: MakeHop, tmp_path: Path) -> None:
    """The source's migration fails at once, and the cause comes from the far relay."""
    sent, near, far = await (await hop(f"unix:{tmp_path / 'nobody'}")).ended()
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.FAILED,) * 3
    assert "can't connect to" in far.cause
    assert "can't connect to" in near.cause


async def test_no_far_relay(hop: MakeHop, there: ScriptedDestination) -> None:
    """The near relay says whom it could not reach."""
    made = await hop(there.address)
    made.line.cut()
    made.tasks = [asyncio.create_task(made.source.run()), asyncio.create_task(made.near.run())]
    done = await asyncio.wait_for(asyncio.gather(*made.tasks, return_exceptions=True), DEADLINE_S)
    assert all(isinstance(each, MigrationError) for each in done)
    assert "the far relay" in str(done[1])


async def test_somebody_who_is_no_relay_is_refused(hop: MakeHop, there: ScriptedDestination) -> None:
    """A source of another kind learns why, and the far relay goes on waiting."""
    made = await hop(there.address)
    made.tasks = [asyncio.create_task(made.far.run())]
    options = multifd.SourceOptions(explicit_switchover=False)
    stranger = multifd.Source(made.line.address, devices=[multifd.EmulatedDevice("nic")], options=options)
    with pytest.raises(multifd.MigrationRefusedError, match="not from a relay"):
        await stranger.run()
    assert not made.tasks[0].done()
    assert not there.log


# -- called off


@pytest.mark.parametrize("which", ["near", "far"])
async def test_either_relay_can_call_it_off(hop: MakeHop, there: ScriptedDestination, which: str) -> None:
    """While the guest runs at the source, where it stays; the other relay fails with the cause."""
    there.reads_channels = False
    made = await hop(there.address, memory_machine(state_of(pages=LARGE)))
    made.start()
    await there.wait_log("PING")
    assert (made.near if which == "near" else made.far).cancel("enough of it")
    sent, near, far = await made.ended()
    assert sent.outcome is Outcome.FAILED
    assert near.outcome is (Outcome.CANCELLED if which == "near" else Outcome.FAILED)
    assert far.outcome is Outcome.FAILED
    assert "enough of it" in near.cause
    assert "enough of it" in far.cause
    await there.wait_log("main closed")
    assert "end" not in there.log


@pytest.mark.parametrize("waits", [True, False])
async def test_a_source_that_gives_up_late(
    hop: MakeHop, there: ScriptedDestination, monitor: ScriptedMonitor, waits: bool
) -> None:
    """When the far end has everything: in doubt, unless it waits for us."""
    made = await hop(there.address, running(), out_qmp=monitor.address if waits else None)

    async def at_end() -> None:
        made.source.cancel("too late")
        await asyncio.wait(made.tasks[1:2])

    there.at_end = at_end
    _, near, far = await made.ended()
    assert near.outcome is (Outcome.FAILED if waits else Outcome.IN_DOUBT)
    assert far.outcome is (Outcome.FAILED if waits else Outcome.IN_DOUBT)
    assert "cont" not in monitor.commands


async def test_it_can_not_be_called_off_late(hop: MakeHop, there: ScriptedDestination) -> None:
    """When the far end has everything, its word counts."""
    made = await hop(there.address)
    refused: list[bool] = []

    async def at_end() -> None:
        refused.append(made.near.cancel("too late"))
        await there.commit()

    there.at_end = at_end
    sent, near, far = await made.ended()
    assert refused == [False]
    assert (sent.outcome, near.outcome, far.outcome) == (Outcome.COMPLETED,) * 3
    assert not made.far.cancel("too late")


async def test_options_that_can_not_be() -> None:
    """Refused by name, and TLS belongs to the listener."""
    with pytest.raises(ValueError, match="channels"):
        NearOptions(relay_channels=65)
    with pytest.raises(ValueError, match="codec"):
        NearOptions(codec="zlib")
    listener = QemuListener.open("tcp:127.0.0.1:0")
    with pytest.raises(LocalProtocolError, match="listener"):
        NearRelay(listener, "tcp:h:1", NearOptions(tls=tls_directories.server()))
    await listener.close()
