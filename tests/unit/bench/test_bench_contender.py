"""Contenders: who runs in what, in which order, and what is said of those that do not."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Self

import pytest
from bench_results import SCENARIO, run

from bench.contender import Contender, alternate, who_runs
from bench.result import Run
from bench.scenario import Scenario

ONE, TWO = (dataclasses.replace(SCENARIO, channels=channels) for channels in (1, 2))


class Fake(Contender):
    """Writes down what happens to it. `channels_max`: more it can't."""

    def __init__(self, name: str, log: list[str], *, channels_max: int = 64) -> None:
        self.name = name
        self.log = log
        self.channels_max = channels_max

    def __enter__(self) -> Self:
        self.log.append(f"+{self.name}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.log.append(f"-{self.name}")

    def unable(self, scenario: Scenario) -> str | None:
        return "too many channels" if scenario.channels > self.channels_max else None

    def run(self, scenario: Scenario) -> Run:
        self.log.append(f"{self.name}{scenario.channels}")
        return run(len(self.log))


def test_runs_alternate() -> None:
    """Every pair runs once before any runs twice, back and forth, while all contenders are set up."""
    log: list[str] = []
    pairs, left_out = who_runs([Fake("a", log), Fake("b", log)], [ONE, TWO])
    made = alternate(pairs, repeat=2)
    once = ["a1", "b1", "a2", "b2"]
    assert (log, left_out) == (["+a", "+b", *once, *reversed(once), "-b", "-a"], {})
    assert [(series.scenario, series.contender, len(series.runs)) for series in made] == [
        (ONE, "a", 2), (ONE, "b", 2), (TWO, "a", 2), (TWO, "b", 2),
    ]  # fmt: skip


def test_rounds_that_warm_up_do_not_count() -> None:
    """They are run, and their figures are in no series."""
    log: list[str] = []
    [made] = alternate([(ONE, Fake("a", log))], repeat=1, warm_up=1)
    assert log == ["+a", "a1", "a1", "-a"]
    assert [each.gbytes_per_s for each in made.runs] == [pytest.approx(3)]


def test_who_can_do_something_does_that(capsys: pytest.CaptureFixture[str]) -> None:
    """A contender runs where it can; one that can nowhere is left out, with its reason, and said loudly."""
    log: list[str] = []
    pairs, left_out = who_runs([Fake("a", log, channels_max=1), Fake("b", log, channels_max=0)], [ONE, TWO])
    assert [(scenario, contender.name) for scenario, contender in pairs] == [(ONE, "a")]
    assert left_out == {"b": "too many channels"}
    assert "b is LEFT OUT: too many channels" in capsys.readouterr().err
