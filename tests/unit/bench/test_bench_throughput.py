"""Throughput: how runs are ordered, what is made of their figures, and what is shown. No process is started here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import __main__ as command
from bench import machine, report, throughput
from bench.half import HalfSettings
from multifd.limits import GIB, KIB, MIB

PLAN = throughput.Plan(HalfSettings(size=GIB, slot_bytes=512 * KIB, congestion="cubic"), channels=(1, 4), repeat=3)


def measured(*, with_iperf3: bool = True) -> throughput.Measured:
    """Three runs each, of a gigabyte: ours at 4 5 9 and 8 10 20 GB/s, iperf3's at 8 and 12.5."""
    made = throughput.Measured()
    for channels, rates in ((1, (5.0, 4.0, 9.0)), (4, (20.0, 8.0, 10.0))):
        made.ours[channels] = throughput.Column()
        for rate in rates:
            made.ours[channels].add(size=10**9, seconds=1 / rate, cpu_s=0.25, congestion_control="cubic")
        if with_iperf3:
            column = made.baselines.setdefault("iperf3", {}).setdefault(channels, throughput.Column())
            theirs = 8.0 if channels == 1 else 12.5
            column.add(size=10**9, seconds=1 / theirs, cpu_s=0.125, congestion_control="cubic")
    return made


def result(side: str = "both", *, with_iperf3: bool = True) -> dict[str, Any]:
    pages = ["huge pages, 2 MiB"] * 2
    facts = machine.describe()
    return throughput.result(PLAN, side, "tcp://192.0.2.1:7", facts, pages, measured(with_iperf3=with_iperf3))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at how busy the machine is takes no time."""
    monkeypatch.setattr(machine, "SAMPLE_S", 0)


def test_counts_alternate() -> None:
    """Every channel count runs once before any runs twice."""
    assert PLAN.runs() == [1, 4, 1, 4, 1, 4]


def test_figures_are_medians_with_their_spread() -> None:
    """Each count has median, least and most, processor time per GB of both sides, and every run."""
    ours = result()["channels"]["1"]
    assert (ours["gbytes_per_s"], ours["gbytes_per_s_min"], ours["gbytes_per_s_max"]) == (5, 4, 9)
    assert (ours["cpu_s_per_gb"], ours["congestion_control"]) == (0.25, "cubic")
    assert ours["runs"] == [5, 4, 9]


def test_ratios_compare_medians() -> None:
    """Each count is compared with iperf3's same count, and the best of all counts with the best of iperf3's."""
    made = result()
    assert (made["channels"]["1"]["ratio_to_iperf3"], made["channels"]["4"]["ratio_to_iperf3"]) == (0.625, 0.8)
    assert made["ratio_to_iperf3"] == 0.8


def test_without_iperf3_there_is_no_ratio() -> None:
    """Nothing is made up for a baseline that was not run."""
    made = result(with_iperf3=False)
    assert (made["ratio_to_iperf3"], made["channels"]["1"]["iperf3"]) == (None, None)
    assert (made["ratio_to_c_limit"], made["channels"]["1"]["c_limit"]) == (None, None)


def test_a_source_alone_claims_no_verification() -> None:
    """Only the side that has the digest says that it is right."""
    assert [result(side)["verified"] for side in ("both", "destination", "source")] == [True, True, None]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is the result and nothing else, with the machine and the command in it."""
    made = result()
    report.show(made, throughput.BASELINES, as_json=True)
    assert json.loads(capsys.readouterr().out) == made
    assert {"cpus", "kernel", "congestion_control_default", "idle_before", "commit"} <= set(made["machine"])
    assert {"command", "page_size", "size_bytes", "slot_bytes"} <= set(made)


@pytest.mark.parametrize("side", ["both", "source"])
def test_table_has_every_figure(capsys: pytest.CaptureFixture[str], side: str) -> None:
    """The table shows ours and iperf3's for each count, whole, whatever the width of the terminal."""
    report.show(result(side), throughput.BASELINES, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if "multifd" in line or "iperf3  " in line]
    assert ["1", "multifd", "5.00", "4.00", "9.00", "0.250", "cubic"] in rows
    assert ["4", "iperf3", "12.50", "12.50", "12.50", "0.125", "cubic", "0.80"] in rows
    assert any("every run verified" in line for line in lines) == (side == "both")
    assert any("processor time is the source's alone" in line for line in lines) == (side == "source")


def test_options_are_read() -> None:
    """Sizes, counts and addresses are what they say."""
    chosen = command.parser().parse_args(
        ["throughput", "--size", "64MiB", "--channels", "1, 2,4", "--slot", "1MiB", "--connect", "tcp://192.0.2.1:7"]
    )
    assert (chosen.size, chosen.channels, chosen.slot, chosen.connect) == (
        64 * MIB,
        (1, 2, 4),
        MIB,
        "tcp://192.0.2.1:7",
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
        ["--connect", "here:port"],
        ["--connect", "tcp://192.0.2.1:7", "--listen", "tcp://192.0.2.1:7"],
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
    with pytest.raises(throughput.BenchError, match=r"needs 2.5 GiB of memory, 2 GiB are available"):
        throughput.local(PLAN, as_json=True)


def test_unknown_congestion_control_is_told() -> None:
    """A congestion control that the kernel does not have is refused, with those that it has."""
    plan = throughput.Plan(HalfSettings(size=1, slot_bytes=1, congestion="carrier-pigeon"), channels=(1,), repeat=1)
    with pytest.raises(throughput.BenchError, match=r"carrier-pigeon is not among .*reno"):
        throughput.local(plan, as_json=True)
