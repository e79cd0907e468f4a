"""The demo's workload: a process of its own that owns memory, and writes to random pages of it at an asked rate.

Run as `python -m multifd.cli.workload` with a socket as stdin: JSON lines, one answer for each request; the first
is the configuration. It looks at the socket between batches of about a millisecond, so that it stops within that.
How far it got, its *counter*, lies in the memory itself: a workload that is started on a faithful copy counts on
where the first one stopped. It quits when the socket closes, so it outlives nobody.
"""

from __future__ import annotations

import json
import mmap
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from multifd.cli.page_writer import PAGE_BYTES, Words, Writer, fill
from multifd.errors import MultifdError
from multifd.limits import MIB
from multifd.memory.kernel import Registration, register
from multifd.memory.populate import populate


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """The first line: which memory, and what to do with it."""

    memory_fd: int
    length: int
    dirty_mib_per_s: float
    private: bool
    """Map it copy-on-write: what it writes is nobody else's, and what is in the file stays as it is."""
    prepare: bool
    """Fill it, and register it for kernel tracking."""


class Workload:
    """The memory and its writer, as the requests see them."""

    def __init__(self, options: WorkloadOptions) -> None:
        flags = mmap.MAP_PRIVATE if options.private else mmap.MAP_SHARED
        self._memory = mmap.mmap(options.memory_fd, options.length, flags=flags)
        self._registration: Registration | None = None
        words: Words = np.frombuffer(self._memory, dtype=np.uint64)
        if options.prepare:
            populate(self._memory)
            fill(words)
            self._registration = register(self._memory)
        self.writer = Writer(words, options.dirty_mib_per_s * MIB / PAGE_BYTES)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, and say where it stands."""
        match request["do"]:
            case "run":
                self.writer.run(time.monotonic())
            case "stop":
                self.writer.stop(time.monotonic())
            case "throttle":
                self.writer.throttle(request["level"])
        return self.state()

    def state(self) -> dict[str, Any]:
        """Where it stands, and where its memory is."""
        writer, registration = self.writer, self._registration
        return {
            "counter": writer.counter,
            "written": writer.written,
            "ran_s": writer.ran_s(time.monotonic()),
            "address": registration.address if registration is not None else None,
            "length": registration.length if registration is not None else None,
        }


def serve(control: socket.socket) -> None:
    """Answer requests, and write in between, until the socket closes."""
    lines = _Lines(control)
    workload: Workload | None = None
    while not lines.ended:
        due = workload.writer.due_at() if workload is not None else None
        for line in lines.wait(None if due is None else due - time.monotonic()):
            request = json.loads(line)
            try:
                if workload is None:
                    workload = Workload(WorkloadOptions(**request))
                    answer = workload.state()
                else:
                    answer = workload.answer(request)
            except (MultifdError, OSError, MemoryError) as error:
                answer = {"error": str(error) or "there is not enough memory"}
            lines.answer(json.dumps(answer).encode() + b"\n")
        if workload is not None and workload.writer.running:
            workload.writer.write(time.monotonic())


class _Lines:
    """Whole lines from a socket, waited for no longer than asked."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._buffer = b""
        self.ended = False

    def wait(self, seconds: float | None) -> list[bytes]:
        readable, _, _ = select.select([self._control], [], [], None if seconds is None else max(seconds, 0.0))
        if not readable:
            return []
        try:
            received = self._control.recv(65536)
        except ConnectionError:
            received = b""
        self.ended = not received
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        return lines

    def answer(self, line: bytes) -> None:
        try:
            self._control.sendall(line)
        except ConnectionError:  # whoever asked has died: as if the socket had been closed
            self.ended = True


def main() -> None:
    """Serve the socket that is stdin."""
    with socket.socket(fileno=0) as control:
        serve(control)


if __name__ == "__main__":
    main()
