"""What the documents point at exists: links, headings, files, names of limits with their values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_markdown import DOCUMENTS, ROOT, anchors, links, prose

from multifd import limits

IN_CODE = re.compile(r"`([^`\n]+)`")
OURS = re.compile(r"(?:multifd|bench|tests|proto|docs)/[\w./*-]*")
QUOTED_LIMIT = re.compile(r"`([A-Z][A-Z0-9_]+)` =\s+([\d.]+)(?: (KiB|MiB|GiB|ms))?")
FACTORS = {"": 1, "ms": 0.001, "KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB}

by_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@by_document
def test_links_lead_somewhere(path: Path) -> None:
    """Every link within the repository names a file that is there, and a heading of it."""
    broken = []
    for link in links(path):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@by_document
def test_files_that_are_named_exist(path: Path) -> None:
    """Every path of this repository that stands in code quotes is there."""
    named = [word for word in IN_CODE.findall(prose(path)) if OURS.fullmatch(word)]
    assert [word for word in named if not list(ROOT.glob(word.rstrip("/")))] == []


@by_document
def test_limits_are_quoted_as_they_are(path: Path) -> None:
    """Every limit that is quoted with its value exists and has that value."""
    quoted = QUOTED_LIMIT.findall(prose(path))
    wrong = [
        (name, value, unit) for name, value, unit in quoted if float(value) * FACTORS[unit] != getattr(limits, name)
    ]
    assert wrong == []


def test_every_guide_can_be_found() -> None:
    """The README links to all guides."""
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert [path.name for path in (ROOT / "docs").rglob("*.md") if path not in linked] == []
