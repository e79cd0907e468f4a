"""A QEMU's monitor, as far as a relay asks it: a state, and `cont`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any


class ScriptedMonitor:
    """Speaks QMP on a unix socket."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self.state = "inmigrate"
        self.commands: list[str] = []
        self.after_cont = "running"
        self.migrations = ["completed"]
        """What query-migrate says, one answer after another; the last one for ever."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        self._say(writer, {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""},
                                   "capabilities": []}})  # fmt: skip
        data = ""
        while more := await reader.read(4096):
            data += more.decode()
            try:
                request, end = json.JSONDecoder().raw_decode(data)
            except ValueError:
                continue
            data = data[end:].lstrip()
            command = request["execute"]
            self.commands.append(command)
            answer: dict[str, Any] = {}
            if command == "query-status":
                answer = {"status": self.state, "running": self.state == "running"}
            elif command == "query-migrate":
                answer = {"status": self.migrations[0]}
                self.migrations = self.migrations[1:] or self.migrations
            elif command == "cont":
                self.state = self.after_cont
            self._say(writer, {"return": answer} | ({"id": request["id"]} if "id" in request else {}))
        writer.close()

    @staticmethod
    def _say(writer: asyncio.StreamWriter, what: dict[str, Any]) -> None:
        writer.write(json.dumps(what).encode() + b"\r\n")


@contextlib.asynccontextmanager
async def monitored(folder: Path, name: str = "qmp") -> AsyncIterator[ScriptedMonitor]:
    """One that listens in `folder`."""
    monitor = ScriptedMonitor(folder / name)
    server = await asyncio.start_unix_server(monitor.serve, folder / name)
    try:
        yield monitor
    finally:
        server.close()
        await server.wait_closed()
