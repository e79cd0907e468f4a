"""Options are checked where they are made, with a sentence that says what would do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from multifd import limits
from multifd.engine.options import DEVICE_CREDIT_BYTES_MIN, DestinationOptions, SourceOptions


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("channels", 0, "channels is 0; 1 to 64"),
        ("channels", limits.CHANNELS_MAX + 1, "channels is 65"),
        ("codec", "gzip", "codec: there is no 'gzip'; there are none, zstd, lz4, zstd:1 to zstd:9, auto"),
        ("codec", "zstd:10", "no 'zstd:10'"),
        ("codec", "zstd:", "no 'zstd:'"),
        ("codec", "lz4:1", "no 'lz4:1'"),
        ("slot_bytes", limits.SLOT_BYTES_MIN - 1, "slot_bytes is 4095; 4096 to"),
        ("slot_bytes", limits.SLOT_BYTES_MAX + 1, "slot_bytes"),
        ("downtime_limit_s", -0.1, "downtime_limit_s is -0.1; 0 to"),
        ("downtime_limit_s", math.nan, "downtime_limit_s"),
        ("deadline_s", math.inf, "deadline_s"),
        ("bandwidth_limit", 0, "bandwidth_limit is 0; None or at least 1"),
        ("socket_buffer", -1, "socket_buffer"),
    ],
)
def test_a_source_can_not_have(name: str, value: Any, words: str) -> None:
    """What no migration could do."""
    with pytest.raises(ValueError, match=words):
        SourceOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("channels_max", 0, "channels_max is 0; 1 to 64"),
        ("channels_max", limits.CHANNELS_MAX + 1, "channels_max is 65"),
        ("codecs", ("zstd", "none"), "no 'none'; there are zstd, lz4"),
        ("device_credit", DEVICE_CREDIT_BYTES_MIN - 1, "device_credit is 1048831; at least 1048832"),
        ("socket_buffer", 0, "socket_buffer"),
    ],
)
def test_a_destination_can_not_have(name: str, value: Any, words: str) -> None:
    """What no source could do with."""
    with pytest.raises(ValueError, match=words):
        DestinationOptions(**{name: value})


def test_the_ends_of_what_is_possible_are_possible() -> None:
    """Both of them."""
    for channels, slot_bytes in ((1, limits.SLOT_BYTES_MIN), (limits.CHANNELS_MAX, limits.SLOT_BYTES_MAX)):
        SourceOptions(channels=channels, slot_bytes=slot_bytes, downtime_limit_s=0, bandwidth_limit=1, codec="lz4")
        SourceOptions(codec=f"zstd:{min(channels, limits.ZSTD_LEVEL_MAX)}")
        DestinationOptions(channels_max=channels, device_credit=DEVICE_CREDIT_BYTES_MIN, codecs=())
