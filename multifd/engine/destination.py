"""`Destination`: what a user has in hand to receive state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from multifd import messages as m
from multifd.device.interface import Device
from multifd.engine.destination_run import DestinationRun
from multifd.engine.listener import Listener
from multifd.engine.main_stream import MainStream
from multifd.engine.names import BUILT_IN, check_unique
from multifd.engine.offer import DeviceProvider, Provider
from multifd.engine.options import DestinationOptions
from multifd.engine.owner import Owner
from multifd.engine.progress import ProgressFeed
from multifd.engine.reporting import destination_report, finish
from multifd.engine.session_run import to_its_end
from multifd.memory import Block
from multifd.slot import SlotKind
from multifd.stats import Progress, Report

_log = logging.getLogger("multifd")


class Destination:
    """Receives one migration on a listener: into `blocks` and `devices` (each may be what a provider makes for what is
    offered), and a user's own `kinds`.

    Preflights, refused offers (unless `end_if_refused`) and strangers do not count: it goes on waiting for a source
    whose state has begun to arrive.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        blocks: Sequence[Block] | Provider = (),
        devices: Sequence[Device] | DeviceProvider = (),
        kinds: Sequence[SlotKind] = (),
        owner: Owner | None = None,
        options: DestinationOptions | None = None,
    ) -> None:
        if not callable(blocks):
            check_unique("block", [block.name for block in blocks])
        if not callable(devices):
            check_unique("device", [device.name for device in devices])
        check_unique("kind", [*BUILT_IN, *(kind.name for kind in kinds)])
        self._listener = listener
        self._blocks = blocks
        self._devices = devices if callable(devices) else tuple(devices)
        self._kinds = tuple(kinds)
        self._owner = owner or Owner()
        self._options = options or DestinationOptions()
        self._progress = ProgressFeed()
        self._active: DestinationRun | None = None
        self._released = asyncio.Event()
        """Set when there is no active session any more."""
        self._latest: DestinationRun | None = None
        self._done: asyncio.Future[DestinationRun] | None = None

    async def run(self) -> Report:
        """Wait for a source and receive. Returns the report when the owner runs here; raises `MigrationFailedError`
        with the report otherwise.

        When the task is cancelled everything is released before it ends; after COMMIT that is when the owner has
        started or failed to, which `report` tells.
        """
        self._done = asyncio.get_running_loop().create_future()
        try:
            with self._listener.hosted_by(self):
                run = await self._done
            self._progress.publish(run.snapshot())
            return finish(destination_report(run), run.error)
        finally:
            try:
                if self._active is not None:
                    self._active.cancel("the destination was cancelled")
                    await to_its_end(self._released.wait())
            finally:
                self._progress.close()

    @property
    def report(self) -> Report | None:
        """How the last session that was accepted ended, or stands; None before it. For a task that was cancelled after
        COMMIT, say.
        """
        return destination_report(self._latest) if self._latest is not None else None

    def cancel(self, cause: str = "cancelled") -> bool:
        """Call the session that is under way off. False if there is none, or it is too late (COMMIT is here)."""
        return self._active is not None and self._active.cancel(cause)

    def progress(self) -> AsyncIterator[Progress]:
        """Snapshots, about ten a second, until the session ends."""
        return self._progress.read()

    # -- for the listener

    async def serve(self, stream: MainStream, hello: m.Hello) -> None:
        """One session. It is *the* session once its state has begun to arrive."""
        run = DestinationRun(
            self._listener, stream, blocks=self._blocks, devices=self._devices, kinds=self._kinds, owner=self._owner,
            options=self._options, progress=self._progress, claim=self._claim,
        )  # fmt: skip
        try:
            await run.run(hello)
        finally:
            if self._active is run:
                self._active = None
                self._released.set()
            counts = run.had_state or (run.refused_offer and self._options.end_if_refused)
            if counts and self._done is not None and not self._done.done():
                self._latest = run
                self._done.set_result(run)
            elif run.error is not None:
                _log.info("a session ended before its state began to arrive: %s", run.error)

    def _claim(self, run: DestinationRun) -> bool:
        if self._active is not None or (self._done is not None and self._done.done()):
            return False
        self._active = self._latest = run
        self._released.clear()
        return True
