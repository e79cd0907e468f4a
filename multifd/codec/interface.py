"""The interface of codecs, and the copies that they make. A codec object belongs to one channel's thread; its calls
release the GIL.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from multifd.slot import Buffer


class Codec(abc.ABC):
    """Encodes and decodes payload, slot by slot, with nothing kept between slots."""

    name: str
    number: int
    """On the wire (proto/native.md section 2)."""

    @abc.abstractmethod
    def encode(self, buffers: Sequence[Buffer], length: int) -> Buffer | None:
        """The payload encoded, or None if it would not shrink (it then travels plain). What is returned may be a view
        of memory that the next call writes to.

        `buffers` may be live memory: they are copied first, so that what is encoded is what is hashed and sent.
        """

    @abc.abstractmethod
    def decode(self, payload: memoryview, buffers: Sequence[memoryview], length: int) -> None:
        """Decode `payload` into `buffers`, `length` bytes in all; straight into place if it is one buffer. Raise
        `ValueError` if it is anything else.

        What is in `buffers` after that error is undefined: a payload whose checksum was right and that does not decode
        ends the session. Nothing is ever written beside them.
        """


def snapshot(buffers: Sequence[Buffer]) -> bytes:
    """A copy of what `buffers` hold now, in their order, that nobody writes to.

    Joining was quicker than copying into memory kept for it, for one large buffer and for many pages alike.
    """
    return b"".join(buffers)


def scatter(decoded: Buffer, buffers: Sequence[memoryview], length: int) -> None:
    """Copy `decoded` into `buffers`. Raises `ValueError` if it has not `length` bytes."""
    if len(decoded) != length:
        raise ValueError(f"{length} bytes were announced, decoding gave {len(decoded)}")
    start = 0
    view = memoryview(decoded)
    for buffer in buffers:
        end = start + len(buffer)
        buffer[:] = view[start:end]
        start = end
