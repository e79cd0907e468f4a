"""Codec `zstd`: one Zstandard frame a payload (RFC 8878).

Decoding in two steps, to a bytes object and from there into place, is quicker than `stream_reader().readinto()` into
place, and it alone notices a frame that is cut short or followed by something.
"""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

from multifd.codec.interface import Codec, scatter, snapshot
from multifd.limits import ZSTD_WINDOW_BYTES_MAX
from multifd.slot import Buffer

LEVEL = 1  # level 3 takes twice the time for a few per cent; below 1 lz4 is better


class ZstdCodec(Codec):
    """Zstandard at level 1."""

    name = "zstd"
    number = 2

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)

    def encode(self, buffers: Sequence[Buffer], length: int) -> bytes | None:
        """See `Codec.encode`."""
        encoded = self._compressor.compress(snapshot(buffers))
        return encoded if len(encoded) < length else None

    def decode(self, payload: memoryview, buffers: Sequence[memoryview], length: int) -> None:
        """See `Codec.decode`. Takes no more memory than `length` and a window, whatever the frame says."""
        try:
            # the library allocates what the frame's header says, so that is looked at first; -1 is unknown
            if zstandard.frame_content_size(payload) not in (-1, length):
                raise ValueError(f"a zstd frame of {length} bytes was announced, this one says otherwise")
            decoded = self._decompressor.decompress(payload, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(f"not a zstd frame of {length} bytes: {error}") from None
        scatter(decoded, buffers, length)
