"""What the options of a source, a destination and a relay have in common."""

from __future__ import annotations

from multifd import limits

CHANNELS = 2
"""QEMU's default for multifd-channels."""


def check_channels(channels: int, socket_buffer: int | None) -> None:
    """Raise `ValueError` for a number of channels, or a socket buffer of theirs, that can't be."""
    if not 1 <= channels <= limits.QEMU_CHANNELS_MAX:
        raise ValueError(f"channels is {channels}; 1 to {limits.QEMU_CHANNELS_MAX} is possible")
    if socket_buffer is not None and socket_buffer < 1:
        raise ValueError(f"socket_buffer is {socket_buffer}; None or at least 1 is possible")
