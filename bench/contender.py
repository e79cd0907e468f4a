"""Who is measured, and in which order: every contender once in every scenario, before any runs twice."""

from __future__ import annotations

import abc
import contextlib
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from bench.result import Run, Series
from bench.scenario import Scenario


class Contender(abc.ABC):
    """Something that moves bytes: ours, a baseline, a peer. What lasts longer than a run lasts while it is entered."""

    name: str
    """For people, and in results."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def unable(self, scenario: Scenario) -> str | None:  # noqa: ARG002
        """Why it has no run in this scenario, and what to do about it; None if it has. Asked before it is entered."""
        return None

    @abc.abstractmethod
    def run(self, scenario: Scenario) -> Run:
        """Run once, and verify what arrived. Raise `BenchError`."""


Pair = tuple[Scenario, Contender]


def who_runs(contenders: Iterable[Contender], scenarios: Sequence[Scenario]) -> tuple[list[Pair], dict[str, str]]:
    """Who runs in which scenario, in order; and why those have no run at all that have none, which is said as well."""
    left_out: dict[str, str] = {}
    able: list[Pair] = []
    for contender in contenders:
        reasons = [contender.unable(scenario) for scenario in scenarios]
        able += [(scenario, contender) for scenario, reason in zip(scenarios, reasons, strict=True) if reason is None]
        if None not in reasons:
            left_out[contender.name] = str(reasons[0])
            tell(f"{contender.name} is LEFT OUT: {reasons[0]}")
    return sorted(able, key=lambda pair: scenarios.index(pair[0])), left_out


def alternate(pairs: Sequence[Pair], *, repeat: int, warm_up: int = 0) -> tuple[Series, ...]:
    """Run all pairs, `repeat` times over, so that drift hits all alike; the first `warm_up` rounds do not count.

    Back and forth, so that none has always the same one before it: memory that the one before gave back is slower for
    whoever gets it next, on a virtual machine whose host takes it at once.
    """
    runs: dict[tuple[Scenario, str], list[Run]] = {(scenario, each.name): [] for scenario, each in pairs}
    with contextlib.ExitStack() as stack:
        for contender in dict.fromkeys(each for _scenario, each in pairs):
            stack.enter_context(contender)
        for number in range(-warm_up, repeat):
            for scenario, contender in pairs if (number + warm_up) % 2 == 0 else reversed(pairs):
                run = contender.run(scenario)
                which = "to warm up" if number < 0 else f"run {number + 1} of {repeat}"
                tell(f"{contender.name}, {scenario.channels} channels, {which}: {run.gbytes_per_s:.2f} GB/s")
                if number >= 0:
                    runs[scenario, contender.name].append(run)
    return tuple(Series(scenario, name, tuple(each)) for (scenario, name), each in runs.items())


def tell(words: str) -> None:
    """Progress, beside the result."""
    print(words, file=sys.stderr, flush=True)
