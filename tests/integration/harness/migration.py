"""One migration between this process and another, with a proxy between them, and what must be true after it."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import xxhash

from harness.job import BLOCK, PAGE_BYTES, Job, make_devices
from harness.owner import WritingOwner
from harness.proxy import Proxy
from harness.remote import WAIT_S, DestinationHost, RemoteDestination, There
from multifd import (
    BufferBlock,
    EmulatedDevice,
    EmulatedOptions,
    MigrationError,
    MultifdError,
    Outcome,
    Report,
    SoftwareTracker,
    Source,
    SourceOptions,
)
from multifd.device.interface import DeviceState

MEMORY_BYTES = 1024 * 1024
TEST_DEADLINE_S = 20.0
RAM_KIND, CHUNK_KIND = 1, 3
"""Numbers of kinds in the source's INVENTORY if it has memory and devices: ram, zero, device-chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Both ends. `there` is `here` unless something else is said."""

    here: Mapping[str, EmulatedOptions] = field(default_factory=dict)
    there: Mapping[str, EmulatedOptions] | None = None
    options: SourceOptions = field(default_factory=lambda: SourceOptions(channels=2))
    options_there: Mapping[str, Any] = field(default_factory=dict)
    owner_there: str = "starts"
    limits_there: Mapping[str, float] = field(default_factory=dict)
    waits_there: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = MEMORY_BYTES

    def job(self) -> Job:
        """The destination's part."""
        return Job(
            memory_bytes=self.memory_bytes,
            devices=self.here if self.there is None else self.there,
            options=self.options_there,
            owner=self.owner_there,
            limits=self.limits_there,
            waits=self.waits_there,
        )


