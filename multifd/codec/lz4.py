"""Codec `lz4`: the LZ4 block format, without a size before it."""

from __future__ import annotations

from collections.abc import Sequence

import lz4.block

from multifd.codec.interface import Codec, scatter, snapshot
from multifd.slot import Buffer


class Lz4Codec(Codec):
    """LZ4 in its default, fast mode."""

    name = "lz4"
    number = 3

    def encode(self, buffers: Sequence[Buffer], length: int) -> bytes | None:
        """See `Codec.encode`."""
        encoded: bytes = lz4.block.compress(snapshot(buffers), store_size=False)
        return encoded if len(encoded) < length else None

    def decode(self, payload: memoryview, buffers: Sequence[memoryview], length: int) -> None:
        """See `Codec.decode`."""
        try:
            decoded = lz4.block.decompress(payload, uncompressed_size=length)
        except lz4.block.LZ4BlockError as error:
            raise ValueError(f"not an lz4 block of {length} bytes: {error}") from None
        scatter(decoded, buffers, length)
