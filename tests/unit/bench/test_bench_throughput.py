"""Throughput: its scenarios and options, and what is refused before anything is allocated. No process is started."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from bench_results import SCENARIO

from bench import __main__ as command
from bench import machine, throughput
from bench.c_limit import CLimit
from bench.errors import BenchError
from bench.half import HalfRun, HalfSettings
from bench.ours import run_of, verify
from multifd.limits import GIB, KIB, MIB

PLAN = throughput.Plan(HalfSettings(size=GIB, slot_bytes=512 * KIB, congestion="cubic"), channels=(1, 4), repeat=3)


def half(*, size: int = GIB, verified: bool | None = True) -> HalfRun:
    return HalfRun(
        elapsed_s=1,
        transfer_s=0.5,
        cpu_s=0.25,
        wire_bytes=size,
        congestion_control="cubic",
        security="plain",
        peak_bytes=7,
        verified=verified,
    )


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at how busy the machine is takes no time."""
    monkeypatch.setattr(machine, "SAMPLE_S", 0)


def test_each_channel_count_is_a_scenario() -> None:
    """They differ in nothing else."""
    first, second = PLAN.scenarios()
    assert first == SCENARIO
    assert (second.channels, second.family) == (4, first.family)


def test_what_the_memory_holds_and_what_is_done_with_it_is_the_scenario() -> None:
    """Work, codec, TLS and cold memory are options, and in the scenario's name."""
    chosen = command.parser().parse_args(["throughput", "--work", "text", "--codec", "zstd:3", "--tls", "--cold"])
    plan = command._plan(command._work(chosen), chosen, "loopback")
    assert plan.scenarios()[0].name == "text-4GiB-1ch-1MiB-zstd:3-cubic-loopback-tls-cold"


def test_a_run_is_what_the_half_saw() -> None:
    """Time is that of the transfer; a run of another size, or one that is not verified, ends the bench."""
    made = run_of(half(), SCENARIO)
    assert (made.bytes, made.seconds, made.cpu_s, made.congestion, made.peak_bytes) == (GIB, 0.5, 0.25, "cubic", 7)
    with pytest.raises(BenchError, match="bytes were moved, not"):
        run_of(half(size=GIB - 1), SCENARIO)
    sparse = run_of(half(size=GIB // 2), dataclasses.replace(SCENARIO, work="sparse-1"))
    assert (sparse.bytes, sparse.wire_bytes) == (GIB, GIB // 2)
    for verified in (False, None):
        with pytest.raises(BenchError, match="digests differ"):
            verify(half(verified=verified))


def test_options_are_read() -> None:
    """Sizes, counts and addresses are what they say; a count that comes twice is one."""
    chosen = command.parser().parse_args(
        ["throughput", "--size", "64MiB", "--channels", "1, 2,4,2", "--slot", "1MiB", "--connect", "192.0.2.1"]
    )
    assert (chosen.size, chosen.channels, chosen.slot, chosen.connect) == (
        64 * MIB,
        (1, 2, 4),
        MIB,
        "tcp://192.0.2.1:5202",
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ["--size", "0"],
        ["--size", "much"],
        ["--channels", "0"],
        ["--channels", "1,,2"],
        ["--channels", "65"],
        ["--slot", "5MiB"],
        ["--repeat", "0"],
        ["--link", "1mbit"],
        ["--work", "homework"],
        ["--codec", "zip"],
        ["--connect", "here:port"],
        ["--connect", "tcp://192.0.2.1:7", "--listen", "tcp://192.0.2.1:7"],
        ["--connect", "tcp://192.0.2.1:7", "--link", "1gbit"],
    ],
)
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with status 2 and says which one it was."""
    with pytest.raises(SystemExit) as ended:
        command.parser().parse_args(["throughput", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that does not fit twice is refused before anything is allocated."""
    monkeypatch.setattr(machine, "memory_available", lambda: 2 * GIB)
    with pytest.raises(BenchError, match=r"needs 2.5 GiB of memory, 2 GiB are available"):
        throughput.local(PLAN)


def test_a_baseline_without_room_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What moves memory of its own needs room for it beside ours."""
    monkeypatch.setattr(machine, "memory_available", lambda: 4 * GIB)
    assert "choose a smaller --size" in str(throughput.Beside(CLimit(tmp_path)).unable(SCENARIO))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"work": "zeros"}, "work zeros"),
        ({"compression": "lz4"}, r"compression \(lz4\)"),
        ({"security": "tls", "cold": True}, "no measure for TLS, cold destination"),
    ],
)
def test_a_baseline_that_copies_is_left_out_of_all_else(other: dict[str, Any], words: str, tmp_path: Path) -> None:
    """What it has no counterpart for is said; random bytes are the same to it whether ours looks for zeros or not."""
    beside = throughput.Beside(CLimit(tmp_path))
    with pytest.raises(BenchError, match=words):
        raise BenchError(beside.unable(dataclasses.replace(SCENARIO, **other)))
    assert throughput.beyond_copying(dataclasses.replace(SCENARIO, work="ram")) is None


def test_zeros_that_nothing_proves_are_refused() -> None:
    """Cold memory holds zeros before any have arrived."""
    with pytest.raises(BenchError, match="leave out --cold"):
        throughput.check(dataclasses.replace(PLAN.settings, work="zeros", cold=True), halves=2)


def test_certificates_are_for_one_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Between hosts TLS is refused, in words."""
    monkeypatch.setattr("sys.argv", ["bench", "throughput", "--tls", "--connect", "192.0.2.1"])
    assert command.main() == 1
    assert "without --tls" in capsys.readouterr().err


def test_unknown_congestion_control_is_told() -> None:
    """A congestion control that the kernel does not have is refused, with those that it has."""
    plan = throughput.Plan(HalfSettings(size=1, slot_bytes=1, congestion="carrier-pigeon"), channels=(1,), repeat=1)
    with pytest.raises(BenchError, match=r"carrier-pigeon is not among .*reno"):
        throughput.local(plan)
