"""Looking at what is dirty and what devices still have: what the decision to switch over rests on. Loop only, but for
the feeds, which are asked in their own threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from multifd import limits
from multifd.engine.options import SourceOptions
from multifd.engine.saver import DeviceSaver
from multifd.session.convergence import DeviceNeed, FeedNeed, Situation, rate_share
from multifd.session.source import SourceSession
from multifd.slot import Feed


class Surveyor:
    """Looks, remembers the last look, and counts how long devices alone stood in the way."""

    def __init__(
        self, session: SourceSession, feeds: Mapping[str, Feed], pools: Mapping[str, Executor],
        savers: Sequence[DeviceSaver], options: SourceOptions,
    ) -> None:  # fmt: skip
        self.last: Situation | None = None
        self.waited: dict[int, float] = {}
        """Device → seconds that all else was ready to switch over and it was not."""
        self._session = session
        self._feeds = feeds
        self._pools = pools
        self._savers = savers
        self._options = options

    async def look(self, rate: float | None, debt_s: float) -> Situation:
        """How it stands. `rate` in bytes per second, as measured; `debt_s` is how long the bandwidth limit would hold
        the stop back.
        """
        loop = asyncio.get_running_loop()
        needs = []
        for name, feed in self._feeds.items():
            pending, words = await loop.run_in_executor(self._pools[name], _look_at, feed)
            needs.append(FeedNeed(name, words, pending))
        dirty_bytes = sum(need.pending_bytes for need in needs)
        expected_rate = rate * rate_share(self._session.round, dirty_bytes) if rate is not None else None
        situation = Situation(
            now=time.monotonic(), began=self._session.began, rate=expected_rate, feeds=needs,
            devices=[self._need(saver) for saver in self._savers], downtime_limit_s=self._options.downtime_limit_s,
            fixed_s=limits.SWITCHOVER_FIXED_S, held_back_s=debt_s, explicit=self._options.explicit_switchover,
        )  # fmt: skip
        self._count_waiting(situation)
        self.last = situation
        return situation

    def _need(self, saver: DeviceSaver) -> DeviceNeed:
        assert self._session.verdict is not None
        pending, epoch = saver.pending, self._session.gate.epochs[saver.number]
        status = self._session.statuses.get(saver.number)
        learned = status.load_s / status.loaded_bytes if status is not None and status.loaded_bytes else None
        return DeviceNeed(
            name=saver.device.name,
            takes_part=self._session.verdict.devices[saver.number - 1].takes_part,
            initial=pending.initial,
            dirty=pending.dirty,
            stop_copy=pending.stop_copy,
            load_seconds_per_byte=learned,
            declared_stop_s=saver.device.stop_seconds,
            initial_sent=saver.initial_saved,
            ready=status is not None and status.ready and status.epoch == epoch,
            doing=status.doing if status is not None else "no status yet",
            epoch=epoch,
            unloaded=max(0, saver.bytes - (status.loaded_bytes if status is not None else 0)),
        )

    def _count_waiting(self, situation: Situation) -> None:
        """By the last decision: the rest fitted the limit, and somebody was not ready."""
        before, decision = self.last, self._session.decision
        if before is None or decision is None or decision.expected_downtime_s is None:
            return
        if decision.expected_downtime_s <= self._options.downtime_limit_s:
            for number, need in enumerate(before.devices, start=1):
                if need.takes_part and not need.ready:
                    self.waited[number] = self.waited.get(number, 0.0) + situation.now - before.now


def _look_at(feed: Feed) -> tuple[int, str]:
    pending = feed.pending()
    return pending, feed.describe() if pending else ""
