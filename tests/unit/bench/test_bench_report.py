"""What is shown of a result: table, page and plot have every figure and every condition."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
from bench_results import result, series

from bench import outputs, page, plot, report
from bench.errors import BenchError
from bench.result import Result

PNG = b"\x89PNG\r\n\x1a\n"
needs_matplotlib = pytest.mark.skipif(not plot.available(), reason="matplotlib is not installed")


def options(**chosen: object) -> argparse.Namespace:
    return argparse.Namespace(**{"json": False, "html": None, "png": None, **chosen})


def test_table_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Every series has a row, whole whatever the width of the terminal; ratios and findings follow."""
    report.show(result())
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    name = "memory-1GiB-1ch-512KiB-none-cubic-loopback"
    assert [name, "multifd", "5.00", "4.00", "9.00", "0.250", "46", "3"] in rows
    assert ["iperf3", "12.50", "12.50", "12.50", "0.125", "3"] in rows
    assert "multifd over iperf3, best of each (medians): 0.80 (1ch 0.62, 4ch 0.80)" in lines[-2]
    assert lines[-1] == "every run verified"


def test_head_says_what_figures_depend_on() -> None:
    """Machine, whether it was idle, conditions, who was left out and why, commit and command."""
    text = "\n".join(report.head(result()))
    for words in (
        "Example <1>", "NOT IDLE: 0.9 processors busy", "bbr", "pages: huge pages, 2 MiB",
        "C limit is LEFT OUT: there is no compiler", "commit 0123456", "python -m bench",
    ):  # fmt: skip
        assert words in text


def test_slow_links_keep_their_digits() -> None:
    """A rate below 1 GB/s has three digits, whatever its size."""
    assert report.rows(result(series("slow", 1, 0.0118)))[2][2] == "0.0118"


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is the result and nothing else."""
    made = result()
    outputs.deliver(made, options(json=True))
    assert Result.from_json(json.loads(capsys.readouterr().out)) == made


@needs_matplotlib
def test_a_page_needs_nothing_else() -> None:
    """Table and plot are in the page, and it asks for nothing from elsewhere; text is text, not HTML."""
    text = page.html(result())
    assert re.findall(r'src="([^,]*),', text) == ["data:image/png;base64"]
    assert re.search(r"https?:|<link|<script|@import|url\(", text) is None
    assert "<td>5.00</td>" in text
    assert "Example &lt;1&gt;" in text


def test_a_page_without_matplotlib_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the table and says what to install, and so does the command before it measures."""
    monkeypatch.setattr(plot, "available", lambda: False)
    assert "matplotlib is NOT INSTALLED (pip install" in page.html(result())
    outputs.check(options(html=Path("page.html")))
    assert "matplotlib is NOT INSTALLED" in capsys.readouterr().err


def test_what_can_not_be_made_is_told_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plot without matplotlib and a folder that is not there are errors before anything is measured."""
    with pytest.raises(BenchError, match="is no folder"):
        outputs.check(options(html=tmp_path / "missing" / "page.html"))
    monkeypatch.setattr(plot, "available", lambda: False)
    with pytest.raises(BenchError, match="matplotlib is NOT INSTALLED"):
        outputs.check(options(png=tmp_path / "plot.png"))
    with pytest.raises(BenchError, match="matplotlib is NOT INSTALLED"):
        plot.png(result())


@needs_matplotlib
@pytest.mark.slow
def test_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--html and --png write their files beside what goes to stdout."""
    chosen = options(html=tmp_path / "page.html", png=tmp_path / "plot.png")
    outputs.check(chosen)
    outputs.deliver(result(), chosen)
    assert chosen.png.read_bytes().startswith(PNG)
    assert chosen.html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "multifd" in capsys.readouterr().out
