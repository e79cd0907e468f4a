"""Calls of a target: in the pool, errors of the library's kind, and an end that does not wait for ever."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from multifd import limits
from multifd.errors import RemoteProtocolError, StorageError
from multifd.qemu.memory_target import MemoryMachine
from multifd.qemu.target_calls import TargetCalls


async def test_it_is_called_in_the_pool() -> None:
    """With its arguments, and its result comes back."""
    calls = TargetCalls(MemoryMachine())
    seen = await calls.call("can't", lambda *given: (given, threading.get_ident()), 1, 2)
    assert seen[0] == (1, 2)
    assert seen[1] != threading.get_ident()


async def test_errors_are_the_librarys() -> None:
    """The system's get words, those of the library pass, a bug is a bug."""
    calls = TargetCalls(MemoryMachine())

    def raises(error: Exception) -> None:
        raise error

    with pytest.raises(StorageError, match=f"can't write: {os.strerror(errno.ENOSPC)}"):
        await calls.call("can't write", raises, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(RemoteProtocolError):
        await calls.call("can't", raises, RemoteProtocolError("packet", "another"))
    with pytest.raises(ZeroDivisionError):
        await calls.call("can't", raises, ZeroDivisionError())


async def test_abort_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs is given up after a while, and told."""
    monkeypatch.setattr(limits, "CLOSE_DEADLINE_S", 0.02)
    calls = TargetCalls(MemoryMachine())
    go_on = threading.Event()
    hanging = asyncio.ensure_future(calls.call("can't", go_on.wait))
    await asyncio.sleep(0)
    assert await calls.abort() == "storage did not let go of its thread"
    go_on.set()
    await hanging
    assert await calls.abort() == ""


async def test_abort_tells_what_goes_wrong() -> None:
    """And raises nothing."""

    class Stubborn(MemoryMachine):
        def abort(self) -> None:
            raise OSError(errno.EROFS, "no")

    assert await TargetCalls(Stubborn()).abort() == "can't clean up: no"
