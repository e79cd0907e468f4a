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


class Memory(Feed):
    """Bytes that a sweep would send."""

    name = "memory"
    kinds = ()

    def __init__(self, dirty: int) -> None:
        self.dirty = dirty

    def pending(self) -> int:
        return self.dirty

    def collect(self, *, live: bool) -> Iterable[Work]:
        raise AssertionError("nobody collects")


@pytest.mark.parametrize(
    ("rounds", "dirty", "share"),
    [
        (1, 1000, FIRST_SWEEP_RATE_SHARE),
        (1, 0, SWITCHOVER_RATE_SHARE),
        (2, 1000, SWITCHOVER_RATE_SHARE),
    ],
)
async def test_the_rate_of_the_first_sweep_counts_for_less(rounds: int, dirty: int, share: float) -> None:
    """A stop sends lone pages: where there are any, the rate of dense memory says little about it. Where nothing is
    dirty, no other round will ever be measured, and devices are as dense as that.
    """
    session = SimpleNamespace(round=rounds, began=0.0, decision=None)
    with ThreadPoolExecutor(1) as pool:
        surveyor = Surveyor(session, {"memory": Memory(dirty)}, {"memory": pool}, [], SourceOptions())  # type: ignore[arg-type]
        situation = await surveyor.look(1e9, 0.0)
    assert situation.rate == share * 1e9
    assert [feed.pending_bytes for feed in situation.feeds] == [dirty]
