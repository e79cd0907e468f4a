"""A QEMU's monitor (QMP), as far as a relay needs it: whether the far end waits, to let its guest go on, and how the
source's migration ended. Beside `multifd.testing` the one place that knows `qemu.qmp`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Self

from qemu.qmp import QMPClient, QMPError

from multifd.engine.transport import Address
from multifd.errors import MultifdError, TransportError
from multifd.limits import QEMU_QMP_DEADLINE_S

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())  # what it says of errors is in them as well
_LOOK_S = 0.01
"""Between two looks at a guest that is about to run."""
WAITS = "inmigrate"
ENDS = ("completed", "failed", "cancelled", "none")


class Monitor:
    """A connection to one. QEMU takes one at a time."""

    def __init__(self, client: QMPClient, address: Address) -> None:
        """For `open`."""
        self._client = client
        self._address = address

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Connect. Raises `TransportError`."""
        client = QMPClient(str(address))
        where = address.path or (address.host, address.port)
        try:
            async with asyncio.timeout(QEMU_QMP_DEADLINE_S):
                await client.connect(where)
        except (QMPError, OSError, TimeoutError) as error:
            raise TransportError(f"can't connect to the monitor at {address}: {str(error) or 'no answer'}") from error
        return cls(client, address)

    async def run_state(self) -> str:
        """`inmigrate`, `running`, `paused` and so on. Raises `TransportError`, `MultifdError`."""
        return str((await self._execute("query-status"))["status"])

    async def run_guest(self) -> None:
        """`cont`, and wait until the guest runs, which the caller bounds. Raises `TransportError`, `MultifdError`."""
        await self._execute("cont")
        while (state := await self.run_state()) != "running":
            if state not in (WAITS, "paused", "prelaunch", "finish-migrate"):
                raise MultifdError(f"the far end's guest is {state} after cont")
            await asyncio.sleep(_LOOK_S)

    async def migration_end(self) -> str:
        """`completed`, `failed` or `cancelled`: waits for it, which the caller bounds. Raises as above."""
        while True:
            status = str((await self._execute("query-migrate")).get("status", "none"))
            if status in ENDS:
                return status
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Let go of it; its QEMU goes on."""
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(QEMU_QMP_DEADLINE_S):
                await self._client.disconnect()

    async def _execute(self, command: str) -> Any:
        try:
            async with asyncio.timeout(QEMU_QMP_DEADLINE_S):
                return await self._client.execute(command)
        except TimeoutError as error:
            raise TransportError(f"the monitor at {self._address} does not answer {command}") from error
        except QMPError as error:
            raise MultifdError(f"the monitor at {self._address}: {command}: {error}") from error
