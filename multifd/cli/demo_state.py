"""What both ends of the demo have: options, devices, and the workload as the engine's owner."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from multifd.cli.companion import Companion
from multifd.device import DeviceState, EmulatedDevice, EmulatedOptions
from multifd.engine.owner import Owner
from multifd.limits import KIB, MIB

BLOCK = "memory"
PAGE_BYTES = 4096
RUNS_ON_DEADLINE_S = 2.0  # a workload that has not written one page by then is not running
RUNS_ON_PAUSE_S = 0.005  # between two looks at its counter
DEVICE_NAMES = ("nic", "gpu", "disk", "console")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `multifd demo` was asked for. Sizes in bytes, times in seconds."""

    size: int
    devices: int
    channels: int
    dirty_mib_per_s: float
    downtime_limit_s: float
    deadline_s: float
    device_setup_s: float
    explicit_switchover: bool
    codec: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides after the switchover."""

    memory: tuple[str, str]
    """Digest of the memory at the stop: source, destination."""
    devices: tuple[dict[str, str], dict[str, str]]
    counter_at_stop: int
    counter_at_start: int
    counter_later: int
    writes: bool = True
    """Whether the workload was asked to write at all."""

    @property
    def memory_equal(self) -> bool:
        """Whether every byte arrived."""
        return self.memory[0] == self.memory[1]

    @property
    def devices_equal(self) -> bool:
        """Whether every device loaded what was saved."""
        return self.devices[0] == self.devices[1]

    @property
    def counts_on(self) -> bool:
        """Whether the workload went on exactly where it stopped."""
        went_on = self.counter_later > self.counter_at_start or not self.writes
        return self.counter_at_start == self.counter_at_stop and went_on

    @property
    def verified(self) -> bool:
        """All of it."""
        return self.memory_equal and self.devices_equal and self.counts_on


def device_names(count: int) -> list[str]:
    """`nic`, `gpu`, ... and `device-5` from the fifth on."""
    return [*DEVICE_NAMES[:count], *(f"device-{number}" for number in range(len(DEVICE_NAMES) + 1, count + 1))]


def make_devices(count: int, setup_s: float, state: DeviceState) -> list[EmulatedDevice]:
    """The demo's devices, each with some state for each phase: RUNNING at the source, STOP at the destination."""
    return [
        EmulatedDevice(
            name,
            EmulatedOptions(
                initial_bytes=2 * MIB,
                live_bytes=512 * KIB,
                dirty_bytes_per_s=1 * MIB,
                stop_copy_bytes=256 * KIB,
                setup_s=setup_s,
            ),
            state=state,
        )
        for name in device_names(count)
    ]


def device_digests(devices: Iterable[EmulatedDevice]) -> dict[str, str]:
    """Device name → digest of all that was saved or loaded, in hex."""
    return {device.name: f"{device.digest:016x}" for device in devices}


class WorkloadOwner(Owner):
    """The workload process as the owner of the state, at either end. Keeps its counter at the last stop and start."""

    def __init__(self, workload: Companion, devices: Sequence[EmulatedDevice]) -> None:
        self._workload = workload
        self._devices = devices
        self.counter_at_stop: int | None = None
        self.counter_at_start: int | None = None

    async def stop(self) -> None:
        """Stop the workload, then tell the devices."""
        answer = await self._workload.ask(do="stop")
        self.counter_at_stop = answer["counter"]
        for device in self._devices:
            device.owner_stopped()

    async def start(self) -> None:
        """Let it write."""
        answer = await self._workload.ask(do="run")
        self.counter_at_start = answer["counter"]
        for device in self._devices:
            device.owner_started()

    async def throttle(self, level: float) -> None:
        """Slow it down."""
        await self._workload.ask(do="throttle", level=level)


async def wait_for_writes(where: Companion, counter: int) -> int:
    """Watch the workload's counter until it is past `counter`, or for `RUNS_ON_DEADLINE_S`. Return what it was last."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RUNS_ON_DEADLINE_S
    while True:
        seen: int = (await where.ask(do="count"))["counter"]
        if seen > counter or loop.time() > deadline:
            return seen
        await asyncio.sleep(RUNS_ON_PAUSE_S)
