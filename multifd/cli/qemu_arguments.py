"""Values of options that several `multifd qemu` commands have, checked: what argparse is given as `type`."""

from __future__ import annotations

import argparse

from multifd.elements import Compression
from multifd.limits import QEMU_CHANNELS_MAX

COMPRESSIONS = tuple(each.name.lower() for each in Compression)
"""Values of `multifd-compression`."""


def qemu_channels(text: str) -> int:
    """A value of `multifd-channels`."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= QEMU_CHANNELS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of channels: 1 to {QEMU_CHANNELS_MAX}")
    return int(text)


def compression(word: str) -> Compression:
    """What one of `COMPRESSIONS` stands for."""
    return Compression[word.upper()]
