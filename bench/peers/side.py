"""One side of a peer's run, in a process of its own: what all peers have in common around what they are measured for.

A peer's `connect` is a context: what comes before its `yield` happens before the clock starts, and it yields a function
that moves all of the memory. At the sender that returns when there is nothing left to do, and at the receiver when
everything is in place.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from bench.memory import Memory, Meter

Exchange = Callable[[str], str]
"""Says a line to the other side and returns the other's line: a meeting, and where addresses go over. No newlines."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What a peer needs to know of its run."""

    sends: bool
    memory: memoryview
    channels: int
    congestion: str
    exchange: Exchange

    def pieces(self, length: int, channel: int = 0, channels: int = 1) -> Iterator[memoryview]:
        """The memory in pieces of such a length, of `channels` shares the one of this channel, in order."""
        for start in range(channel * length, len(self.memory), channels * length):
            yield self.memory[start : start + length]


Connect = Callable[[Side], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, kw_only=True)
class SideReport:
    """What one side saw. Times by the machine's monotonic clock, which both sides share."""

    began: float
    ended: float
    cpu_s: float
    peak_bytes: int | None
    digest: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a side is told on its command line, as JSON."""

    size: int
    channels: int
    congestion: str

    def to_json(self) -> str:
        """As an argument."""
        return json.dumps(dataclasses.asdict(self))


def take_part(task: Task, connect: Connect, exchange: Exchange, *, sends: bool) -> SideReport:
    """Make the memory, move it once, and digest what is there then."""
    memory = Memory(task.size)
    if sends:
        memory.fill()
    side = Side(
        sends=sends,
        memory=memoryview(memory.buffer),
        channels=task.channels,
        congestion=task.congestion,
        exchange=exchange,
    )
    with connect(side) as move:
        exchange("ready")
        meter, began = Meter(task.size), time.monotonic()
        move()
        ended, cpu_s, peak_bytes = time.monotonic(), meter.cpu_s(), meter.peak_bytes()
        exchange("done")  # nobody closes what the other still needs
    return SideReport(began=began, ended=ended, cpu_s=cpu_s, peak_bytes=peak_bytes, digest=memory.digest())


def _exchange_over(connection: socket.socket) -> Exchange:
    """By lines on a socket that the parent has made for both."""
    lines = connection.makefile("r", encoding="utf-8")

    def exchange(mine: str) -> str:
        connection.sendall(f"{mine}\n".encode())
        theirs = lines.readline()
        if not theirs:
            raise ConnectionError("the other side is gone")
        return theirs.rstrip("\n")

    return exchange


def main() -> None:
    """Be a side: peer, role, task and the number of the socket to the other side are the arguments."""
    from bench.peers.every import BY_NAME  # it imports the peers, and they this

    name, role, task, number = sys.argv[1:]
    facts: dict[str, Any] = json.loads(task)
    with socket.socket(fileno=int(number)) as connection:
        connect = BY_NAME[name].connect
        report = take_part(Task(**facts), connect, _exchange_over(connection), sends=role == "source")
    print(json.dumps(dataclasses.asdict(report)), flush=True)
    os._exit(0)  # a peer that crashes while Python takes it down (NIXL does) has done what it is measured for


if __name__ == "__main__":
    main()
