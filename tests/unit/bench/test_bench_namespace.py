"""The namespace's shaped loopback: what tc is told. None is made here."""

from __future__ import annotations

import shutil

import pytest

from bench import namespace
from bench.errors import BenchError


@pytest.mark.parametrize("link", namespace.LINKS)
def test_names_of_links_are_their_rates(link: str) -> None:
    """The rate that tc is given is the one in the name, and its bucket holds two of the loopback's largest packets."""
    words = namespace.shaping(namespace.LINKS[link]).split()
    rate = int(words[words.index("rate") + 1].removesuffix("bit"))
    number = int(link.rstrip("mgbit"))
    assert rate == number * (10**6 if "mbit" in link else 10**9)
    assert int(words[words.index("burst") + 1].removesuffix("b")) >= 2 * 65536


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program that it needs it says which package has it, and what can be had without."""
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    with pytest.raises(BenchError, match=r"unshare.*apt-get install util-linux.*measure without --link"):
        namespace.enter("cubic", "1gbit")
