"""Values of options that several `multifd qemu` commands have, checked: what argparse is given as `type`."""

from __future__ import annotations

from multifd.cli.arguments import number_to
from multifd.elements import Compression
from multifd.limits import QEMU_CHANNELS_MAX

COMPRESSIONS = tuple(each.name.lower() for each in Compression)
"""Values of `multifd-compression`."""


def qemu_channels(text: str) -> int:
    """A value of `multifd-channels`."""
    return number_to(QEMU_CHANNELS_MAX, text)


def compression(word: str) -> Compression:
    """What one of `COMPRESSIONS` stands for."""
    return Compression[word.upper()]
