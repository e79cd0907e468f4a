"""What a near relay hands to the native dialect: a device for main and one for each channel (proto/qemu.md section 16).

What they are given leaves as chunks, as fast as the far relay takes it. Their initial phase lasts as long as the two
QEMUs talk: it ends with `finish`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from multifd import limits
from multifd.device import FLUSH, Device, Pending, Phase
from multifd.engine.mailbox import Closed, Mailbox
from multifd.errors import LocalProtocolError
from multifd.qemu.home_loop import HomeLoop
from multifd.slot import Buffer
from multifd.wire.qemu_hop import CHANNEL, MAIN, VERSION, FarWord, parse_word, serialize_order

_END = b""
"""In a channel's box, where nothing else is empty: nothing follows."""


class Carried(Protocol):
    """What main's device carries, and for whom."""

    async def next_chunk(self) -> bytes | None:
        """*loop*: what is next; empty: the stream's end follows; None: nothing follows."""

    async def take_word(self, word: FarWord) -> None:
        """*loop*: what the far relay says."""

    @property
    def guest_runs(self) -> bool:
        """*any*: whether the far end's guest is to run."""


class _Near(Device):
    schema_version = VERSION

    def pending(self) -> Pending:
        """Nothing that it could say beforehand."""
        return Pending()

    async def load(self, phase: Phase, data: memoryview) -> None:
        """Not at a source."""
        raise LocalProtocolError(self.name, "a source", (phase.name, len(data)))


class NearMain(_Near):
    """Main to the far end, and its return path back."""

    id = MAIN
    hears = True

    def __init__(self, carried: Carried) -> None:
        """Made on the loop that `carried` lives on."""
        self._home = HomeLoop()
        self._carried = carried

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """Initial: the stream as it comes. Stop-copy: the last word."""
        if phase is Phase.STOP_COPY:
            yield serialize_order(run=self._carried.guest_runs)
        while phase is Phase.INITIAL and (chunk := await self._home.run(self._carried.next_chunk())) is not None:
            yield chunk
            yield FLUSH

    async def hear(self, data: bytes) -> None:
        """The far relay's next word."""
        await self._home.run(self._carried.take_word(parse_word(data)))


class NearChannel(_Near):
    """A channel to the far end; for the worker that fills it a `FarChannel`."""

    id = CHANNEL
    congestion_control = ""

    def __init__(self, number: int) -> None:
        self.instance = number
        self._box: Mailbox[bytes] = Mailbox(limits.QEMU_HOP_PACKETS_MAX, self._wake)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()
        self._finished = threading.Event()

    # -- for the one who fills it

    def send(self, buffers: Sequence[Buffer]) -> None:
        """*a worker*: hand over all of it; it may be changed afterwards. Waits while it is full. Raises `OSError`."""
        if self._finished.is_set():
            return  # the far end has said that it has everything
        data = b"".join(buffers)
        try:
            for start in range(0, len(data), limits.CHUNK_BYTES_MAX):
                self._box.put(data[start : start + limits.CHUNK_BYTES_MAX])
        except Closed:
            raise BrokenPipeError("the far relay is gone") from None

    def finish(self) -> None:
        """*loop*: everything has been handed over, or need not be any more."""
        if not self._finished.is_set():
            self._finished.set()
            with contextlib.suppress(Closed):
                self._box.put_now(_END)

    def shut(self) -> None:
        """*any*: end it at once; wakes whoever fills it."""
        self._box.close(drop=True)

    def close(self) -> None:
        """*loop*: the same."""
        self.shut()

    # -- device

    async def save(self, phase: Phase) -> AsyncIterator[Buffer]:
        """Initial: what it is filled with. An empty chunk after `QEMU_HOP_ALIVE_S` without anything says that all is
        well.
        """
        if phase is not Phase.INITIAL:
            return
        self._loop = asyncio.get_running_loop()
        while True:
            for chunk in self._box.take_now():
                if not chunk:
                    return
                yield chunk
            yield FLUSH
            try:
                async with asyncio.timeout(limits.QEMU_HOP_ALIVE_S):
                    await self._arrived.wait()
            except TimeoutError:
                yield b""
            self._arrived.clear()

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the worker has ended
                self._loop.call_soon_threadsafe(self._arrived.set)
