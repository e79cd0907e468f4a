"""What a far relay takes from the native dialect: a device for main and one for each channel, whose chunks go to the
QEMU there as they are (proto/qemu.md section 16).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from multifd.device import Device, DeviceState, Pending, Phase, Say
from multifd.engine.connection import Connection
from multifd.engine.tls import Tls
from multifd.engine.transport import Address, SocketOptions
from multifd.errors import LocalProtocolError, TransportError
from multifd.limits import LAST_WORDS_S
from multifd.qemu.home_loop import HomeLoop
from multifd.slot import Buffer
from multifd.wire.qemu_hop import CHANNEL, MAIN, VERSION, FarWord, parse_order, serialize_word


class FarQemu(Protocol):
    """The QEMU there, as far as main is concerned."""

    async def begin(self, device: FarMain) -> None:
        """*loop*: main's device is about to be loaded, and can say something."""

    async def write_main(self, data: bytes) -> None:
        """*loop*: write it; the first bytes connect. Empty: the stream's end follows. Raises `TransportError`."""

    async def connected(self) -> None:
        """*loop*: wait until main is connected."""

    def order(self, *, run: bool) -> None:
        """*worker*: the near relay's last word."""


class _Far(Device):
    schema_version = VERSION

    def pending(self) -> Pending:
        """Nothing at a destination."""
        return Pending()

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """Not at a destination."""
        raise LocalProtocolError(self.name, "a destination", phase.name)
        yield b""


class FarMain(_Far):
    """Main to the QEMU, which lives on the relay's loop, and its return path back."""

    id = MAIN

    def __init__(self, qemu: FarQemu, home: HomeLoop, channels: Sequence[FarChannel]) -> None:
        self.channels = channels
        """Those of the same session."""
        self._qemu = qemu
        self._home = home
        self._say: Say | None = None
        self._worker: asyncio.AbstractEventLoop | None = None

    def open_messages(self, say: Say) -> None:
        """See `Device`."""
        self._say = say
        self._worker = asyncio.get_running_loop()

    async def say(self, word: FarWord) -> None:
        """*the relay's loop*: say something to the near relay."""
        assert self._worker is not None
        said: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            self._worker.call_soon_threadsafe(self._begin, word, said)
        except RuntimeError:  # the worker's loop is closed
            raise TransportError("the session with the near relay has ended") from None
        await asyncio.wrap_future(said)

    def _begin(self, word: FarWord, said: concurrent.futures.Future[None]) -> None:
        """*worker*."""
        assert self._say is not None
        work = asyncio.ensure_future(self._say(serialize_word(word)))
        work.add_done_callback(lambda _: _tell(work, said))

    async def set_state(self, state: DeviceState) -> None:
        """See `Device`."""
        if state is DeviceState.RESUMING:
            if self._say is None:
                raise LocalProtocolError(self.name, "a near relay that hears messages")
            await self._home.run(self._qemu.begin(self))

    async def load(self, phase: Phase, data: memoryview) -> None:
        """Initial: the stream. Stop-copy: the near relay's last word, in one chunk."""
        if phase is Phase.STOP_COPY:
            self._qemu.order(run=parse_order(bytes(data)))
        else:
            await self._home.run(self._qemu.write_main(bytes(data)))


def _tell(work: asyncio.Future[None], said: concurrent.futures.Future[None]) -> None:
    """What came of it, to whoever still waits."""
    if work.cancelled():
        said.cancel()
    elif said.set_running_or_notify_cancel():
        error = work.exception()
        said.set_exception(error) if error is not None else said.set_result(None)


class FarChannel(_Far):
    """A channel to the QEMU, which lives in the device's worker."""

    id = CHANNEL

    def __init__(
        self, number: int, qemu: FarQemu, home: HomeLoop, *, to: Address, options: SocketOptions, tls: Tls | None
    ) -> None:
        # set once
        self.instance = number
        self._qemu = qemu
        self._home = home
        self._to = to
        self._options = options
        self._tls = tls
        # worker's; read by the loop
        self.passed_bytes = 0
        # worker's
        self._connection: Connection | None = None
        self._holding: asyncio.Task[None] | None = None
        self._completed = False

    async def set_state(self, state: DeviceState) -> None:
        """See `Device`."""
        self._completed = state is DeviceState.RUNNING

    async def load(self, phase: Phase, data: memoryview) -> None:
        """Initial: the handshake and packets, cut anywhere."""
        if not data:
            return
        if phase is not Phase.INITIAL:
            raise LocalProtocolError(self.name, "nothing of a channel after its initial phase", phase.name)
        connection = self._connection or await self._connect()
        try:
            connection.write(data)
            await connection.drain(0)
        except TransportError:
            await asyncio.sleep(LAST_WORDS_S)  # main may be about to say why
            raise
        self.passed_bytes += len(data)

    async def _connect(self) -> Connection:
        """After main, whose first bytes tell a QEMU that what follows are channels."""
        await self._home.run(self._qemu.connected())
        connection = self._connection = await Connection.connect(self._to, self._options, self._tls)
        connection.name = f"channel {self.instance} to the QEMU here"
        self._holding = asyncio.get_running_loop().create_task(self._hold(connection))
        return connection

    async def _hold(self, connection: Connection) -> None:
        """To the end of the worker, which cancels it: a channel that is closed before SHUT is a failure to some."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._completed:
                await connection.close()
            else:
                connection.abort()
