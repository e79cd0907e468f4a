"""Peers as contenders: when they can run, what is made of both sides' reports, and what happens when a side fails."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from bench_results import SCENARIO

from bench.errors import BenchError
from bench.peers.every import EVERY
from bench.peers.peer import Peer, put_together, run_together
from bench.peers.side import SideReport
from bench.peers.streams import connect

PEER = Peer(name="peer", connect=connect, package="json", install="pip install it", channels_max=1)
SOURCE = SideReport(began=10.0, ended=10.5, cpu_s=1.0, peak_bytes=7, digest="same")


def test_a_run_ends_with_the_later_side() -> None:
    """From the source's beginning to the end of both; processor time of both, and the larger peak."""
    made = put_together("peer", [SOURCE, dataclasses.replace(SOURCE, began=10.2, ended=11.0, peak_bytes=9)], SCENARIO)
    assert (made.seconds, made.cpu_s, made.peak_bytes, made.bytes) == (1.0, 2.0, 9, SCENARIO.size)


def test_a_peer_is_verified() -> None:
    """Memories that differ end the bench."""
    with pytest.raises(BenchError, match="peer: what arrived is not what was sent"):
        put_together("peer", [SOURCE, dataclasses.replace(SOURCE, digest="other")], SCENARIO)


def test_what_is_missing_is_told() -> None:
    """A peer that is not installed says what to install, one that takes no more channels how many it takes."""
    assert PEER.unable(SCENARIO) is None
    assert "NOT INSTALLED (pip install it)" in str(
        dataclasses.replace(PEER, package="no_such_package").unable(SCENARIO)
    )
    assert "with --channels 1 only" in str(PEER.unable(dataclasses.replace(SCENARIO, channels=2)))


def test_peers_have_names_of_their_own() -> None:
    """No two share one, since results tell them apart by it."""
    assert len({peer.name for peer in EVERY}) == len(EVERY)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_the_last_line_is_the_report() -> None:
    """What libraries write before it is none of ours."""
    assert run_together("peer", [python("print('noise'); print('{}')"), python("print(1)")], {}) == ["{}", "1"]


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise SystemExit('no port')", "peer failed with status 1: no port"), ("pass", "peer ended without a report")],
)
def test_a_side_that_fails_ends_the_other(code: str, words: str) -> None:
    """The other, which waits for it, does not outlive it, and what it said is told."""
    with pytest.raises(BenchError, match=words):
        run_together("peer", [python(code), python("import signal; signal.pause()")], {})
