"""Where a result goes: a table or JSON on stdout, a page, a picture; the same options for every bench."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import page, plot, report
from bench.contender import tell
from bench.errors import BenchError
from bench.result import Result


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--json`, `--html`, `--png`."""
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object on stdout in place of the table")
    add("--html", type=Path, metavar="FILE", help="write a page with table and plot as well, which needs no other file")
    add("--png", type=Path, metavar="FILE", help="write the plot as well (needs matplotlib)")


def check(chosen: argparse.Namespace) -> None:
    """Before anything is measured: raise `BenchError` if what was asked for can't be made."""
    for path in filter(None, (chosen.html, chosen.png)):
        if not path.parent.is_dir():
            raise BenchError(f"{path.parent} is no folder: choose another place for {path.name}")
    if chosen.png and not plot.available():
        raise BenchError(plot.MISSING)
    if chosen.html and not plot.available():
        tell(plot.MISSING)


def deliver(result: Result, chosen: argparse.Namespace) -> None:
    """Give it out. Raise `BenchError` if a file can't be written; what goes to stdout has gone by then."""
    if chosen.json:
        json.dump(result.to_json(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        report.show(result)
    try:
        if chosen.html:
            chosen.html.write_text(page.html(result), encoding="utf-8")
        if chosen.png:
            chosen.png.write_bytes(plot.png(result))
    except OSError as error:
        raise BenchError(f"can't write {error.filename}: {error.strerror}") from error
