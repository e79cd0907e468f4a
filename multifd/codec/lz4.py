"""Codec `lz4`: the LZ4 block format, without a size before it."""

from __future__ import annotations

from collections.abc import Sequence

import cramjam

from multifd.codec.interface import Codec, scatter, snapshot
from multifd.slot import Buffer


class Lz4Codec(Codec):
    """LZ4 in its default, fast mode."""

    name = "lz4"
    number = 3

    def __init__(self) -> None:
        self._encoded = memoryview(b"")
        self._decoded = memoryview(b"")
        """Both grow to what the largest slot needs, and serve again."""

    def encode(self, buffers: Sequence[Buffer], length: int) -> memoryview | None:
        """See `Codec.encode`."""
        if not length:
            return None
        plain = snapshot(buffers)
        most = cramjam.lz4.compress_block_bound(plain)
        if len(self._encoded) < most:
            self._encoded = memoryview(bytearray(most))
        encoded_length = cramjam.lz4.compress_block_into(plain, self._encoded, store_size=False)
        return self._encoded[:encoded_length] if encoded_length < length else None

    def decode(self, payload: memoryview, buffers: Sequence[memoryview], length: int) -> None:
        """See `Codec.decode`."""
        in_place = len(buffers) == 1
        if not in_place and len(self._decoded) < length:
            self._decoded = memoryview(bytearray(length))
        target = buffers[0] if in_place else self._decoded[:length]
        try:
            decoded_length = cramjam.lz4.decompress_block_into(payload, target, output_len=length)
        except cramjam.DecompressionError as error:
            raise ValueError(f"not an lz4 block of {length} bytes: {error}") from None
        if decoded_length != length:
            raise ValueError(f"{length} bytes were announced, decoding an lz4 block gave {decoded_length}")
        if not in_place:
            scatter(target, buffers, length)
