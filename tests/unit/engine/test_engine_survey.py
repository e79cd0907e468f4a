"""What a source takes into account when it asks whether it may stop its owner."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from multifd.engine.options import SourceOptions
from multifd.engine.survey import Surveyor
from multifd.limits import FIRST_SWEEP_RATE_SHARE, SWITCHOVER_RATE_SHARE
from multifd.slot import Feed, Work


class Dirty(Feed):
    """A thousand bytes that a sweep would send."""

    name = "dirty"
    kinds = ()

    def pending(self) -> int:
        return 1000

    def collect(self, *, live: bool) -> Iterable[Work]:
        raise AssertionError("nobody collects")


@pytest.mark.parametrize(("rounds", "share"), [(1, FIRST_SWEEP_RATE_SHARE), (2, SWITCHOVER_RATE_SHARE)])
async def test_the_rate_of_the_first_sweep_counts_for_less(rounds: int, share: float) -> None:
    """A stop sends lone pages: until a round of them was measured, the rate of dense memory says little about it."""
    session = SimpleNamespace(round=rounds, began=0.0, decision=None)
    with ThreadPoolExecutor(1) as pool:
        surveyor = Surveyor(session, {"dirty": Dirty()}, {"dirty": pool}, [], SourceOptions())  # type: ignore[arg-type]
        situation = await surveyor.look(1e9, 0.0)
    assert situation.rate == share * 1e9
    assert [feed.pending_bytes for feed in situation.feeds] == [1000]
