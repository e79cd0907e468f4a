"""`multifd demo` moves memory that is being written and devices between two processes, and proves it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multifd.limits import MIB

pytestmark = pytest.mark.slow

WAIT_S = 90  # far more than anything here takes; a hang fails instead of hanging


def demo(*arguments: str, expect: int = 0) -> tuple[str, str]:
    """Run it; stdout and stderr."""
    command = [sys.executable, "-m", "multifd.cli.main", "demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == expect, done.stderr
    return done.stdout, done.stderr


def object_of(out: str) -> dict[str, Any]:
    """The only thing on stdout."""
    (line,) = out.splitlines()
    data: dict[str, Any] = json.loads(line)
    return data


def test_both_sides_are_equal_and_the_object_has_the_whole_story() -> None:
    """64 MiB, two devices, four channels, compressed; every key that programs look for."""
    data = object_of(demo("--size", "64MiB", "--codec", "lz4", "--json")[0])
    assert data["outcome"] == "completed"
    assert data["verified"] is True
    assert data["channels"] == 4
    assert data["rounds"] >= 2
    assert 16 * MIB < data["bytes_sent"] < 200 * MIB
    assert data["throughput_gbytes_per_s"] > 0
    assert data["downtime_ms"] > 0
    assert sum(data["downtime_parts_ms"].values()) == pytest.approx(data["downtime_ms"], abs=5)
    assert data["tracker"].startswith("kernel (")
    assert data["codec"] == "lz4"
    assert data["security"] == "plain"
    assert data["kinds"]["zero"]["bytes"] > 0
    assert set(data["switchover"]) == {"nic/0", "gpu/0"}
    for device in data["switchover"].values():
        assert device["took_part"] is True
        assert device["epoch"] == 1
        assert device["waited_ms"] >= 0
    assert data["counter"]["at_stop"] == data["counter"]["at_start"] < data["counter"]["later"]


def test_slow_devices_are_waited_for_before_the_stop() -> None:
    """Their set-up is no downtime, and the report says who was waited for."""
    data = object_of(demo("--size", "16MiB", "--device-setup-s", "0.8", "--json")[0])
    assert data["verified"] is True
    assert data["downtime_ms"] < 600
    for device in data["switchover"].values():
        assert device["waited_ms"] > 300
        assert device["set_up_ms"] >= 790


def test_without_explicit_switchover_their_set_up_is_downtime() -> None:
    """What the feature is for."""
    data = object_of(demo("--size", "16MiB", "--device-setup-s", "0.8", "--no-explicit-switchover", "--json")[0])
    assert data["verified"] is True
    assert data["explicit_switchover"] is False
    assert data["downtime_ms"] > 600
    assert not any(device["took_part"] for device in data["switchover"].values())


def test_no_convergence_fails_and_the_workload_runs_on() -> None:
    """The reason is told, nothing is claimed to be verified."""
    options = ("--size", "64MiB", "--dirty-mib-per-s", "20000", "--downtime-limit-ms", "6", "--deadline-s", "0.5")
    out, said = demo(*options, "--json", expect=1)
    data = object_of(out)
    assert data["outcome"] == "failed"
    assert data["verified"] is None
    assert data["source_runs_on"] is True
    assert data["waiting_for"]
    assert "no switchover" in said.splitlines()[-1]


def test_the_report_for_people_says_it_all() -> None:
    """The first thing that a new user sees."""
    out, said = demo("--size", "16MiB", "--devices", "1", "--channels", "1")
    assert "16 MiB of memory and 1 emulated device (nic)" in said
    assert "memory at the stop is equal on both sides: 16777216 bytes, digest" in out
    assert "the workload counts on at the destination" in out
    for words in ("throughput", "downtime", "nic/0", "took part", "dirty tracking"):
        assert words in out


def test_it_can_be_interrupted_and_leaves_no_process() -> None:
    """While it waits for a device; the workload of the source was running on."""
    command = [sys.executable, "-m", "multifd.cli.main", "demo", "--size", "16MiB", "--device-setup-s", "60", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        for line in running.stderr:
            if "precopy" in line:
                break
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        running.send_signal(signal.SIGINT)
        data = object_of(running.stdout.read())
        running.stderr.read()
        assert running.wait(WAIT_S) == 130
    assert data["outcome"] == "cancelled"
    assert data["source_runs_on"] is True
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)


@pytest.mark.parametrize(("helper", "name"), [(0, "the workload at the source"), (1, "the destination")])
def test_a_helper_that_dies_is_the_cause(helper: int, name: str) -> None:
    """Which one, and how it ended; no traceback of anybody else."""
    command = [sys.executable, "-m", "multifd", "demo", "--size", "16MiB", "--device-setup-s", "60", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        for line in running.stderr:
            if "precopy" in line:
                break
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(children[helper]), signal.SIGKILL)
        data = object_of(running.stdout.read())
        said = running.stderr.read()
        assert running.wait(WAIT_S) == 1
    assert data["cause"].startswith(f"{name} (process {children[helper]}) ended unexpectedly: killed by SIGKILL")
    assert data["source_runs_on"] is (helper == 1)
    assert "Traceback" not in said
