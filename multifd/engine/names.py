"""Names that a user gives: of feeds, kinds, blocks and devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from multifd.kinds.chunk import NAME as CHUNK
from multifd.kinds.ram import RamKind, ZeroKind

BUILT_IN = (RamKind.name, ZeroKind.name, CHUNK)
"""Names of kinds that a user's can't have."""


def check_unique(what: str, names: Iterable[str]) -> None:
    """Raise `ValueError` if a name stands twice: one of the two would be lost without a word."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{count} times a {what} named {name!r}: names must differ")
