"""Which tracker a buffer gets. Nothing falls back silently: what can't be had as asked for is an error that says what
to ask for.
"""

from __future__ import annotations

import functools
import mmap
from typing import Any, Literal

from multifd.errors import TrackingError
from multifd.memory.flat import flat
from multifd.memory.kernel import KernelTracker
from multifd.memory.software import SoftwareTracker
from multifd.memory.tracker import HINT, StaticTracker, Tracker

Wanted = Literal["auto", "kernel", "software", "none"]


def choose(buffer: Any, wanted: Wanted, *, page_size: int = 4096) -> Tracker:
    """A tracker for `buffer`, not started; its `mode` says what it is.

    "auto" is the kernel's where it works (today the same as "kernel"). Raise `TrackingError` if the kernel's is wanted
    and this kernel has none, `ValueError` for a word that is not one of these.
    """
    length = flat(buffer).size
    if wanted == "none" or (length == 0 and wanted != "software"):
        return StaticTracker()
    if wanted == "software":
        return SoftwareTracker(length, page_size)
    if wanted not in {"auto", "kernel"}:
        raise ValueError(f'tracker is {wanted!r}; it can be "auto", "kernel", "software", "none" or a Tracker')
    fault = kernel_fault()
    if fault is not None:
        raise TrackingError(f"the kernel can't track writes: {fault}; {HINT}")
    return KernelTracker(buffer, page_size)


@functools.cache
def kernel_fault() -> str | None:
    """Why this kernel can't track memory of this process; None if it can. Tried once, on a page of its own."""
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    tracker = KernelTracker(page)
    try:
        tracker.start()
        page[0] = 1
        seen = tracker.count()
    except TrackingError as error:
        return str(error)
    finally:
        tracker.stop()
    return None if seen else "a write on trial was not seen"
