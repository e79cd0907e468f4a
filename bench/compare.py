"""A/B: two revisions of the library, alternating on this machine, and a rank test that says whether they differ.

Each revision's `multifd` is checked out into a temporary worktree; the benches are the present ones for both, so that
nothing but the library differs. A revision whose library the present benches can't drive can't be measured.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from bench.contender import alternate
from bench.errors import BenchError
from bench.machine import ROOT
from bench.ours import Ours
from bench.ranks import mann_whitney
from bench.result import Result, Series
from bench.throughput import VERIFIED, Plan, check, check_congestion, conditions

PACKAGE = "multifd"
P_MAX = 0.05
"""Above it a difference is not called one: one in twenty comparisons of the same would show as much."""


def local(plan: Plan, revisions: tuple[str, str]) -> Result:
    """Both revisions with each channel count. Raise `BenchError`."""
    check(plan.settings, halves=4)
    facts = machine.describe()
    check_congestion(plan.settings, facts)
    labels = [f"{letter}: {short(revision)}" for letter, revision in zip("AB", revisions, strict=True)]
    with contextlib.ExitStack() as stack:
        both = [
            Ours(plan.settings, name=label, library=stack.enter_context(checked_out(revision)))
            for label, revision in zip(labels, revisions, strict=True)
        ]
        pairs = [(scenario, ours) for scenario in plan.scenarios() for ours in both]
        series = alternate(pairs, repeat=plan.repeat, warm_up=1)
    return Result(
        machine=facts,
        ours=(labels[1],),
        series=series,
        conditions=conditions(plan.settings, pages=both[0].pages, security=both[0].security),
        findings=(VERIFIED, *verdicts(series)),
    )


def verdicts(series: tuple[Series, ...]) -> list[str]:
    """Two sentences for each scenario, of whose series the first is A and the second B."""
    found = []
    for a, b in zip(series[::2], series[1::2], strict=True):
        rates = ([run.gbytes_per_s for run in each.runs] for each in (a, b))
        times = ([run.cpu_s_per_gb for run in each.runs] for each in (a, b))
        rate = b.gbytes_per_s.median / a.gbytes_per_s.median
        time = b.cpu_s_per_gb.median / a.cpu_s_per_gb.median
        found.append(f"{a.scenario.name}, GB/s: {_verdict(rate, mann_whitney(*rates))}")
        found.append(f"{a.scenario.name}, CPU s/GB: {_verdict(time, mann_whitney(*times))}")
    return found


def _verdict(ratio: float, p: float) -> str:
    """In words."""
    if p > P_MAX:
        return f"no difference shown (B is at {ratio:.3f} of A by medians, p = {p:.2g})"
    return f"B DIFFERS: it is at {ratio:.3f} of A (medians, p = {p:.2g})"


def short(revision: str) -> str:
    """Its commit, in few digits. Raise `BenchError` if there is none."""
    return _git("rev-parse", "--verify", "--short", "--end-of-options", f"{revision}^{{commit}}")


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A worktree of the library alone, while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="multifd-bench-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--quiet", "--detach", "--no-checkout", str(tree), short(revision))
        try:
            _git("checkout", "HEAD", "--", PACKAGE, at=tree)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str, at: Path | None = None) -> str:
    try:
        done = subprocess.run(["git", "-C", str(at or ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"git can't be run: {error.strerror} (Debian: apt-get install git)") from error
    if done.returncode:
        raise BenchError(f"git {arguments[0]}: {done.stderr.strip().removeprefix('fatal: ')}")
    return done.stdout.strip()
