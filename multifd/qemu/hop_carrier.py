"""The far end as a near relay sees it: a session of the native dialect with the far relay, that carries main and the
channels to it and its words back (proto/qemu.md section 16). Everything here is on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from multifd import limits
from multifd.engine.owner import Owner
from multifd.engine.source import Source
from multifd.errors import (
    CalledOffError,
    LocalProtocolError,
    MigrationInDoubtError,
    MultifdError,
    RemoteProtocolError,
    TransportError,
)
from multifd.qemu.hop_near_devices import NearChannel, NearMain
from multifd.qemu.hop_options import NearOptions
from multifd.slot import Buffer
from multifd.stats import Report
from multifd.wire.qemu_hop import Facts, FarWord

_DRAINED_BYTES = 64 * limits.KIB


class Near(Protocol):
    """Whose far end it is."""

    def handle_word(self, word: FarWord) -> None:
        """*loop*: the far relay says this; anything but its facts."""

    def handle_loaded(self) -> None:
        """*loop*: the far end has the machine: have the source give it up, then `give_up`."""

    def handle_carrier_lost(self, error: MultifdError) -> None:
        """*loop*: the session has ended, and not well."""

    @property
    def guest_runs(self) -> bool:
        """*any*: whether the far end's guest is to run."""


class _RightToRun(Owner):
    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    async def release(self) -> None:
        await self._carrier.released()


class Carrier:
    """One session. For whoever writes to the far end it is main (`FarMain`): what is written leaves as chunks."""

    def __init__(self, to: str, options: NearOptions, near: Near) -> None:
        self.name = "the far relay"
        self.channels = {number: NearChannel(number) for number in range(options.channels)}
        self._near = near
        devices = [NearMain(self), *self.channels.values()]
        self._source = Source(to, devices=devices, owner=_RightToRun(self), options=options.source_options())
        loop = asyncio.get_running_loop()
        self._facts: asyncio.Future[Facts] = loop.create_future()
        self._given_up: asyncio.Future[None] = loop.create_future()
        self._session: asyncio.Task[None] | None = None
        self._error: MultifdError | None = None
        self._out = bytearray()
        self._end_at: int | None = None
        """So many bytes before the stream's end that is not told yet."""
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._finished = False

    async def open(self) -> Facts:
        """Connect to the far relay; what it has to say of its QEMU. Raises `MultifdError`."""
        self._session = asyncio.get_running_loop().create_task(self._carry())
        return await asyncio.shield(self._facts)

    @property
    def report(self) -> Report | None:
        """What became of the session, or how it stands."""
        return self._source.report

    @property
    def guest_runs(self) -> bool:
        """*any*: whether the far end's guest is to run."""
        return self._near.guest_runs

    @property
    def movement(self) -> object:
        """Another one whenever bytes have left for the far relay, or it has written some to its QEMU."""
        report = self.report
        return report and (report.bytes_sent, [device.load_ms for device in report.switchover])

    # -- as main's connection

    @property
    def security(self) -> str:
        """Of the connections to the far relay."""
        return self.report.security if self.report is not None else ""

    @property
    def backlog(self) -> int:
        """Bytes that were written and have not left as chunks."""
        return len(self._out)

    def write(self, data: Buffer) -> None:
        """Send it, in order. Raises `TransportError` if the far relay is lost."""
        if self._error is not None:
            raise TransportError(f"{self.name} is lost: {self._error}")
        self._out += data
        self._more.set()

    def write_end(self, data: Buffer) -> None:
        """The same with the end of the stream: from then on the far end can have the machine."""
        self._end_at = len(self._out)
        self.write(data)

    async def drain(self, left: int = _DRAINED_BYTES) -> None:
        """Wait until at most `left` bytes have not left. Raises `TransportError`."""
        while len(self._out) > left and self._error is None:
            self._less.clear()
            await self._less.wait()
        self.write(b"")

    def finish(self) -> None:
        """Nothing follows on main or any channel that the far end would miss."""
        self._finished = True
        self._more.set()
        for channel in self.channels.values():
            channel.finish()

    def give_up(self) -> None:
        """The source has given the machine up: so may this session (COMMIT)."""
        if not self._given_up.done():
            self._given_up.set_result(None)

    async def committed(self) -> None:
        """Wait until the far relay has said that all is done there. Raises `MultifdError` if it does not."""
        assert self._session is not None
        await asyncio.shield(self._session)
        if self._error is not None:
            raise self._error

    def abort(self, cause: str = "the near relay has ended it") -> None:
        """Call it off, unless it is too late."""
        self._lose(CalledOffError(cause))

    async def close(self) -> None:
        """Wait until the session has ended and everything is released."""
        self.give_up()
        if self._session is not None:
            await asyncio.wait({self._session})

    # -- for main's device and the session's owner

    async def next_chunk(self) -> bytes | None:
        """See `Carried`."""
        while not self._out and self._end_at is None and not self._finished:
            self._more.clear()
            await self._more.wait()
        if self._end_at == 0:
            self._end_at = None
            return b""
        length = min(len(self._out), limits.CHUNK_BYTES_MAX, *(() if self._end_at is None else (self._end_at,)))
        if not length:
            return None
        with memoryview(self._out)[:length] as view:
            chunk = bytes(view)
        del self._out[:length]
        if self._end_at is not None:
            self._end_at -= length
        self._less.set()
        return chunk

    async def take_word(self, word: FarWord) -> None:
        """See `Carried`."""
        if not isinstance(word, Facts):
            self._near.handle_word(word)
        elif self._facts.done():
            raise RemoteProtocolError("the far relay's facts", "them once")
        else:
            self._facts.set_result(word)

    async def released(self) -> None:
        """The far end has everything: returns when the source has given the machine up. Raises what was in the way."""
        if not self._finished:
            raise LocalProtocolError("Carrier", "the far end's SHUT after the end of main")
        self._near.handle_loaded()
        await asyncio.shield(self._given_up)

    # -- inside

    async def _carry(self) -> None:
        try:
            await self._source.run()
        except MigrationInDoubtError as error:
            self._lose(error)
            with contextlib.suppress(MultifdError):
                await self._source.resolve(started=True)  # what it holds is of no more use
        except MultifdError as error:
            self._lose(error)
        except Exception as error:  # nobody else would hear of it
            self._lose(MultifdError(f"{self.name}: {type(error).__name__}: {error}"))

    def _lose(self, error: MultifdError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._source.cancel(str(error))
        for future in (self._facts, self._given_up):
            if not future.done():
                future.set_exception(error)
                future.exception()  # perhaps nobody waits for it
        self._less.set()
        self._near.handle_carrier_lost(error)
