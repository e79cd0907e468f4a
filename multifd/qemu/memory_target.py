"""A machine received into memory: for tests, for whoever looks at a machine and keeps nothing, and to be sent on
(`qemu.packets.Machine`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from multifd.elements import Configuration, MachineState, Offsets, RamBlock, SectionHeader
from multifd.errors import LocalProtocolError, StorageError
from multifd.limits import MIB
from multifd.memory.extents import runs
from multifd.memory.populate import allocate

_DIGEST_STEP = 16 * MIB  # so that whoever follows sees it move


class MemoryBlock:
    """One RAM block in anonymous memory, which has a page only where something was written."""

    def __init__(self, length: int, page_size: int) -> None:
        """Raises `StorageError` if there is no room."""
        self.length = length
        self.file = None
        """See `BlockOrigin.file`: it is in none."""
        self.is_mapped = False
        """See `BlockOrigin.is_mapped`."""
        try:
            self.present: npt.NDArray[np.bool_] = np.zeros(length // page_size, dtype=np.bool_)
            """Which pages may be other than zero."""
            self.view = memoryview(allocate(length) if length else b"")
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(f"no memory for {length} bytes: {reason}") from error
        self._page_size = page_size
        self._pages = np.frombuffer(self.view, dtype=np.uint8)[: length // page_size * page_size].reshape(-1, page_size)

    def place(self, offsets: Offsets) -> Sequence[memoryview]:
        """See `BlockTarget.place`."""
        views = page_views(self.view, offsets, self._page_size)
        self.present[offsets // self._page_size] = True
        return views

    def place_run(self, first: int, length: int) -> memoryview:
        """See `BlockTarget.place_run`."""
        end = first + length
        self.present[first // self._page_size : end // self._page_size] = True
        return self.view[first:end]

    def zero(self, offsets: Offsets) -> None:
        """See `BlockTarget.zero`."""
        numbers = offsets // self._page_size
        written = numbers[self.present[numbers]]
        self._pages[written] = 0
        self.present[written] = False

    def digest(self, done: Callable[[int], None]) -> str:
        """SHA-256 of all of it; `done` hears of every piece."""
        digest = hashlib.sha256()
        for at in range(0, self.length, _DIGEST_STEP):
            piece = self.view[at : min(at + _DIGEST_STEP, self.length)]
            digest.update(piece)
            done(len(piece))
        return digest.hexdigest()


class MemoryMachine:
    """A machine in memory. What it holds after `commit` stays until `abort`, or until it is forgotten."""

    def __init__(self) -> None:
        self.blocks: dict[str, MemoryBlock] = {}
        self.flushes = 0
        self._state: MachineState | None = None

    def begin(
        self, configuration: Configuration, ram: SectionHeader, blocks: Sequence[RamBlock]
    ) -> Mapping[str, MemoryBlock]:
        """See `MachineTarget.begin`."""
        assert ram.name
        self.blocks = {block.name: MemoryBlock(block.length, configuration.page_size) for block in blocks}
        return self.blocks

    def flush(self) -> None:
        """There is nothing to flush to."""
        self.flushes += 1

    def commit(self, state: MachineState) -> None:
        """See `MachineTarget.commit`."""
        self._state = state

    def abort(self) -> None:
        """See `MachineTarget.abort`."""
        self._state = None
        self.blocks = {}

    def digest(self, done: Callable[[int], None]) -> Mapping[str, str]:
        """See `MachineTarget.digest`."""
        return {name: block.digest(done) for name, block in self.blocks.items()}

    # -- as something to send

    def prepare(self, going_on: Callable[[], bool]) -> None:
        """There is nothing to prepare."""

    @property
    def committed(self) -> bool:
        """Whether all of it is here."""
        return self._state is not None

    @property
    def state(self) -> MachineState:
        """All but the contents of RAM. Raises `LocalProtocolError` before `commit`."""
        if self._state is None:
            raise LocalProtocolError("MemoryMachine.state", "a machine that has arrived")
        return self._state

    def contents(self, block: str) -> MemoryBlock:
        """Those of one block."""
        return self.blocks[block]


def page_views(view: memoryview, offsets: Offsets, page_size: int) -> Sequence[memoryview]:
    """The pages of `view` at these offsets, in their order, adjacent ones as one view: what `BlockTarget.place`
    returns.
    """
    if not len(offsets):
        return ()
    first, length = int(offsets[0]), len(offsets) * page_size
    if int(offsets[-1]) - first == length - page_size and (offsets[1:] - offsets[:-1] == page_size).all():
        return (view[first : first + length],)  # all are neighbours: nearly always
    extents, _ = runs(offsets // page_size, page_size=page_size, length=len(view))
    return [view[start : start + length] for start, length in extents.tolist()]
