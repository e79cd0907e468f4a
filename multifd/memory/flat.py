"""Any buffer as flat bytes, without a copy, and the system's pages that cover a range of addresses."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def flat(buffer: Any) -> Bytes:
    """The bytes of `buffer`: an mmap, a bytearray, a memoryview, a numpy array of any dtype. Read-only if `buffer` is.

    Raise `ValueError` if it is not C-contiguous, `TypeError` if it is no buffer, or one of Python objects.
    """
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.c_contiguous:
            raise ValueError("the array is not C-contiguous")
        if buffer.dtype.hasobject:
            raise TypeError("the array holds Python objects")
        return buffer.reshape(-1).view(np.uint8)  # not every dtype (datetime64) has the buffer protocol
    try:
        return np.frombuffer(buffer, dtype=np.uint8)
    except BufferError as error:
        raise ValueError(str(error)) from error


def page_range(address: int, length: int) -> tuple[int, int]:
    """(address, length) of the system's pages that cover `length` bytes at `address`."""
    first = address & -mmap.PAGESIZE
    end = (address + length + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
    return first, end - first
