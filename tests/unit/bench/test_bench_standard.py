"""The standard bench: what is left of two results that are joined, and of one without QEMU."""

from __future__ import annotations

import dataclasses

import pytest
from bench_results import FACTS, result, run

from bench import namespace, qemu, standard, throughput
from bench.errors import BenchError
from bench.half import HalfSettings
from bench.result import Result, Series
from multifd.limits import GIB, MIB

GUEST = qemu.Plan(size=GIB, channels=4, repeat=1)
PLAN = throughput.Plan(HalfSettings(size=GIB, slot_bytes=MIB, congestion="cubic"), channels=(1,), repeat=1)


def guest_ram() -> Result:
    scenario = dataclasses.replace(GUEST.scenario(), channels=4)
    series = tuple(Series(scenario, name, (run(rate),)) for name, rate in ((qemu.STOCK, 4.0), (qemu.RECEIVE, 5.0)))
    return Result(machine=FACTS, ours=(qemu.RECEIVE,), series=series, conditions={"QEMU": "11.1"}, findings=("SHA",))


def test_joined_results_keep_their_ratios() -> None:
    """Everything of both is there, and what is ours is compared within its own work alone."""
    made = standard.joined(result(), guest_ram())
    assert [(ratio.ours, ratio.other) for ratio in made.ratios()] == [
        ("multifd", "iperf3"),
        (qemu.RECEIVE, qemu.STOCK),
    ]
    assert made.ratios()[1].best == pytest.approx(1.25)
    assert (made.conditions["QEMU"], made.findings[-1], len(made.series)) == ("11.1", "SHA", 6)


@pytest.mark.parametrize("where", ["no QEMU", "no namespace"])
def test_qemu_is_left_out_loudly(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is none, or none that could be compared, the rest is measured, and the result says why."""

    def refuse(_congestion: str, _link: str) -> bool:
        raise BenchError("no namespace")

    monkeypatch.setattr(qemu, "unable", lambda _plan: "no QEMU" if where == "no QEMU" else None)
    monkeypatch.setattr(namespace, "enter", refuse)
    monkeypatch.setattr(throughput, "local", lambda _plan: result())
    made = standard.local(PLAN, GUEST)
    assert made.left_out == {"C limit": "there is no compiler", "QEMU": where}
    assert f"QEMU is LEFT OUT: {where}" in capsys.readouterr().err


def test_a_qemu_that_is_not_there_is_told() -> None:
    """The reason says which there are, and how to get some."""
    assert "no QEMU 0.1: there is" in str(qemu.unable(dataclasses.replace(GUEST, version="0.1")))
