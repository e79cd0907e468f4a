"""A helper process of the demo, and the JSON lines that are spoken with it: one answer for each request, in order."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from multifd.errors import MultifdError

LINE_BYTES_MAX = 1024 * 1024  # a report with many devices
QUIT_DEADLINE_S = 5.0  # it has nothing to finish
DYING_DEADLINE_S = 0.3  # between the ends of two of its connections
DEATH_DEADLINE_S = 1.0  # between the end of its socket and that of the process


class CompanionError(MultifdError):
    """A helper process said that it can't, or died."""


class Companion:
    """One helper process. It ends when its socket closes, so it never outlives this process."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._name = name
        self._process = process
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def spawn(cls, name: str, module: str, fds: Sequence[int] = ()) -> Self:
        """Start `python -P -m module` with a socket as stdin, and `fds` under their own numbers; `name` is for people.

        `-P`: without it Python looks for every module in the current directory first, whoever put files there.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", module,
                stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL, pass_fds=tuple(fds),
                start_new_session=True,  # so that Ctrl-C reaches this process only, which then ends the others in order
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        return cls(name, process, reader, writer)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer. Raise `CompanionError` if it can't or is gone."""
        # Shielded: a request that is given up on half-way would leave its answer to the next one.
        line = await asyncio.shield(self._exchange(json.dumps(request).encode() + b"\n"))
        if not line:
            raise CompanionError(await self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CompanionError(f"{self._name}: {answer['error']}")
        return answer

    async def _exchange(self, request: bytes) -> bytes:
        async with self._turn:
            try:
                self._writer.write(request)
                await self._writer.drain()
                return await self._reader.readline()
            except ConnectionError:
                return b""

    async def death(self) -> str:
        """What became of it, in words, if it has died; else nothing."""
        with suppress(TimeoutError):  # its connections end one after the other: who asks may have seen another's end
            await asyncio.wait_for(self._process.wait(), DYING_DEADLINE_S)
        lost = self._reader.at_eof() or self._reader.exception() is not None or self._process.returncode is not None
        return await self._obituary() if lost else ""

    async def _obituary(self) -> str:
        return f"{self._name} (process {self.pid}) ended unexpectedly{await self._how_it_ended()}"

    async def _how_it_ended(self) -> str:
        """`: killed by SIGKILL`, `: exit status 1`, or nothing if it did not end yet."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), DEATH_DEADLINE_S)
        status = self._process.returncode
        if status is None:
            return ""
        return f": exit status {status}" if status >= 0 else f": killed by {signal.Signals(-status).name}"

    async def close(self) -> None:
        """End it and wait until it is gone."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        try:
            await asyncio.wait_for(self._process.wait(), QUIT_DEADLINE_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
