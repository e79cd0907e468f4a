"""Memory that is there before the data: at a destination page faults cost several times what everything else does."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from multifd.limits import MIB
from multifd.memory.flat import flat, page_range
from multifd.memory.libc import madvise
from multifd.memory.mappings import huge_bytes

_HUGE_PAGE = 2 * MIB
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22  # Linux 5.14; no constant in Python 3.11
_MADV_POPULATE_WRITE = 23
_STEP = 64 * MIB  # so that no call lasts long: a signal is seen in between


def allocate(length: int) -> mmap.mmap:
    """`length` bytes of anonymous private memory, on huge pages if the kernel gives them; not yet populated.

    From 2 MiB on the mapping is made in whole huge pages, for which Linux 6.7 and later align it, and its odd end given
    back. Raise `ValueError` if `length` is not above zero, `OSError` if there is no room.
    """
    if length <= 0:
        raise ValueError(f"no memory can have a length of {length}")
    reserved = -(-length // _HUGE_PAGE) * _HUGE_PAGE if length >= _HUGE_PAGE else length
    memory = mmap.mmap(-1, reserved, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if reserved != length:
        memory.resize(length)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(_MADV_HUGEPAGE)
    return memory


def populate(buffer: Any, stop: threading.Event | None = None) -> str:
    """Have all of `buffer`'s pages in memory, huge ones if the kernel gives them. Never changes contents, and never
    fails.

    Returns what it got, in words: "huge pages, 2 MiB", "4 KiB pages", or "not populated: " and the reason. Blocks,
    for seconds a GiB where the host has to find the memory first; releases the GIL. Ends early once `stop` is set.
    """
    try:
        view = flat(buffer)
        if not view.size:
            return "not populated: it is empty"
        first, length = page_range(view.ctypes.data, view.size)
        with suppress(OSError):  # file-backed memory, or a kernel without huge pages
            madvise(first, length, _MADV_HUGEPAGE)
        for at in range(first, first + length, _STEP):
            if stop is not None and stop.is_set():
                return f"not populated: ended at {100 * (at - first) // length} %"
            madvise(at, min(_STEP, first + length - at), _MADV_POPULATE_WRITE)
        huge = min(huge_bytes(first, first + length), length)
    except (OSError, ValueError, TypeError) as error:
        return f"not populated: {error}"
    if not huge:
        return f"{mmap.PAGESIZE // 1024} KiB pages"
    return "huge pages, 2 MiB" if huge > length - 2 * _HUGE_PAGE else f"huge pages, 2 MiB, for {100 * huge // length} %"


def populate_read(view: memoryview, going_on: Callable[[], bool]) -> None:
    """Have the pages of a mapped file at hand for reading; those that are on a disk only are read. Never fails: what
    could not be had is found, or not, by whoever reads it. Ends early once `going_on` says no. Releases the GIL.
    """
    first, length = page_range(flat(view).ctypes.data, len(view))
    with suppress(OSError):  # an older kernel; a file that was cut short
        for at in range(first, first + length, _STEP):
            if going_on():
                madvise(at, min(_STEP, first + length - at), _MADV_POPULATE_READ)
