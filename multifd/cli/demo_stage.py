"""The demo's stage: both workloads, both memories and the destination's engine, all made before the migration begins.

this process           source engine; shares the source's memory with
  workload             fills it and keeps writing to it
  demo_destination     destination engine, memory of its own, shared copy-on-write with
    workload           waits to be started on what arrives
"""

from __future__ import annotations

import asyncio
import mmap
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from multifd import Source, SourceOptions
from multifd.cli.companion import Companion
from multifd.cli.demo_state import (
    BLOCK,
    PAGE_BYTES,
    Comparison,
    DemoOptions,
    WorkloadOwner,
    device_digests,
    make_devices,
    wait_for_writes,
)
from multifd.cli.digest import memory_digest
from multifd.cli.ending import UsageError
from multifd.cli.sizes import format_bytes
from multifd.device import DeviceState, EmulatedDevice
from multifd.memory import BufferBlock
from multifd.memory.kernel import KernelTracker
from multifd.memory.populate import populate

SPARE_BYTES_RATIO = 2.2  # both memories, and what the resumed workload copies in the moments it is watched


class Stage:
    """What `open` makes; everything ends with its exit stack."""

    def __init__(self, options: DemoOptions, memory: mmap.mmap, devices: list[EmulatedDevice]) -> None:
        self.options = options
        self.devices = devices
        self._memory = memory
        self.workload: Companion
        self.destination: Companion
        self.owner: WorkloadOwner
        self.source: Source

    @classmethod
    async def open(cls, options: DemoOptions, stack: AsyncExitStack) -> Self:
        """Start all processes, fill the source's memory and let its workload run. Raise `MultifdError` if one can't."""
        _check_memory(options.size)
        fd = os.memfd_create("multifd-demo-source")
        stack.callback(os.close, fd)
        os.ftruncate(fd, options.size)
        stage = cls(options, mmap.mmap(fd, options.size), make_devices(options.devices, 0.0, DeviceState.RUNNING))
        stage.workload = await Companion.spawn("the workload at the source", "multifd.cli.workload", fds=[fd])
        stack.push_async_callback(stage.workload.close)
        stage.destination = await Companion.spawn("the destination", "multifd.cli.demo_destination")
        stack.push_async_callback(stage.destination.close)
        rate = options.dirty_mib_per_s
        tracked, opened = await asyncio.gather(
            stage.workload.ask(memory_fd=fd, length=options.size, dirty_mib_per_s=rate, private=False, prepare=True),
            stage.destination.ask(
                size=options.size, devices=options.devices, device_setup_s=options.device_setup_s, dirty_mib_per_s=rate
            ),
        )
        await asyncio.to_thread(populate, stage._memory)
        stage._connect(tracked, opened["address"])
        await stage.owner.start()
        return stage

    def _connect(self, tracked: dict[str, Any], address: str) -> None:
        options = self.options
        tracker = KernelTracker.of_process(self.workload.pid, tracked["address"], tracked["length"], options.size)
        self.owner = WorkloadOwner(self.workload, self.devices)
        self.source = Source(
            address,
            blocks=[BufferBlock(BLOCK, self._memory, page_size=PAGE_BYTES, tracker=tracker)],
            devices=self.devices,
            feeds=[],
            owner=self.owner,
            options=SourceOptions(
                channels=options.channels,
                codec=options.codec,
                explicit_switchover=options.explicit_switchover,
                downtime_limit_s=options.downtime_limit_s,
                deadline_s=options.deadline_s,
            ),
        )

    async def compare(self) -> Comparison:
        """After completion: digests of both sides at the stop, and the counter."""
        result = await self.destination.ask(do="result")
        with memoryview(self._memory) as view:
            ours, theirs = await asyncio.gather(
                asyncio.to_thread(memory_digest, view), self.destination.ask(do="digest")
            )
        assert self.owner.counter_at_stop is not None
        return Comparison(
            memory=(ours, theirs["memory"]),
            devices=(device_digests(self.devices), theirs["devices"]),
            counter_at_stop=self.owner.counter_at_stop,
            counter_at_start=result["counter_at_start"],
            counter_later=await wait_for_writes(self.destination, result["counter_at_start"]),
            writes=self.options.dirty_mib_per_s > 0,
        )


def _check_memory(size: int) -> None:
    """Raise `UsageError` if the two memories don't fit: the kernel would end processes in the middle otherwise."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    needed = int(size * SPARE_BYTES_RATIO)
    if available is not None and needed > available:
        raise UsageError(
            f"two memories of {format_bytes(size)} need {format_bytes(needed)}; {format_bytes(available)} are free; "
            "ask for a smaller --size"
        )
