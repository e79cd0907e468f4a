"""The demo's destination: a process with memory of its own, an engine, and a workload that waits to be started.

Run as `python -m multifd.cli.demo_destination` with a socket as stdin, and spoken with as the workload is
(companion.py). What arrives stays as it is in a memory file, since the workload maps that copy-on-write: so both
sides' memory at the stop can be compared while it runs on.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from multifd import Destination, DestinationOptions, listen
from multifd.cli.companion import LINE_BYTES_MAX, Companion
from multifd.cli.demo_state import BLOCK, PAGE_BYTES, WorkloadOwner, device_digests, make_devices
from multifd.cli.digest import memory_digest
from multifd.device import DeviceState
from multifd.errors import MigrationError, MultifdError
from multifd.memory import BufferBlock
from multifd.memory.populate import populate
from multifd.stats import Report


class DemoDestination:
    """Everything at the destination, made before the migration begins, and the answers to the demo's questions."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self, size: int, devices: int, device_setup_s: float, dirty_mib_per_s: float) -> dict[str, Any]:
        """Make memory, workload and devices, listen, and begin to wait for the source."""
        fd = os.memfd_create("multifd-demo-destination")
        self._stack.callback(os.close, fd)
        os.ftruncate(fd, size)
        self._workload = await Companion.spawn("the workload at the destination", "multifd.cli.workload", fds=[fd])
        self._stack.push_async_callback(self._workload.close)
        self._memory = mmap.mmap(fd, size)
        how = await asyncio.to_thread(populate, self._memory)
        await self._workload.ask(
            memory_fd=fd, length=size, dirty_mib_per_s=dirty_mib_per_s, private=True, prepare=False
        )
        self._devices = make_devices(devices, device_setup_s, DeviceState.STOP)
        self._owner = WorkloadOwner(self._workload, self._devices)
        listener = await listen("tcp://127.0.0.1:0")
        self._stack.push_async_callback(listener.close)
        block = BufferBlock(BLOCK, self._memory, page_size=PAGE_BYTES)
        destination = Destination(
            listener,
            blocks=[block],
            devices=self._devices,
            kinds=[],
            owner=self._owner,
            options=DestinationOptions(channels_max=64, populate=False),
        )
        self._session = asyncio.create_task(destination.run())
        self._stack.push_async_callback(_end, self._session)
        return {"address": listener.address, "populated": how}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        match request["do"]:
            case "result":
                report: Report = await asyncio.shield(self._session)
                return {"report": report.to_json(), "counter_at_start": self._owner.counter_at_start}
            case "digest":
                with memoryview(self._memory) as view:
                    memory = await asyncio.to_thread(memory_digest, view)
                return {"memory": memory, "devices": device_digests(self._devices)}
            case "count":
                return await self._workload.ask(do="count")
            case unknown:
                return {"error": f"there is no request {unknown!r}"}


async def _end(session: asyncio.Task[Report]) -> None:
    session.cancel()
    await asyncio.gather(session, return_exceptions=True)


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:  # the demo has died: as if it had closed the socket
        return b""


async def serve() -> None:
    """Answer the demo's requests until the socket that is stdin closes."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=0), limit=LINE_BYTES_MAX)
    async with AsyncExitStack() as stack:
        destination = DemoDestination(stack)
        opened = False
        while line := await _next_line(reader):
            request = json.loads(line)
            try:
                answer = await (destination.answer(request) if opened else destination.open(**request))
                opened = True
            except MigrationError as error:
                answer = {"error": str(error), "report": error.report.to_json()}
            except (MultifdError, OSError) as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
    writer.close()


if __name__ == "__main__":
    uvloop.run(serve())
