"""Where a destination puts a machine: what `QemuDestination` asks of a saved machine, of memory in a test, of a relay's
next hop.

Who calls what, and in which thread, is said at each method. Whatever goes wrong in a target is `StorageError`, or
`RemoteProtocolError` where the source asked for what the block list does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from multifd.elements import Configuration, MachineState, Offsets, RamBlock, SectionHeader


class BlockTarget(Protocol):
    """The pages of one RAM block. Any number of channels call it at the same time: never for the same page between two
    sync points, as long as the source keeps to the rules; whatever it does, no call may reach beyond the block.
    """

    @property
    def length(self) -> int:
        """Bytes."""
        ...

    def place(self, offsets: Offsets) -> Sequence[memoryview]:
        """*worker*: writable views in which the pages at `offsets` (checked: multiples of the page size within the
        block) go, in their order, adjacent ones as one view. The pages count as written from here on.
        """
        ...

    def place_run(self, first: int, length: int) -> memoryview:
        """*worker*: as `place`, for neighbouring pages (checked: within the block)."""
        ...

    def zero(self, offsets: Offsets) -> None:
        """*worker or pool*: these pages are zero from now on, whatever was in them."""
        ...


class MachineTarget(Protocol):
    """A machine on its way in: `begin`, pages and `flush`es in any number, `commit`, `digest`; `abort` at any time."""

    def begin(
        self, configuration: Configuration, ram: SectionHeader, blocks: Sequence[RamBlock]
    ) -> Mapping[str, BlockTarget]:
        """*pool*: make room for these blocks, all pages zero. Returns them by name."""
        ...

    def flush(self) -> None:
        """*pool*: bring what has arrived nearer to the disk while the guest still runs, so that `commit` is short.
        Pages arrive meanwhile.
        """
        ...

    def commit(self, state: MachineState) -> None:
        """*pool*: all pages have arrived: write the rest, bring everything to the disk, and give it its name. When this
        has returned the source's copy is given up: the machine must be whole here, whatever happens next.
        """
        ...

    def abort(self) -> None:
        """*pool*: the source goes on: leave nothing behind, not even what `commit` has given its name. It may come
        while another call hangs in its thread, which must then raise or come to nothing. Idempotent.
        """
        ...

    def digest(self, done: Callable[[int], None]) -> Mapping[str, str]:
        """*pool*: after the source is done: SHA-256 of the final contents of each block, by name. `done` hears of the
        bytes that were looked at since the last call, often; what it raises ends the work.
        """
        ...
