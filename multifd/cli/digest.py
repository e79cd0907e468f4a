"""Digests of large memory, for the demo's comparison: XXH3-128 over the XXH3-128 of each piece.

By pieces, so that several threads can share the work.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import xxhash

from multifd.limits import MIB

PIECE_BYTES = 16 * MIB  # large against the cost of a hand-over, small enough to spread 64 MiB over four threads
THREADS_MAX = 8  # memory bandwidth is used up long before


def memory_digest(buffer: memoryview) -> str:
    """The digest of `buffer` (bytes, any length) in hex. Blocks; the work is done in threads that hold no GIL."""
    pieces = [buffer[offset : offset + PIECE_BYTES] for offset in range(0, len(buffer), PIECE_BYTES)]
    with ThreadPoolExecutor(min(THREADS_MAX, os.cpu_count() or 1)) as pool:
        whole = b"".join(pool.map(xxhash.xxh3_128_digest, pieces))
    for piece in pieces:
        piece.release()
    return xxhash.xxh3_128_hexdigest(whole)
