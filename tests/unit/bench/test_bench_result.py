"""Results: what is made of runs, and that a file has all of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from bench_results import result, run, series

from bench.errors import BenchError
from bench.result import Spread, read
from multifd.limits import MIB


def test_figures_are_medians_with_their_spread() -> None:
    """A series has median, least and most of its runs, and processor time per GB of both sides."""
    ours = result().series[0]
    assert ours.gbytes_per_s == Spread(5, 4, 9)
    assert ours.cpu_s_per_gb.median == 0.25


def test_peak_memory_is_said_where_it_is_known() -> None:
    """Of the runs that know theirs; none knows it, and there is none."""
    assert series("multifd", 1, 5.0, peak=MIB).peak_bytes == Spread(MIB, MIB, MIB)
    assert series("iperf3", 1, 5.0).peak_bytes is None


def test_bytes_on_the_wire_are_a_share_of_the_state() -> None:
    """The median of the runs of which it is known; none for what can't tell."""
    ours = result().series[0]
    runs = tuple(dataclasses.replace(run(4.0), wire_bytes=sent) for sent in (10**8, 10**9, 2 * 10**8))
    assert dataclasses.replace(ours, runs=runs).wire_share == 0.2
    assert ours.wire_share is None


def test_ratios_compare_medians() -> None:
    """Each channel count with the same count, and the best of all counts with the best of the other's."""
    [ratio] = result().ratios()
    assert (ratio.ours, ratio.other) == ("multifd", "iperf3")
    assert ratio.by_channels == pytest.approx({1: 0.625, 4: 0.8})
    assert (ratio.best, ratio.cpu) == pytest.approx((0.8, 2))


def test_a_peer_without_some_counts_is_compared_at_its_best() -> None:
    """A peer that ran with one count is compared with the best of ours of any count."""
    ratio = result(series("peer", 1, 2.0)).ratios()[1]
    assert ratio.by_channels == pytest.approx({1: 2.5})
    assert ratio.best == pytest.approx(5)


def test_a_file_has_all_of_it(tmp_path: Path) -> None:
    """What is read is what was written, run by run."""
    made = result()
    path = tmp_path / "result.json"
    path.write_text(json.dumps(made.to_json()), encoding="utf-8")
    assert read(path) == made
    assert made.to_json()["series"][0]["gbytes_per_s"] == {"median": 5, "least": 4, "most": 9}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"series": []}'])
def test_another_file_is_told(tmp_path: Path, text: str) -> None:
    """Anything but a result is refused in one sentence, and so is a file that is not there."""
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match="is no result of a bench"):
        read(path)
    with pytest.raises(BenchError, match=r"can't read .*No such file"):
        read(tmp_path / "missing.json")


def test_rates_are_of_decimal_gigabytes() -> None:
    """GB is 10^9 bytes."""
    assert (run(4.0).gbytes_per_s, run(4.0, cpu_s=0.5).cpu_s_per_gb) == (4, 0.5)
