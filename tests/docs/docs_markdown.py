"""What the tests of documents need of Markdown: code blocks with their info strings, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "proto").rglob("*.md"))]

_FENCE = re.compile(r"^```(.*)$")
_HEADING = re.compile(r"^#{1,6} +(.*?) *$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string (`python run`), its lines, and where its text begins."""

    path: Path
    line: int
    info: str
    text: str

    @property
    def words(self) -> list[str]:
        return self.info.split()

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a document."""
    found: list[Block] = []
    info, begin, lines = None, 0, list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            lines.append(line)
        elif info is None:
            info, begin, lines = fence[1].strip(), number + 1, []
        else:
            found.append(Block(path, begin, info, "\n".join(lines) + "\n"))
            info = None
    assert info is None, f"{path}: a block that begins at line {begin - 1} does not end"
    return found


def prose(path: Path) -> str:
    """The document without its fenced blocks."""
    kept, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept) + "\n"


def anchors(path: Path) -> set[str]:
    """What can stand after `#` in a link to this document: GitHub's form of its headings."""
    headings = (match[1] for line in prose(path).splitlines() if (match := _HEADING.match(line)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    """Targets of all links in the prose."""
    yield from _LINK.findall(prose(path))


def table(path: Path, first_heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, without markup of code."""
    rows: list[list[str]] | None = None
    for line in prose(path).splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        if rows is None:
            rows = [] if line.startswith("|") and cells[0] == first_heading else None
        elif not line.startswith("|"):
            break
        elif set("".join(cells)) - set("-: "):
            rows.append(cells)
    assert rows, f"{path}: no table that begins with {first_heading!r}"
    return rows
