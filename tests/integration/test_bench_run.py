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
    baselines = {"iperf3": shutil.which("iperf3") is not None, "c_limit": c_limit.compiler() is not None}
    assert result["verified"] is True
    assert list(result["channels"]) == ["1", "2"]
    for column in result["channels"].values():
        assert column["gbytes_per_s"] > 0
        assert column["cpu_s_per_gb"] > 0
        assert column["congestion_control"] == "reno"
        for name, there in baselines.items():
            assert (column[name] is not None) == there
            assert (column[f"ratio_to_{name}"] is not None) == there
    assert done.stderr.count("NOT INSTALLED") == list(baselines.values()).count(False)


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
    assert (sent["side"], sent["verified"]) == ("source", None)
    assert (received["side"], received["verified"]) == ("destination", True)
    assert sent["channels"]["2"]["gbytes_per_s"] > 0
