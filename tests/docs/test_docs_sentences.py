"""docs/guides/why-not-switched.md explains every sentence that the source can say, and no other."""

from __future__ import annotations

import re

import pytest
from docs_markdown import ROOT, prose, table

from multifd.session.convergence import DeviceNeed, FeedNeed, Situation, decide
from multifd.session.source import _WAITS

GUIDE = ROOT / "docs" / "guides" / "why-not-switched.md"
MEANINGS = {
    "NAME": r"[\w./-]+", "NUMBER": r"\d+", "RATE": r"[\d.]+", "DOING": r"[\w -]+", "WORDS": r"(?!device ).+?",
    "TIME": r"[\d.]+ (?:s|ms)", "SIZE": r"(?:[\d.]+ (?:bytes|KiB|MiB)|unknown size)",
}  # fmt: skip
OF_THE_SESSION = ("SWITCHOVER_READY", "ram: a round is under way")  # said in session/source.py


def patterns() -> dict[str, re.Pattern[str]]:
    """Every sentence of the guide, as a pattern for what the source says."""
    rows = [row[0] for row in table(GUIDE, "sentence")]
    words = re.compile("|".join(MEANINGS))
    escaped = {row: words.sub(lambda word: MEANINGS[word[0]], re.escape(row)) for row in rows}
    return {row: re.compile(pattern.replace("device\\ [", "device [")) for row, pattern in escaped.items()}


def nic(
    *, initial: int | None = 0, stop_copy: int = 0, stop_s: float | None = None, sent: bool = True, ready: bool = True
) -> DeviceNeed:
    """A device that takes part."""
    return DeviceNeed(
        name="nic/0", takes_part=True, initial=initial, dirty=0, stop_copy=stop_copy, load_seconds_per_byte=None,
        declared_stop_s=stop_s, initial_sent=sent, ready=ready, doing="set-up",
    )  # fmt: skip


def said(
    *needs: FeedNeed | DeviceNeed, rate: float | None = 1e9, limit_s: float = 0.1, held_back_s: float = 0.0
) -> tuple[str, ...]:
    """What stands in the way, in words."""
    situation = Situation(
        now=1.0, began=0.0, rate=rate, feeds=[need for need in needs if isinstance(need, FeedNeed)],
        devices=[need for need in needs if isinstance(need, DeviceNeed)], downtime_limit_s=limit_s,
        fixed_s=0.005, explicit=True, held_back_s=held_back_s,
    )  # fmt: skip
    return decide(situation).waiting_for


MANY, SOME = 1 << 30, 70_000_000
SAID = (
    *said(FeedNeed("ram", "", MANY), rate=None),
    *said(FeedNeed("ram", "", MANY)),
    *said(FeedNeed("example.org/records", "records: 5 of 7 dirty", MANY)),
    *said(FeedNeed("ram", "", SOME), nic(stop_copy=SOME + 1)),
    *said(FeedNeed("ram", "", SOME + 1), nic(stop_copy=SOME)),
    *said(nic(stop_copy=MANY)),
    *said(nic(stop_s=20.0)),
    *said(FeedNeed("ram", "", SOME), nic(stop_s=0.08)),
    *said(limit_s=0.001),
    *said(held_back_s=4.0),
    *said(nic(initial=None, sent=False)),
    *said(nic(initial=5000, sent=False)),
    *said(nic(ready=False)),
    *OF_THE_SESSION,
)


@pytest.mark.parametrize("sentence", SAID)
def test_every_sentence_is_explained(sentence: str) -> None:
    """What the source says is in the guide's table, once."""
    assert len([row for row, pattern in patterns().items() if pattern.fullmatch(sentence)]) == 1, sentence


@pytest.mark.parametrize("row", patterns())
def test_every_explanation_is_of_a_sentence(row: str) -> None:
    """What the guide explains is said."""
    assert any(patterns()[row].fullmatch(sentence) for sentence in SAID)


def test_the_waits_of_other_states_are_named() -> None:
    """What each other state waits for stands in the guide, word by word."""
    text = " ".join(prose(GUIDE).split())
    assert [what for _, what in _WAITS.values() if f"`{what}`" not in text] == []
