"""Peers move memory as a user would have them do it: small, over loopback; those that are not installed are skipped."""

from __future__ import annotations

import pytest

from bench.contender import Contender
from bench.peers.every import EVERY
from bench.scenario import MEMORY, Scenario
from multifd.limits import KIB, MIB

SCENARIO = Scenario(work=MEMORY, size=3 * MIB + 17, channels=1, piece_bytes=512 * KIB, congestion="reno")


@pytest.mark.slow
@pytest.mark.parametrize("peer", EVERY, ids=lambda peer: peer.name)
def test_what_arrives_is_what_was_sent(peer: Contender) -> None:
    """A run of a size that no piece divides is verified by digest, and has every figure."""
    if (reason := peer.unable(SCENARIO)) is not None:
        pytest.skip(reason)
    run = peer.run(SCENARIO)
    assert run.bytes == SCENARIO.size
    assert run.seconds > 0
    assert run.cpu_s > 0
