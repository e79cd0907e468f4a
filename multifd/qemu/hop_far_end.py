"""The QEMU beside a far relay: its main connection and return path, and what is known of it. Everything here is on the
relay's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable

from multifd import limits
from multifd.elements import Configuration, ReturnMessage, Shut
from multifd.engine.connection import Connection
from multifd.engine.owner import Owner
from multifd.engine.transport import Address
from multifd.errors import Code, MultifdError, PeerError, RemoteProtocolError, TransportError
from multifd.qemu.home_loop import HomeLoop
from multifd.qemu.hop_far_devices import FarMain
from multifd.qemu.qmp import Monitor
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.wire.qemu_hop import Facts, FarWord, Gone, Released, Returned, Whole
from multifd.wire.qemu_return import ReturnReader, serialize_return
from multifd.wire.qemu_stream import StreamReader

_READ_BYTES = 64 * limits.KIB


class FarStep(enum.Enum):
    """What a far relay is about to do."""

    CONNECT = "connect"
    """Connect main to the QEMU here."""
    RELEASE = "release"
    """Give it the end of the stream."""
    WHOLE = "whole"
    """Tell that it has said SHUT 0."""
    RUN = "run"
    """Let its guest run, if that is this relay's to do."""


class FarEnd(Owner):
    """One QEMU, for one session: whose owner it is, and whom main's device writes to."""

    def __init__(
        self,
        to: Address,
        options: QemuRelayOptions,
        *,
        fail: Callable[[str], object],
        before: Callable[[FarStep], object],
    ) -> None:
        """`fail` ends the session with this cause; `before` is called at each step."""
        self.monitor: Monitor | None = None
        """Set before the session begins if there is one."""
        self.error: MultifdError | None = None
        """What went wrong here, if it did."""
        self.machine = ""
        self.main_bytes = 0
        self.security = ""
        self.released = False
        """The stream's end was written, or is being written: the QEMU can have the machine."""
        self.shut: int | None = None
        self.gone = False
        """It ended main without SHUT, by its own doing."""
        self.continued = False
        self.notes: list[str] = []
        self.home = HomeLoop()
        self.device: FarMain | None = None
        """Main's, of the session that has begun."""
        self._to = to
        self._options = options
        self._fail = fail
        self._before = before
        self._main: Connection | None = None
        self._is_connected = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._runs = False
        self._whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beginning: StreamReader | None = StreamReader()

    @property
    def continues(self) -> bool:
        """It was started with -S, and its guest runs when this relay says so."""
        return self.monitor is not None

    async def close(self, *, completed: bool) -> None:
        """Let go of it."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._main is not None and completed:
            await self._main.close()
        if self._main is not None:
            self._main.abort()

    # -- for main's device

    async def begin(self, device: FarMain) -> None:
        """See `FarQemu`."""
        self.device = device
        await device.say(Facts(self.continues, self._options.out_compression))

    async def connected(self) -> None:
        """See `FarQemu`."""
        await self._is_connected.wait()

    def order(self, *, run: bool) -> None:
        """See `FarQemu`."""
        self._runs = run

    async def write_main(self, data: bytes) -> None:
        """See `FarQemu`."""
        if not data:
            if not self.released:
                self.released = True
                self._before(FarStep.RELEASE)
                await self._say(Released())
            return
        main = self._main or await self._connect()
        self._look(data)
        try:
            main.write(data)
            await main.drain(0)
        except TransportError:
            await asyncio.sleep(limits.LAST_WORDS_S)  # who reads it may be about to say why
            raise
        self.main_bytes += len(data)
        self._is_connected.set()

    async def _connect(self) -> Connection:
        self._before(FarStep.CONNECT)
        main = self._main = await Connection.connect(self._to, tls=self._options.out_tls)
        main.name = "main to the QEMU here"
        self.security = main.security
        self._reading = asyncio.get_running_loop().create_task(self._read(main))
        return main

    def _look(self, data: bytes) -> None:
        """What machine it is: nothing else of the stream is this relay's business."""
        if self._beginning is None:
            return
        with contextlib.suppress(RemoteProtocolError):
            for element in self._beginning.feed(data):
                if isinstance(element, Configuration):
                    self.machine = element.machine
                    break
            else:
                return
        self._beginning = None

    # -- the return path

    async def _read(self, main: Connection) -> None:
        reader = ReturnReader()
        try:
            while data := await main.read(_READ_BYTES):
                for message in reader.feed(data):
                    await self._handle(message)
            reader.end()
            await self._ended(None)
        except TransportError as error:
            await self._ended(error)
        except MultifdError as error:
            self._lose(error)

    async def _handle(self, message: ReturnMessage) -> None:
        if not isinstance(message, Shut):
            await self._say(Returned(serialize_return(message)))
            return
        self.shut = message.status
        if message.status:
            await self._last_word(Returned(serialize_return(message)))
            cause = f"the QEMU here refused the machine (SHUT {message.status}): its stderr says why"
            self._lose(PeerError(Code.REFUSED, cause))
        elif not self.released:
            self._lose(RemoteProtocolError("the SHUT 0 of the QEMU here", "it after the end of main"))
        else:
            self._before(FarStep.WHOLE)
            await self._last_word(Whole())
            self._whole.set_result(None)

    async def _ended(self, error: TransportError | None) -> None:
        if self.shut is not None:
            return
        self.gone = error is None or isinstance(error.__cause__, ConnectionError)
        cause = "the QEMU here ended main without SHUT: it has refused the machine or died; its stderr says why"
        told = f"{cause} ({error})" if error is not None else cause
        if self.gone:
            await self._last_word(Gone(told))
        self._lose(TransportError(told))

    async def _last_word(self, word: FarWord) -> None:
        """A near relay that does not listen is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.LAST_WORDS_S):
                await self._say(word)

    async def _say(self, word: FarWord) -> None:
        assert self.device is not None
        await self.device.say(word)

    def _lose(self, error: MultifdError) -> None:
        self.error = self.error or error
        if not self._whole.done():
            self._whole.set_exception(error)
            self._whole.exception()  # perhaps nobody waits for it
        self._fail(str(error))

    # -- the owner

    async def prepare(self) -> None:
        """Everything is written: wait for its SHUT 0."""
        await asyncio.shield(self._whole)

    async def start(self) -> None:
        """The source has given the guest up."""
        self._before(FarStep.RUN)
        if self.monitor is None:
            return
        if not self._runs:
            self.notes.append("the guest did not run at the source: it was not continued here")
            return
        await self.monitor.run_guest()
        self.continued = True
