"""Codecs by name. Knows no slots, kinds or channels. Called by the channels' threads at their start.

Codec `none`, number 1, has no object: such payload goes from and to the state's own memory and is never touched.
"""

from __future__ import annotations

from multifd.codec.interface import Codec
from multifd.codec.lz4 import Lz4Codec
from multifd.codec.zstd import ZstdCodec

NONE = "none"
CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (ZstdCodec, Lz4Codec)}
"""Every codec but `none`, by its name: the feature's name in HELLO and the option's."""


def create(name: str) -> Codec | None:
    """A codec for one channel's thread; None for `none`. Raises `ValueError` for a name that is not known."""
    if name == NONE:
        return None
    if name not in CODECS:
        raise ValueError(f"no codec {name!r}; there are {', '.join((NONE, *CODECS))}")
    return CODECS[name]()
