"""The test's end of a destination in another process (destination_host.py). Every wait is bounded."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.job import Job, Spell, Spells

WAIT_S = 8.0
"""For anything that a process is waited for, on a host that has other things to do."""
_SCRIPT = Path(__file__).with_name("destination_host.py")


class DestinationHost:
    """A process for destinations, started when it is needed and again when a test killed it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> int:
        """Start it if it does not run; the port where it takes jobs."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-W", "error", str(_SCRIPT)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._process.stdout is not None
            self._port = int(self._process.stdout.readline())
        return self._port

    def kill(self) -> None:
        """As a crash would: no connection is closed in order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(WAIT_S)

    def close(self) -> None:
        """Have it end. Without effect if there is none."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(WAIT_S)


@dataclass(frozen=True, slots=True)
class There:
    """How a migration ended at the destination."""

    cause: str | None
    report: dict[str, Any]
    memory: str
    devices: dict[str, dict[str, Any]]


@dataclass(slots=True)
class RemoteDestination:
    """One job, from `open` to `close`."""

    host: DestinationHost
    address: str = ""
    logs: list[str] = field(default_factory=list)
    starts: int = 0
    """How often its owner was asked to start."""
    spells: Spells = field(default_factory=Spells)
    left: list[str] = field(default_factory=list)
    end: There | None = None
    """None while the migration goes on, and for ever if the process was killed."""
    gone: bool = False
    """Its connection has ended: it is closed, or was killed."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None
    _listening: asyncio.Task[None] | None = None

    async def open(self, job: Job) -> None:
        """Hand the job over; returns when it listens."""
        connection = socket.create_connection(("127.0.0.1", self.host.start()), WAIT_S)
        connection.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=connection)
        self._writer.write(job.to_line())
        self._listening = asyncio.create_task(self._listen())
        await self.until(lambda: bool(self.address), "its address")

    async def until(self, condition: Any, what: str) -> None:
        """Wait until something is true of it."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    assert not self.gone, f"the destination's process has ended; waited for {what}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"waited {WAIT_S} s for the destination's process: {what}; logs: {self.logs}"
            ) from None

    async def ended(self) -> There:
        """How it ended there."""
        await self.until(lambda: self.end is not None, "the end of the migration")
        assert self.end is not None
        return self.end

    async def logged(self, *words: str) -> None:
        """Until a line with all of these is logged."""
        await self.until(
            lambda: any(all(word in line for word in words) for line in self.logs), f"a log line with {words}"
        )

    def order(self, what: str) -> None:
        """`go on` (to an owner that waits), `cancel`, or `cancel the task`."""
        assert self._writer is not None
        self._writer.write(what.encode() + b"\n")

    def kill(self) -> None:
        """Kill its process: nothing more is heard of it."""
        self.host.kill()

    async def close(self) -> None:
        """Have the job end if it has not, and its listener with it."""
        if self._writer is None or self._listening is None:
            return
        if not self.gone:
            self._writer.write_eof()
        async with asyncio.timeout(WAIT_S):
            await self._listening
        self._writer.transport.abort()

    async def _listen(self) -> None:
        assert self._reader is not None
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
                self._changed.set()
        except ConnectionError:  # killed
            pass
        self.gone = True
        self._changed.set()

    def _take(self, line: dict[str, Any]) -> None:
        match line.pop("event"):
            case "address":
                self.address = line["address"]
            case "owner":
                self.starts += 1
            case "log":
                self.logs.append(line["text"])
            case "end":
                self.spells = Spells([Spell(began, ended) for began, ended in line.pop("spells")])
                self.end = There(**line)
            case "closed":
                self.left = line["left"]
            case "broken":
                raise AssertionError(f"the destination raised {line['error']}")
