"""`Source`: what a user has in hand to send state."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence

from multifd import messages as m
from multifd.codec import AUTO, NONE, feature_of
from multifd.device.interface import Device
from multifd.engine.names import BUILT_IN, check_unique
from multifd.engine.options import GiveUp, OnRearm, SourceOptions
from multifd.engine.owner import Owner
from multifd.engine.progress import ProgressFeed
from multifd.engine.reporting import finish, source_report
from multifd.engine.source_run import SourceRun
from multifd.engine.transport import Address
from multifd.errors import LocalProtocolError
from multifd.kinds.chunk import NAME as CHUNK
from multifd.kinds.ram import RamFeed
from multifd.memory import Block
from multifd.messages import ANY_CODEC, DEVICE_MESSAGES, EXPLICIT_SWITCHOVER
from multifd.session.plans import SourcePlan
from multifd.session.states import SourceState
from multifd.slot import Feed
from multifd.stats import Progress, Report


class Source:
    """Sends blocks, devices and feeds of a user's own kinds to a destination, while `owner` runs.

    `address` is `tcp://HOST:PORT` or `unix:///PATH`. One object is good for one `run` (and any number of preflights
    before it).
    """

    def __init__(
        self,
        address: str,
        *,
        blocks: Sequence[Block] = (),
        devices: Sequence[Device] = (),
        feeds: Sequence[Feed] = (),
        owner: Owner | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        check_unique("feed", ["ram"] * bool(blocks) + [feed.name for feed in feeds])
        check_unique("kind", [*BUILT_IN, *(kind for feed in feeds for kind in feed.kinds)])
        check_unique("block", [block.name for block in blocks])
        check_unique("device", [device.name for device in devices])
        self._address = Address.parse(address)
        self._blocks = tuple(blocks)
        self._devices = tuple(devices)
        self._user_feeds = tuple(feeds)
        self._owner = owner or Owner()
        self._options = options or SourceOptions()
        self._progress = ProgressFeed()
        self._run: SourceRun | None = None

    async def run(self) -> Report:
        """Migrate. Returns the report when the destination runs.

        Raises `MigrationRefusedError`, `MigrationFailedError`, `MigrationCancelledError` (the owner runs on here) or
        `MigrationInDoubtError` (it runs nowhere here until `ask_again` or `resolve`); each has the report. Raises
        `TrackingError`, with nothing begun, if a block can't be tracked as was asked for.
        """
        if self._run is not None:
            raise LocalProtocolError("Source.run", "to be called once")
        options = self._options
        ram = RamFeed(self._blocks, slot_bytes=options.slot_bytes, zero_detection=options.zero_detection)
        feeds = [*([ram] if self._blocks else []), *self._user_feeds]
        self._run = self._make_run(feeds, preflight=False)
        try:
            await self._run.run()
        finally:
            self._progress.publish(self._run.snapshot())
            self._progress.close()
        return finish(source_report(self._run, self._blocks, options), self._run.error)

    async def preflight(self) -> Report:
        """Ask whether the destination would take all this, and send nothing.

        Returns a report with outcome `preflighted`; raises `MigrationRefusedError` with every reason in
        `report.refusals`.
        """
        run = self._make_run(self._user_feeds, preflight=True)
        await run.run()
        return finish(source_report(run, (), self._options), run.error)

    @property
    def report(self) -> Report | None:
        """How `run` ended, or stands; None before it. For a task that was cancelled after COMMIT, say."""
        return source_report(self._run, self._blocks, self._options) if self._run is not None else None

    def cancel(self, cause: str = "cancelled") -> bool:
        """Call the migration off. False if it is too late (COMMIT is sent) or there is none."""
        return self._run is not None and self._run.cancel(cause)

    def progress(self) -> AsyncIterator[Progress]:
        """Snapshots, about ten a second, until the session ends. May be read before `run` is called."""
        return self._progress.read()

    async def ask_again(self) -> Report:
        """After `MigrationInDoubtError`: ask the destination once more. Returns or raises as `run` does."""
        run = self._in_doubt()
        await run.continue_in_doubt(lambda: run.session.ask_again(run.now))
        return finish(source_report(run, self._blocks, self._options), run.error)

    async def resolve(self, *, started: bool) -> Report:
        """After `MigrationInDoubtError`: the operator's word. With `started` false the owner goes on here: be sure.
        Returns or raises as `run` does.
        """
        run = self._in_doubt()
        await run.continue_in_doubt(lambda: run.session.resolve(started=started, now=run.now))
        return finish(source_report(run, self._blocks, self._options), run.error)

    def _in_doubt(self) -> SourceRun:
        if self._run is None or self._run.session.state is not SourceState.IN_DOUBT:
            raise LocalProtocolError("Source", "a session that is in doubt")
        return self._run

    def _make_run(self, feeds: Sequence[Feed], *, preflight: bool) -> SourceRun:
        options = self._options
        features = [EXPLICIT_SWITCHOVER] if options.explicit_switchover else []
        if any(device.hears for device in self._devices):
            features.append(DEVICE_MESSAGES)
        if options.codec != NONE:
            features.append(ANY_CODEC if options.codec == AUTO else feature_of(options.codec))
        names = [*(["ram", "zero"] if self._blocks else []), *([CHUNK] if self._devices else [])]
        names += [kind for feed in feeds for kind in feed.kinds if kind not in names]
        plan = SourcePlan(
            session=secrets.token_bytes(16),
            features=tuple(features),
            channels=options.channels,
            blocks=tuple(m.BlockInfo(block.name, block.length, block.page_size) for block in self._blocks),
            devices=tuple(
                m.DeviceInfo(
                    each.id,
                    each.instance,
                    each.schema_version,
                    each.token,
                    each.explicit_switchover,
                    each.expected_bytes,
                )
                for each in self._devices
            ),
            kinds=tuple(m.KindInfo(name) for name in names),
            classes=tuple(feed.name for feed in feeds),
            preflight=preflight,
            deadline_s=options.deadline_s,
            switch_at_deadline=options.give_up is GiveUp.SWITCH,
            return_on_rearm=options.on_rearm is OnRearm.RETURN,
            auto_converge=options.auto_converge,
            # else there is nothing to wait for
            releases=DEVICE_MESSAGES in features or type(self._owner).release is not Owner.release,
        )
        return SourceRun(
            self._address,
            plan,
            feeds=() if preflight else feeds,
            devices=() if preflight else self._devices,
            owner=self._owner,
            options=options,
            progress=ProgressFeed() if preflight else self._progress,
        )
