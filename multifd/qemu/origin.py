"""Where a source has its machine from: what `QemuSource` asks of a saved machine, or of memory in a test.

The other side of `target`. Nothing in it changes while it is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from multifd.elements import MachineState
from multifd.memory.file_pages import FilePages

Present = npt.NDArray[np.bool_]
"""One flag for each page of a block: false where the page is zero, whatever the memory holds there."""


class BlockOrigin(Protocol):
    """The contents of one RAM block."""

    @property
    def view(self) -> memoryview:
        """All of the block, bytes. Read by several threads at a time."""
        ...

    @property
    def file(self) -> FilePages | None:
        """Where its pages are read from; None: sent from `view` as they are."""
        ...

    @property
    def is_mapped(self) -> bool:
        """Whether pages of `file` are quicker sent from `view` than read: they are in memory, and `prepare` has found
        them. Only a system call may look at them there: if the file is cut short it fails, and a process that looks
        itself is killed (SIGBUS).
        """
        ...

    @property
    def present(self) -> Present:
        """Which pages are not zero; `len(view) / page_size` of them."""
        ...


class MachineOrigin(Protocol):
    """A whole machine."""

    def prepare(self, going_on: Callable[[], bool]) -> None:
        """*pool*: before a destination is kept waiting: what takes time and needs none. Ends early once `going_on` says
        no.
        """
        ...

    @property
    def state(self) -> MachineState:
        """All but the contents of RAM."""
        ...

    def contents(self, block: str) -> BlockOrigin | None:
        """*loop*: those of a block of `state`. None if they are not part of it (x-ignore-shared): no page is sent."""
        ...
