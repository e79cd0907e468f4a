"""Digests of saved machines.

Of what RAM blocks hold: SHA-256 of every byte, zero pages included, so that they compare with those of a memory file.
Slow, about a second a GiB: made when nobody waits. And of all the rest, which is quick.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from multifd.limits import QEMU_DIGEST_BYTES

_ZEROS = bytes(QEMU_DIGEST_BYTES)


def block_digest(view: memoryview, present: npt.NDArray[np.bool_], page_size: int, done: Callable[[int], None]) -> str:
    """SHA-256 of a block in hexadecimal: `view` where a page is present, zeros elsewhere, whatever `view` has there.

    `done` hears of the bytes of every piece; what it raises ends the work.
    """
    digest = hashlib.sha256()
    step = QEMU_DIGEST_BYTES // page_size
    for first in range(0, len(present), step):
        flags = present[first : first + step]
        piece = view[first * page_size : (first + len(flags)) * page_size]
        if flags.all():
            digest.update(piece)
        elif not flags.any():
            digest.update(memoryview(_ZEROS)[: len(piece)])
        else:
            pages = np.frombuffer(piece, dtype=np.uint8).reshape(-1, page_size)
            digest.update(np.where(flags[:, np.newaxis], pages, np.uint8(0)).data)
        done(len(piece))
    return digest.hexdigest()


def ranges_digest(fd: int, ranges: Iterable[tuple[int, int]]) -> str:
    """SHA-256 of these ranges of a file, (offset, end) each, in hexadecimal. Raises `OSError`."""
    digest = hashlib.sha256()
    for first, end in ranges:
        for at in range(first, end, QEMU_DIGEST_BYTES):
            digest.update(os.pread(fd, min(QEMU_DIGEST_BYTES, end - at), at))
    return digest.hexdigest()
