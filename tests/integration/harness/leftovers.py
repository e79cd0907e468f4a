"""What a migration can leave behind in a process, when it should leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

_PAUSE_S = 0.01
_LOOKS_MAX = 100


def left_over() -> set[str]:
    """The library's threads, all sockets, and the tasks of this loop but the one that asks."""
    threads = {f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("multifd-")}
    tasks = {repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}}
    return threads | _sockets() | tasks


async def left_since(before: set[str]) -> list[str]:
    """What is there and was not before; what is about to end is given a moment."""
    for _ in range(_LOOKS_MAX):
        if not left_over() - before:
            return []
        await asyncio.sleep(_PAUSE_S)
    return sorted(left_over() - before)


def _sockets() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was the one that lists them
            found.add(str(fd.readlink()))
    return {name for name in found if name.startswith("socket:")}
