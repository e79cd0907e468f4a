"""A process that is the destination of one migration after another; each test opens a connection to it for one job.

Prints the port that it listens on for jobs, and ends when its stdin does. On a job's connection it answers the job
(job.py) with lines of JSON: `address`, then `owner` and `log` as they happen, `end` when the migration has ended, and,
once the test has said that it sends nothing more, `closed` with what was left behind. Meanwhile it takes orders:
`go on`, `cancel`, `cancel the task`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop
import xxhash

from multifd import BufferBlock, Destination, DestinationOptions, MigrationError, Owner, limits, listen
from multifd.device import DeviceState, EmulatedDevice
from multifd.session import destination as machine
from multifd.session.states import DestinationState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.job import BLOCK, Job, Spells, make_devices
from harness.leftovers import left_over, left_since


class Line:
    """The test's connection: lines out."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def tell(self, event: str, **what: Any) -> None:
        """One line."""
        self._writer.write(json.dumps({"event": event, **what}).encode() + b"\n")


class LogLines(logging.Handler):
    """What the library logs, as lines."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Called on the loop: nothing is logged elsewhere."""
        self._line.tell("log", text=record.getMessage())


class JobOwner(Owner):
    """Starts, or does not, and remembers when."""

    def __init__(self, how: str, line: Line) -> None:
        self.spells = Spells()
        self.go_on = asyncio.Event()
        self._how = how
        self._line = line

    async def start(self) -> None:
        self._line.tell("owner", did="start")
        if self._how == "waits":
            await self.go_on.wait()
        if self._how == "fails":
            raise RuntimeError("told to fail")
        self.spells.begin()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One job, from its line to the end of its connection."""
    line = Line(writer)
    before = left_over()
    job = Job.from_line(await reader.readline())
    log = LogLines(line)
    logging.getLogger("multifd").addHandler(log)
    try:
        with patched(job):
            await receive(job, reader, line)
    finally:
        logging.getLogger("multifd").removeHandler(log)
        line.tell("closed", left=await left_since(before))
        await writer.drain()
        writer.close()


async def receive(job: Job, reader: asyncio.StreamReader, line: Line) -> None:
    """Receive one migration; answer for it until the test closes its side."""
    listener = await listen("tcp://127.0.0.1:0")
    memory = bytearray(job.memory_bytes)
    devices = make_devices(job.devices, DeviceState.STOP)
    owner = JobOwner(job.owner, line)
    destination = Destination(
        listener,
        blocks=[BufferBlock(BLOCK, memory, tracker="none")] if memory else [],
        devices=devices,
        owner=owner,
        options=DestinationOptions(**job.options),
    )
    line.tell("address", address=listener.address)
    task = asyncio.create_task(migrate(destination, memory, devices, owner, line))
    while command := await reader.readline():
        match command.strip():
            case b"go on":
                owner.go_on.set()
            case b"cancel":
                destination.cancel("called off at the destination")
            case b"cancel the task":
                task.cancel()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await listener.close()


async def migrate(
    destination: Destination, memory: bytearray, devices: list[EmulatedDevice], owner: JobOwner, line: Line
) -> None:
    """Until the migration ends; then tell everything about it."""
    cause = None
    try:
        report = await destination.run()
    except MigrationError as error:
        cause, report = str(error), error.report
    except Exception as error:  # what `run` does not document
        line.tell("broken", error=f"{type(error).__name__}: {error}")
        raise
    line.tell(
        "end",
        cause=cause,
        report=report.to_json(),
        memory=xxhash.xxh3_64_hexdigest(memory),
        devices={each.id: {"digest": each.digest, "state": each.state.value} for each in devices},
        spells=[(each.began, each.ended) for each in owner.spells.all],
    )


@contextlib.contextmanager
def patched(job: Job) -> Iterator[None]:
    """The job's limits and waits, for as long as it takes."""
    old_limits = {name: getattr(limits, name) for name in job.limits}
    waits = machine._WAITS  # the table has its values from when it was imported
    old_waits = dict(waits)
    try:
        for name, value in job.limits.items():
            setattr(limits, name, value)
        for state, seconds in job.waits.items():
            waits[DestinationState(state)] = (seconds, waits[DestinationState(state)][1])
        yield
    finally:
        for name, value in old_limits.items():
            setattr(limits, name, value)
        waits.update(old_waits)


async def main() -> None:
    """Serve jobs until stdin ends."""
    logging.getLogger("multifd").setLevel(logging.INFO)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
