"""The demo's helper processes answer in order, say why they can't, and never outlive the demo."""

import asyncio
import json
import mmap
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from multifd.cli.companion import Companion, CompanionError
from multifd.cli.demo_state import wait_for_writes
from multifd.cli.workload import serve

SIZE = 1024 * 1024

pytestmark = pytest.mark.slow


@pytest.fixture
def memory() -> Any:
    fd = os.memfd_create("test")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
async def workload(memory: int) -> AsyncIterator[Companion]:
    companion = await Companion.spawn("the workload", "multifd.cli.workload", fds=[memory])
    yield companion
    await companion.close()


def settings(memory_fd: int, **more: object) -> dict[str, object]:
    return {"memory_fd": memory_fd, "length": SIZE, "dirty_mib_per_s": 100, "private": False, "prepare": True} | more


async def test_the_workload_runs_stops_and_counts_on_a_copy(memory: int, workload: Companion) -> None:
    """What one process counted another goes on from; a private one leaves the memory as it is."""
    assert (await workload.ask(**settings(memory)))["length"] == SIZE
    assert (await workload.ask(do="run"))["counter"] == 0
    assert await wait_for_writes(workload, 100) > 100
    stopped = (await workload.ask(do="stop"))["counter"]
    assert (await workload.ask(do="count"))["counter"] == stopped
    second = await Companion.spawn("the second", "multifd.cli.workload", fds=[memory])
    with mmap.mmap(memory, SIZE) as shared:
        frozen = bytes(shared)
        await second.ask(**settings(memory, private=True, prepare=False))
        assert (await second.ask(do="run"))["counter"] == stopped
        assert await wait_for_writes(second, stopped) > stopped
        assert bytes(shared) == frozen
    await second.close()


async def test_it_is_gone_when_it_is_closed(workload: Companion) -> None:
    """No signal needed: its socket is enough."""
    await workload.close()
    with pytest.raises(ProcessLookupError):
        os.kill(workload.pid, 0)


async def test_what_it_can_not_do_is_an_error_with_the_reason(workload: Companion) -> None:
    """Here: a descriptor that is none."""
    with pytest.raises(CompanionError, match=r"^the workload: .*Bad file descriptor"):
        await workload.ask(**settings(999))


async def test_a_helper_that_died_is_named(memory: int, workload: Companion) -> None:
    """The next request says so, at once."""
    await workload.ask(**settings(memory))
    os.kill(workload.pid, 9)
    with pytest.raises(CompanionError, match=r"^the workload \(process \d+\) ended unexpectedly: killed by SIGKILL$"):
        await workload.ask(do="run")


async def test_files_in_the_current_directory_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a module of Python's that somebody has there, nor what has our name."""
    (tmp_path / "random.py").write_text("raise SystemExit('run')")
    (tmp_path / "multifd").mkdir()
    monkeypatch.chdir(tmp_path)
    companion = await Companion.spawn("the workload", "multifd.cli.workload")
    with pytest.raises(CompanionError, match="Bad file descriptor"):
        await companion.ask(**settings(999))
    await companion.close()
    assert capfd.readouterr().err == ""


def test_a_workload_whose_demo_died_ends_quietly(memory: int) -> None:
    """Nobody reads its answer: no traceback."""
    ours, theirs = socket.socketpair()
    ours.sendall(json.dumps(settings(memory)).encode() + b"\n")
    ours.close()
    with theirs:
        serve(theirs)


async def test_a_request_given_up_on_leaves_no_answer_to_the_next(memory: int, workload: Companion) -> None:
    """Cancelled while it waits: its answer goes with it."""
    given_up = asyncio.ensure_future(workload.ask(**settings(memory)))
    await asyncio.sleep(0)
    given_up.cancel()
    assert "error" not in await workload.ask(do="stop", unknown="key")
    assert (await workload.ask(do="run"))["counter"] == 0
