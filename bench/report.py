"""Shows a result in a terminal: what it depends on, one table, the ratios. Measures nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.result import Ratio, Result, Series
from multifd.cli.sizes import format_bytes
from multifd.limits import MIB

HEADINGS = ("scenario", "who", "GB/s", "least", "most", "CPU s/GB", "wire", "peak MiB", "runs")
"""Of the columns that `cells` fills; the first two are words."""

_WIDTH = 200  # whatever the terminal's: a name that is cut off names nothing


def show(result: Result) -> None:
    """Write `result` to stdout for people. The table comes last but for what is found from it."""
    console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    for line in head(result):
        console.print(line, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    for line in (*map(ratio_words, result.ratios()), *result.findings):
        console.print(line, markup=False)


def head(result: Result) -> list[str]:
    """Machine, commit, command, conditions: what a figure is worth nothing without."""
    facts = result.machine
    busy = "idle" if facts["idle_before"] else f"NOT IDLE: {facts['busy_cores_before']} processors busy"
    return [
        f"{facts['cpus']} x {facts['cpu_model']}, {format_bytes(facts['memory_bytes'])}, Linux {facts['kernel']}, "
        f"Python {facts['python']}; before the runs it was {busy} (load {facts['load_average']:.2f})",
        f"system's congestion control: {facts['congestion_control_default']}; "
        f"transparent huge pages: {facts['transparent_huge_pages']}",
        *(f"{name}: {words}" for name, words in result.conditions.items()),
        *(f"{name} is LEFT OUT: {reason}" for name, reason in result.left_out.items()),
        f"commit {facts['commit']}, {result.when}; {' '.join(result.command)}",
    ]


def rows(result: Result) -> list[tuple[str, ...]]:
    """One for each series, scenario by scenario, whose name stands once."""
    found = []
    for scenario in dict.fromkeys(series.scenario for series in result.series):
        members = [series for series in result.series if series.scenario == scenario]
        found += [("" if number else scenario.name, *_cells(series)) for number, series in enumerate(members)]
    return found


def _cells(series: Series) -> tuple[str, ...]:
    rate, peak, share = series.gbytes_per_s, series.peak_bytes, series.wire_share
    return (
        series.contender,
        *(_three_digits(each) for each in (rate.median, rate.least, rate.most)),
        f"{series.cpu_s_per_gb.median:.3f}",
        "" if share is None else f"{share:.3f}",
        "" if peak is None else f"{peak.median / MIB:.0f}",
        str(len(series.runs)),
    )


def _three_digits(rate: float) -> str:
    """`5.12`, and of a slow link `0.0118`."""
    return f"{rate:.2f}" if rate >= 1 else f"{rate:.3g}"


def ratio_words(ratio: Ratio) -> str:
    """One sentence."""
    counts = ", ".join(f"{channels}ch {value:.2f}" for channels, value in ratio.by_channels.items())
    by_channels = f" ({counts})" if len(ratio.by_channels) > 1 else ""
    return (
        f"{ratio.ours} over {ratio.other}, best of each (medians): {ratio.best:.2f}{by_channels}, "
        f"with {ratio.cpu:.2f} of its processor time per GB"
    )
