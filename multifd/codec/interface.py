"""The interface of codecs. A codec object belongs to one channel's thread; its calls release the GIL."""

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
        """The payload encoded, or None if it would not shrink (it then travels plain).

        `buffers` may be live memory: they are copied to scratch first, so that what is encoded is what is hashed and sent.
        """

    @abc.abstractmethod
    def decode(self, payload: memoryview, buffers: Sequence[memoryview], length: int) -> None:
        """Decode `payload` into `buffers`, `length` bytes in all. Raise `ValueError` if it is anything else."""
