"""Codecs by name. Knows no slots, kinds or channels. Called by the channels' threads at their start.

Codec `none`, number 1, has no object: such payload goes from and to the state's own memory and is never touched.
"""

from __future__ import annotations

from multifd.codec.interface import Codec
from multifd.codec.lz4 import Lz4Codec
from multifd.codec.zstd import ZstdCodec
from multifd.limits import ZSTD_LEVEL_MAX

NONE = "none"
AUTO = "auto"
"""What a source may ask for in place of a codec: the best for each slot (`multifd.codec.auto`)."""
CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (ZstdCodec, Lz4Codec)}
"""Every codec but `none`, by its name: the feature's name in HELLO and the option's."""
CHOICES = ", ".join((NONE, *CODECS, f"{ZstdCodec.name}:1 to {ZstdCodec.name}:{ZSTD_LEVEL_MAX}"))
"""All names that `create` takes, in words."""


def create(name: str) -> Codec | None:
    """A codec for one channel's thread; None for `none`. Raises `ValueError` for a name that is not known."""
    made_by = CODECS.get(feature_of(name))
    if made_by is ZstdCodec and ":" in name:
        return ZstdCodec(int(name.partition(":")[2]))
    return made_by() if made_by is not None else None


def check_choice(name: str) -> None:
    """Raises `ValueError` for what is neither a codec's name nor `auto`."""
    if name != AUTO:
        try:
            feature_of(name)
        except ValueError as error:
            raise ValueError(f"{error}, {AUTO}") from None


def feature_of(name: str) -> str:
    """`zstd` of `zstd:3`: the level is the encoder's own business. Raises `ValueError` for a name that is not known."""
    base, colon, level = name.partition(":")
    has_level = base == ZstdCodec.name and level.isascii() and level.isdecimal() and 1 <= int(level) <= ZSTD_LEVEL_MAX
    if base not in (NONE, *CODECS) or (colon and not has_level):
        raise ValueError(f"there is no {name!r}; there are {CHOICES}")
    return base
