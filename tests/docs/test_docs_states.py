"""docs/guides/devices.md: the engine calls devices in the states of its two tables, and in no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import product

import pytest
from docs_markdown import ROOT, table

import multifd
from multifd import DeviceState, Pending, Phase

GUIDE = ROOT / "docs" / "guides" / "devices.md"
SCENARIOS = ("plain", "rearm", "cancelled", "not-started")
Triple = tuple[str, str, str]
"""Owner, migration, device."""


def rows(side: str) -> list[set[Triple]]:
    """The rows of one side's table, each as all triples that it stands for."""
    return [
        set(product(*(cell.split(", ") for cell in row[:3])))  # type: ignore[arg-type]  # three cells
        for row in table(GUIDE, f"owner ({side})")
    ]


@dataclass
class Watch:
    """What was seen at one side: the triple of every call."""

    migration: Callable[[], str]
    owner_runs: bool
    device: DeviceState
    seen: list[Triple] = field(default_factory=list)

    def look(self) -> None:
        owner = "runs" if self.owner_runs else "stopped"
        self.seen.append((owner, self.migration(), self.device.name))


class WatchedOwner(multifd.Owner):
    """Runs `at_stop` when it has been stopped. May not be able to start."""

    def __init__(self, watch: Watch, at_stop: Callable[[], None], *, fails: bool = False) -> None:
        self.watch = watch
        self.at_stop = at_stop
        self.fails = fails

    async def stop(self) -> None:
        self.watch.look()
        self.watch.owner_runs = False
        self.watch.look()
        self.at_stop()

    async def start(self) -> None:
        self.watch.look()
        if self.fails:
            raise RuntimeError("told to fail")
        self.watch.owner_runs = True
        self.watch.look()


class WatchedDevice(multifd.Device):
    """Has a little of everything; re-arms when `rearmed` is set."""

    id = "watched"
    explicit_switchover = True

    def __init__(self, watch: Watch, at_stop_copy: Callable[[], None]) -> None:
        self.watch = watch
        self.at_stop_copy = at_stop_copy
        self.rearmed = False

    async def set_state(self, state: DeviceState) -> None:
        self.watch.device = state
        self.watch.look()

    def pending(self) -> Pending:
        self.watch.look()
        return Pending(initial=int(self.rearmed), dirty=1)

    async def save(self, phase: Phase) -> AsyncIterator[bytes]:
        self.watch.look()
        if phase is Phase.INITIAL:
            self.rearmed = False
        if phase is Phase.STOP_COPY:
            self.at_stop_copy()
        yield b"state"
        self.watch.look()

    async def load(self, phase: Phase, data: memoryview) -> None:
        self.watch.look()

    async def set_up(self, phase: Phase) -> None:
        self.watch.look()


async def migrate(scenario: str) -> tuple[Watch, Watch]:
    """One migration: `plain`, with a `rearm` at its first stop, `cancelled` during stop-copy, or `not-started`."""
    loop = asyncio.get_running_loop()
    listener = await multifd.listen("tcp://127.0.0.1:0")
    here = Watch(lambda: source._run.session.state.value if source._run else "", True, DeviceState.RUNNING)
    there = Watch(
        lambda: destination._active.session.state.value if destination._active else "", False, DeviceState.STOP
    )
    rearms = iter([scenario == "rearm"])

    async def cancel() -> None:
        source.cancel()

    def at_stop_copy() -> None:
        if scenario == "cancelled":
            asyncio.run_coroutine_threadsafe(cancel(), loop).result()

    device = WatchedDevice(here, at_stop_copy)
    source = multifd.Source(
        listener.address,
        devices=[device],
        owner=WatchedOwner(here, lambda: setattr(device, "rearmed", next(rearms, False))),
    )
    destination = multifd.Destination(
        listener,
        devices=[WatchedDevice(there, lambda: None)],
        owner=WatchedOwner(there, lambda: None, fails=scenario == "not-started"),
    )
    await asyncio.gather(source.run(), destination.run(), return_exceptions=True)
    await listener.close()
    return here, there


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_devices_are_called_in_these_states_only(scenario: str) -> None:
    """Every call finds owner, migration and device in one of the combinations of the tables."""
    here, there = await migrate(scenario)
    assert set(here.seen) - set().union(*rows("source")) == set()
    assert set(there.seen) - set().union(*rows("destination")) == set()


@pytest.mark.slow
async def test_every_row_is_seen() -> None:
    """No row of the tables is there for nothing; whether there is a call after an abort is a matter of luck."""
    watches = [await migrate(scenario) for scenario in SCENARIOS]
    for number, side in enumerate(("source", "destination")):
        seen = {triple for pair in watches for triple in pair[number].seen}
        unseen = [row for row in rows(side) if not row & seen]
        assert [row for row in unseen if ("stopped", "aborted", "STOP") not in row] == []
