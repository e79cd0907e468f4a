"""Codec `zstd`: one Zstandard frame a payload (RFC 8878).

The library's reader, which decodes straight into place, does not say where a frame ended, nor that it was cut short. So
the frame's own block headers are followed first, which takes some 15 µs for 1 MiB; what can't be shown whole that way
goes through a bytes object and is copied, which takes an eighth longer, and holds the interpreter's lock for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zstandard

from multifd.codec.interface import Codec, scatter, snapshot
from multifd.limits import ZSTD_BLOCKS_FOLLOWED_MAX, ZSTD_WINDOW_BYTES_MAX
from multifd.slot import Buffer

LEVEL = 1  # level 3 takes twice the time for a few per cent; below 1 lz4 is better
_MAGIC = bytes.fromhex("28b52ffd")
_BLOCK_HEADER_BYTES = 3
_RUN_BLOCK = 1  # holds one byte, whatever its size says
_CHECKSUM_BYTES = 4


class ZstdCodec(Codec):
    """Zstandard; `level` is the encoder's own business."""

    name = "zstd"
    number = 2

    def __init__(self, level: int = LEVEL) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        self._zeros_length = 0
        self._zeros_frame: bytes | None = None

    def encode(self, buffers: Sequence[Buffer], length: int) -> bytes | None:
        """See `Codec.encode`."""
        if length and _is_zero(buffers):
            return self._zeros(length)
        encoded = self._compressor.compress(snapshot(buffers))
        return encoded if len(encoded) < length else None

    def _zeros(self, length: int) -> bytes | None:
        """The frame of so many zeros, which is always the same: the last one is kept."""
        if length != self._zeros_length:
            encoded = self._compressor.compress(bytes(length))
            self._zeros_length, self._zeros_frame = length, encoded if len(encoded) < length else None
        return self._zeros_frame

    def decode(self, payload: memoryview, buffers: Sequence[memoryview], length: int) -> None:
        """See `Codec.decode`. Takes no more memory than `length` and a window, whatever the frame says."""
        try:
            # the library allocates what the frame's header says, so that is looked at first; -1 is unknown
            said = zstandard.frame_content_size(payload)
            if said not in (-1, length):
                raise ValueError(f"a zstd frame of {length} bytes was announced, this one says otherwise")
            if len(buffers) == 1 and said == length and _is_one_frame(payload):
                decoded_length = self._decompressor.stream_reader(payload).readinto(buffers[0])
                if decoded_length != length:
                    raise ValueError(f"{length} bytes were announced, decoding a zstd frame gave {decoded_length}")
                return
            decoded = self._decompressor.decompress(payload, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(f"not a zstd frame of {length} bytes: {error}") from None
        scatter(decoded, buffers, length)


def _is_zero(buffers: Sequence[Buffer]) -> bool:
    """Whether all bytes are zero. Reading takes a tenth of encoding them, and most data is told apart at once."""
    if any(buffer[0] or buffer[len(buffer) // 2] for buffer in buffers if len(buffer)):
        return False
    return not any(np.frombuffer(buffer, dtype=np.uint8).max() for buffer in buffers if len(buffer))


def _is_one_frame(payload: memoryview) -> bool:
    """Whether a frame's last block ends where `payload` does. False also where that takes too many steps to find out.

    Raises `ZstdError` for what has no frame header.
    """
    if payload[: len(_MAGIC)] != _MAGIC:
        return False
    position = zstandard.frame_header_size(payload)
    for _ in range(ZSTD_BLOCKS_FOLLOWED_MAX):
        header = int.from_bytes(payload[position : position + _BLOCK_HEADER_BYTES], "little")
        is_run = header >> 1 & 3 == _RUN_BLOCK
        position += _BLOCK_HEADER_BYTES + (1 if is_run else header >> 3)
        if header & 1:
            has_checksum = zstandard.get_frame_parameters(payload).has_checksum
            return position + _CHECKSUM_BYTES * has_checksum == len(payload)
        if position >= len(payload):
            return False
    return False
