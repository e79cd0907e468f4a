"""A result as one HTML page that needs nothing else: no file beside it, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape

from bench import plot, report
from bench.result import Result

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 78em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid #888 } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
img { max-width: 100% } pre { overflow-x: auto; background: #f4f4f4; padding: 1em } .missing { color: #a00 }
"""


def html(result: Result) -> str:
    """The page: what it depends on, plot, table, ratios, and the whole result as JSON."""
    scenarios = list(dict.fromkeys(family.name for family in result.families()))
    title = f"multifd bench: {', '.join(scenarios)}"
    heading = "".join(f"<th>{escape(heading)}</th>" for heading in report.HEADINGS)
    body = "".join(f"<tr>{_cells(row)}</tr>\n" for row in report.rows(result))
    found = (*map(report.ratio_words, result.ratios()), *result.findings)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{_paragraphs(report.head(result))}
{_picture(result)}
<table><thead><tr>{heading}</tr></thead>
<tbody>
{body}</tbody></table>
{_paragraphs(found)}
<details><summary>all of it as JSON</summary><pre>{escape(json.dumps(result.to_json(), indent=1))}</pre></details>
</body></html>
"""


def _picture(result: Result) -> str:
    if not plot.available():
        return f'<p class="missing">{escape(plot.MISSING)}</p>'
    data = base64.b64encode(plot.png(result)).decode("ascii")
    return f'<img alt="the medians of the table below as bars" src="data:image/png;base64,{data}">'


def _cells(row: Iterable[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in row)


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)
