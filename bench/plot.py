"""A result as a picture. The only file that needs matplotlib, which is optional: `pip install '.[bench]'`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.result import Result, Series, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = "there is no plot: matplotlib is NOT INSTALLED (pip install '.[bench]')"
_WIDTH, _BAR, _FRAME = 11.0, 0.28, 1.3  # inches
_DPI = 110


def available() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def png(result: Result) -> bytes:
    """A row for each family of scenarios: GB/s and processor time, a bar for each series, a dot for each run.

    Raise `BenchError` if matplotlib is not installed.
    """
    if not available():
        raise BenchError(MISSING)
    from matplotlib.figure import Figure

    names = dict.fromkeys(series.contender for series in result.series)
    colours = {name: f"C{number % 10}" for number, name in enumerate(names)}
    families = {
        family: [series for series in result.series if series.scenario.family == family] for family in result.families()
    }
    heights = [_FRAME + _BAR * len(members) for members in families.values()]
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(families), 2, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights})
    for (rates, times), (family, members) in zip(axes, families.items(), strict=True):
        of_runs = [[run.gbytes_per_s for run in series.runs] for series in members]
        _bars(rates, members, colours, [series.gbytes_per_s for series in members], of_runs)
        of_runs = [[run.cpu_s_per_gb for run in series.runs] for series in members]
        _bars(times, members, colours, [series.cpu_s_per_gb for series in members], of_runs)
        rates.set_title(family.name, loc="left", fontsize="medium")
        rates.set_xlabel("GB/s: bars are medians, lines least to most, dots runs")
        times.set_xlabel("processor seconds per GB")
        rates.invert_yaxis()  # the first on top, as in the table
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _bars(
    axes: Axes,
    members: Sequence[Series],
    colours: Mapping[str, str],
    spreads: Sequence[Spread],
    of_runs: Sequence[Sequence[float]],
) -> None:
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.least for spread in spreads]
    above = [spread.most - spread.median for spread in spreads]
    places = range(len(members))
    shades = [colours[series.contender] for series in members]
    axes.barh(places, medians, xerr=(below, above), color=shades, alpha=0.75, capsize=2)
    for place, values in zip(places, of_runs, strict=True):
        axes.plot(values, [place] * len(values), "k.", markersize=3)
    axes.set_yticks(places, [f"{series.contender}, {series.scenario.channels}ch" for series in members])
