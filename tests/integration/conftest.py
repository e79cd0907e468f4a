"""Fixtures of the tests between two processes. Nothing here is used unless a test asks for it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from harness.remote import DestinationHost


@pytest.fixture(scope="session")
def host() -> Iterator[DestinationHost]:
    """A process for destinations; a test may kill it, the next gets a new one."""
    host = DestinationHost()
    yield host
    host.close()


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Fail a test that leaves a thread of the library, a socket or a task behind."""
    before = _left_over()
    yield
    gc.collect()  # what was not closed says so now, and not in a later test
    pause_s = 0.01
    for _ in range(100):
        if not _left_over() - before:
            return
        await asyncio.sleep(pause_s)
    pytest.fail(f"left behind: {sorted(_left_over() - before)}")


def _left_over() -> set[str]:
    threads = {f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("multifd-")}
    sockets = {name for fd in os.listdir("/proc/self/fd") if (name := _target(fd)).startswith("socket:")}
    tasks = {repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}}
    return threads | sockets | tasks


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # it was the one that listed them
        return ""
