"""Rounds: the works' options."""

from __future__ import annotations

import pytest

from bench import __main__ as command
from bench import dirty_rounds, idle, namespace, precopy
from bench.dirty_rounds import RANDOM, SINGLE, SMALL
from bench.idle import Plan as IdlePlan
from bench.result import Result
from multifd.limits import GIB, MIB


def made_with(monkeypatch: pytest.MonkeyPatch, module: object, *words: str) -> object:
    """The plan that a command line comes to."""
    plans: list[object] = []

    def local(plan: object) -> Result:
        plans.append(plan)
        return Result(machine={}, ours=(), series=())

    monkeypatch.setattr(module, "local", local)
    chosen = command.parser().parse_args(["rounds", *words])
    chosen.make(chosen)
    return plans[0]


def test_pages_are_half_of_the_memory_once_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five sessions, each with one round of single pages and one of random ones."""
    plan = made_with(monkeypatch, dirty_rounds, "pages", "--channels", "1,2")
    assert isinstance(plan, dirty_rounds.Plan)
    assert (plan.works, plan.rounds, plan.repeat, plan.channels) == ((SINGLE, RANDOM), 1, 5, (1, 2))
    assert plan.settings.size == 2 * GIB


def test_small_rounds_are_a_hundred_in_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two channels, of 4 GiB."""
    plan = made_with(monkeypatch, dirty_rounds, "small")
    assert isinstance(plan, dirty_rounds.Plan)
    assert (plan.works, plan.rounds, plan.repeat, plan.channels) == ((SMALL,), 100, 1, (2,))
    assert plan.settings.size == 4 * GIB


def test_a_precopy_has_writer_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MiB/s and 300 ms unless others are asked for; it runs where all have the congestion control."""
    entered: list[tuple[str, str]] = []
    monkeypatch.setattr(namespace, "enter", lambda *of: entered.append(of))
    plan = made_with(monkeypatch, precopy, "precopy", "--downtime-limit-ms", "50")
    assert isinstance(plan, precopy.Plan)
    assert (plan.dirty_mib_per_s, plan.downtime_limit_ms, plan.repeat, plan.size) == (200, 50, 10, GIB)
    assert entered == [("cubic", "loopback")]


def test_idle_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and repetitions are all there is to choose."""
    assert made_with(monkeypatch, idle, "idle", "--size", "1MiB") == IdlePlan(size=MIB, repeat=100)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["pages", "--size", "5000"],
        ["pages", "--size", "8KiB"],
        ["small", "--rounds", "0"],
        ["precopy", "--downtime-limit-ms", "5"],
        ["precopy", "--dirty-mib-per-s", "-1"],
        ["idle", "--channels", "2"],
    ],
)
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with status 2 and is named."""
    with pytest.raises(SystemExit) as ended:
        command.parser().parse_args(["rounds", *wrong])
    assert ended.value.code == 2
    assert (wrong[1] if wrong else "work") in capsys.readouterr().err