class Migration:
    """What a test has in hand. `devices` is by id and may be replaced before `begin`."""

    def __init__(self, setup: Setup, destination: RemoteDestination, proxy: Proxy, address: str) -> None:
        self.setup = setup
        self.destination = destination
        self.proxy = proxy
        self.address = address
        self.memory = bytearray(random.Random(7).randbytes(setup.memory_bytes))
        self.devices = {each.id: each for each in make_devices(setup.here, DeviceState.RUNNING)}
        self.states: list[str] = []
        """States of the source, as its progress showed them."""
        self.waiting_for: tuple[str, ...] = ()
        self._tracker = SoftwareTracker(len(self.memory), PAGE_BYTES)
        self.owner = WritingOwner(self.memory, self._tracker, [])
        self.source: Source
        self.task: asyncio.Task[Report]
        self._watching: asyncio.Task[None] | None = None
        self._progressed = asyncio.Event()

    def replace_device(self, device: EmulatedDevice) -> None:
        """Have this one in place of one with the same id."""
        self.devices[device.id] = device

    async def begin(self) -> None:
        """Start the owner, and the migration as a task."""
        devices = list(self.devices.values())
        self.owner._devices = devices
        await self.owner.start()
        block = BufferBlock(BLOCK, self.memory, page_size=PAGE_BYTES, tracker=self._tracker)
        self.source = Source(
            self.address,
            blocks=[block] if self.memory else [],
            devices=devices,
            owner=self.owner,
            options=self.setup.options,
        )
        self._watching = asyncio.create_task(self._watch())
        self.task = asyncio.create_task(self.source.run())

    async def _watch(self) -> None:
        async for progress in self.source.progress():
            if not self.states or self.states[-1] != progress.state:
                self.states.append(progress.state)
            self.waiting_for = progress.waiting_for
            self._progressed.set()

    async def reached(self, state: str) -> None:
        """Until the source's progress shows this state."""
        await self.progressed(lambda: bool(self.states) and self.states[-1] == state, f"state {state}")

    async def waits_for(self, what: str) -> None:
        """Until the source's progress shows that it waits, and for nothing that is not told with `what`."""

        def told() -> bool:
            return bool(self.waiting_for) and all(what in each for each in self.waiting_for)

        await self.progressed(told, f"waiting for {what}")

    async def progressed(self, condition: Any, what: str) -> None:
        """Until progress shows something."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    self._progressed.clear()
                    await self._progressed.wait()
        except TimeoutError:
            text = f"{what}; states {self.states}, waiting for {self.waiting_for}; saw {self.proxy.story()}"
            raise AssertionError(f"waited {WAIT_S} s for {text}") from None

    def chunks_of(self, device: str) -> int:
        """How many of its chunks have come by."""
        number = list(self.devices).index(device) + 1
        return sum((slot.kind, slot.owner) == (CHUNK_KIND, number) for slot in self.proxy.slots)

    async def report(self) -> Report:
        """The source's report, however it ended."""
        return await reported(self.task)

    async def close(self) -> None:
        """Whatever state it is in."""
        if hasattr(self, "task") and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task], timeout=WAIT_S)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.owner.rest()
        await self.proxy.close()
        await self.destination.close()

    # -- what must be true at the end

    async def check_completed(self) -> There:
        """The destination runs and has it all, the source does not, and at no time both did."""
        there = await self.destination.ended()
        assert there.report["outcome"] == Outcome.COMPLETED.value, there.cause
        assert there.memory == xxhash.xxh3_64_hexdigest(self.memory)
        assert self.memory == self.owner.shadow
        assert {name: each["digest"] for name, each in there.devices.items()} == {
            name: device.digest for name, device in self.devices.items()
        }
        assert {each["state"] for each in there.devices.values()} <= {"running"}
        assert DeviceState.RUNNING not in {device.state for device in self.devices.values()}
        assert self.owner.faults == []
        assert self.destination.starts == 1
        assert self.destination.spells.running
        assert not self.owner.spells.running
        assert not self.owner.spells.overlaps(self.destination.spells)
        return there

    async def check_runs_on(self, *, stuck: Iterable[str] = ()) -> None:
        """The source runs on as if nothing had been, but for devices that say that they can't; the destination does
        not run.
        """
        assert self.owner.faults == []
        assert self.owner.spells.running
        if self.owner.busy and self.memory:
            async with asyncio.timeout(WAIT_S):
                await self.owner.writes_on()
        assert self.memory == self.owner.shadow
        states = {name: each.state for name, each in self.devices.items() if name not in set(stuck)}
        assert set(states.values()) <= {DeviceState.RUNNING}, states
        assert not self.destination.spells.running
        assert not self.owner.spells.overlaps(self.destination.spells)

    async def check_aborted_there(self, *words: str) -> There:
        """The destination's own report says that it failed, and these words."""
        there = await self.destination.ended()
        assert there.report["outcome"] == Outcome.FAILED.value
        assert there.cause is not None
        assert all(word in there.cause for word in words), there.cause
        return there


async def reported(task: asyncio.Task[Report]) -> Report:
    """The report of a task that migrates, however it ended. Raises what `Source.run` does not document."""
    try:
        async with asyncio.timeout(WAIT_S):
            report = await asyncio.shield(task)
    except MigrationError as error:
        report = error.report
    except MultifdError as error:
        raise AssertionError(f"raised {error!r}, which has no report") from error
    check_nothing_runs()
    return report


def check_nothing_runs() -> None:
    """When a run has returned, none of its tasks is left."""
    left = [repr(task) for task in asyncio.all_tasks() if "SourceRun." in repr(task.get_coro())]
    assert not left, f"the run has returned, and these run on: {left}"


@asynccontextmanager
async def migration(host: DestinationHost, setup: Setup) -> AsyncIterator[Migration]:
    """A migration that is ready to begin, and everything closed after it."""
    destination = RemoteDestination(host)
    await destination.open(setup.job())
    proxy = Proxy(destination.address)
    made = Migration(setup, destination, proxy, await proxy.open())
    try:
        yield made
    finally:
        await made.close()
    assert destination.left == []


TestBody = Callable[..., Coroutine[Any, Any, None]]


def bounded(test: TestBody) -> TestBody:
    """A test that may hang fails in place of it."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(TEST_DEADLINE_S):
            await test(*args, **kwargs)

    return run
