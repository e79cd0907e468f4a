"""The throughput bench as a user runs it: small, over loopback, as processes of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import c_limit

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [
    sys.executable,
    "-m",
    "bench",
    "throughput",
    "--size",
    "8MiB",
    "--repeat",
    "1",
    "--congestion",
    "reno",
    "--json",
]
DEADLINE_S = 60


def read(output: str) -> dict[str, Any]:
    result = json.loads(output)
    assert isinstance(result, dict)
    return result


@pytest.mark.slow
def test_measures_ours_and_the_baselines() -> None:
    """Two runs of each channel count gives verified figures, and those of the baselines that can be run here; it says
    which can't.
    """
    done = subprocess.run(
        [*COMMAND, "--channels", "1,2"], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    result = read(done.stdout)
    there = {"multifd": True, "C limit": c_limit.compiler() is not None, "iperf3": shutil.which("iperf3") is not None}
    assert any("verified" in finding for finding in result["findings"])
    assert sorted(result["left_out"]) == sorted(name for name, found in there.items() if not found)
    assert done.stderr.count("LEFT OUT") == len(result["left_out"])
    assert [(series["scenario"]["channels"], series["contender"]) for series in result["series"]] == [
        (channels, name) for channels in (1, 2) for name, found in there.items() if found
    ]
    for series in result["series"]:
        assert series["gbytes_per_s"]["least"] > 0
        assert series["cpu_s_per_gb"]["least"] > 0
        assert {run["congestion"] for run in series["runs"]} == {"reno"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_measures_ours_alone_where_there_is_more_than_copying() -> None:
    """Zeros under TLS to cold memory: the cipher is told, the wire has what is not zero, and no baseline is there."""
    options = ["--channels", "1", "--work", "sparse-10", "--tls", "--cold"]
    done = subprocess.run(
        [*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    result = read(done.stdout)
    [series] = result["series"]
    assert series["scenario"]["name"] == "sparse-10-8MiB-1ch-1MiB-none-reno-loopback-tls-cold"
    assert series["wire_share"] == pytest.approx(0.1, abs=0.01)
    assert result["conditions"]["security"].startswith("TLS 1.3, ")
    assert sorted(result["left_out"]) == ["C limit", "iperf3"]


@pytest.mark.slow
def test_measures_between_two_commands() -> None:
    """--listen and --connect are the halves of one measurement, and either end has its figures."""
    with subprocess.Popen(
        [*COMMAND, "--channels", "2", "--listen", "tcp://127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listening:
        try:
            assert listening.stderr is not None
            address = listening.stderr.readline().split()[2]
            done = subprocess.run(
                [*COMMAND, "--channels", "2", "--connect", address],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=False,
            )
            output, errors = listening.communicate(timeout=DEADLINE_S)
        finally:
            listening.kill()
    assert (done.returncode, listening.returncode) == (0, 0), done.stderr + errors
    sent, received = read(done.stdout), read(output)
    assert (sent["findings"], len(received["findings"])) == ([], 1)  # only one side can verify
    for side in (sent, received):
        [series] = side["series"]
        assert series["gbytes_per_s"]["least"] > 0
        assert series["scenario"]["link"] == "network"
