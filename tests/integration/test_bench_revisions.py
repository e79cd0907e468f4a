"""A/B and a shaped link as a user runs them: a revision with itself, small, and what a link lets through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--size", "8MiB", "--repeat", "2", "--channels", "1", "--congestion", "reno", "--json"]
DEADLINE_S = 90
IN_A_NAMESPACE = ["unshare", "--map-root-user", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "tbf"]
BITS = ["rate", "1mbit", "burst", "128kb", "limit", "1mb"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments, *SMALL]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def can_shape() -> bool:
    """Whether this machine lets one make a namespace and shape its loopback."""
    try:
        return subprocess.run([*IN_A_NAMESPACE, *BITS], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def in_a_repository() -> bool:
    return subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not in_a_repository(), reason="there is no repository to take revisions from")
def test_a_revision_is_compared_with_itself() -> None:
    """Both sides are measured and verified, and there is a verdict on throughput and on processor time."""
    done = bench("compare", "HEAD", "HEAD")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [series["contender"][:2] for series in result["series"]] == ["A:", "B:"]
    assert [len(series["runs"]) for series in result["series"]] == [2, 2]
    assert sum("difference shown" in finding or "B DIFFERS" in finding for finding in result["findings"]) == 2


@pytest.mark.slow
def test_a_shaped_link_takes_no_more_than_its_name_says() -> None:
    """No run is faster than the link, but for what the bucket and the socket buffers take at once."""
    if not can_shape():
        pytest.skip("no network namespace with a shaped loopback can be made here")
    done = bench("throughput", "--link", "100mbit")
    assert done.returncode == 0, done.stderr
    series = json.loads(done.stdout)["series"][0]
    assert series["scenario"]["link"] == "100mbit"
    assert series["gbytes_per_s"]["most"] < 2 * 0.0125
