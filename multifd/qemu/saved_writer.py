"""`SavingMachine`: a machine on its way into a folder, complete or absent (docs/guides/saved-machines.md)."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from multifd.elements import Configuration, MachineState, RamBlock, SectionHeader
from multifd.errors import LocalProtocolError
from multifd.limits import MIB
from multifd.memory.reserved import ReservedFile, ReservedMap
from multifd.qemu.saved_digest import block_digest, ranges_digest
from multifd.qemu.saved_folder import PartFolder, write_at
from multifd.qemu.saved_layout import IGNORE_SHARED, Layout, bitmap, frame, head, place, placed, plan, tail
from multifd.qemu.saved_manifest import DIGESTS, MANIFEST, VM, Facts, Manifest, digests_to_json

_RESERVE_STEP = 64 * MIB
_BESIDE_BYTES = 64 * MIB
"""Room in the file for blocks that nobody thinks of when asked for a guest's memory: video memory, ROMs, tables. A file
that has to grow is mapped anew, and what was reserved is found again while the guest stands still.
"""
_BESIDE_RESERVED_BYTES = 8 * MIB
"""Of it, what is reserved: most machines need less, and to give it back takes the guest's time."""


class SavingMachine:
    """A saved machine on its way: `begin`, pages, `commit`, `digest`; `abort` at any time.

    What it makes is hidden until `commit` has everything on the disk. See `MachineTarget` for which thread calls what.
    """

    def __init__(self, path: Path) -> None:
        """Begin a folder that will be `path`. Raises `StorageError` if that exists or can't be made."""
        self.received: Facts = {"began": _now()}
        """How the machine came, for people: the manifest keeps what stands here at `commit`."""
        self._folder = PartFolder(path)
        self._file: ReservedFile | None = None
        self._layout: Layout | None = None
        self._begun: tuple[SectionHeader, tuple[RamBlock, ...]] | None = None
        self._blocks: dict[str, ReservedMap] = {}
        self._absent: frozenset[str] = frozenset()
        try:
            with self._folder.errors():
                self._fd = self._folder.create(VM)
        except BaseException:
            self._folder.remove()
            raise
        weakref.finalize(self, os.close, self._fd)

    @property
    def path(self) -> Path:
        """Where it will be."""
        return self._folder.path

    def reserve(self, length: int, going_on: Callable[[], bool] = lambda: True) -> None:
        """*pool*: have storage for `length` bytes of RAM, and a little more for what is beside it, before a source is
        there: then a full disk is known, and pages of a file in memory are there, which takes about half a second a
        GiB. Ends early once `going_on` says no. Raises `StorageError`.
        """
        length = -(-length // MIB) * MIB
        self._file = file = ReservedFile(self._fd, length + _BESIDE_BYTES)
        end = length + _BESIDE_RESERVED_BYTES
        for at in range(0, end, _RESERVE_STEP):
            if going_on():
                file.reserve_ahead(at, min(at + _RESERVE_STEP, end))

    def begin(
        self, configuration: Configuration, ram: SectionHeader, blocks: Sequence[RamBlock]
    ) -> Mapping[str, ReservedMap]:
        """*pool*: lay out the file. Raises `StorageError` if the form can't hold such a machine, or it can't be made so
        long.
        """
        self._layout = layout = plan(configuration, ram, blocks)
        self._begun = (ram, tuple(blocks))
        file = self._file
        if file is None or file.length < layout.end:
            self._file = file = ReservedFile(self._fd, layout.end)
        for block in layout.blocks:
            self._blocks[block.name] = ReservedMap(
                file, place(block).pages_offset, block.length, page_size=configuration.page_size, name=block.name
            )
        return self._blocks

    def flush(self) -> None:
        """*pool*: have what has arrived written to the disk, which goes on after the call."""
        if self._file is not None:
            self._file.begin_writeback()

    def commit(self, state: MachineState) -> None:
        """*pool*: write the rest, bring everything to the disk, give it its name. Raises `StorageError`, and
        `LocalProtocolError` if it is another machine than the one that was begun.
        """
        layout = self._layout
        if layout is None or self._begun != (state.ram, state.blocks):
            raise LocalProtocolError("SavingMachine.commit", "the machine that was begun")
        if IGNORE_SHARED in (state.configuration.capabilities or ()):
            self._absent = frozenset(name for name, block in self._blocks.items() if not block.touched)
        self._layout = layout = placed(layout, state.early)
        with self._folder.errors():
            length = self._write(layout, state)
            os.fsync(self._fd)
            self.received.setdefault("ended", _now())
            manifest = Manifest.of(
                state,
                absent=self._absent,
                vm_bytes=length,
                frame_sha256=ranges_digest(self._fd, frame(layout.blocks, length)),
                received=dict(self.received),
            )
            self._folder.write(MANIFEST, manifest.to_json())
        self._folder.publish()

    def abort(self) -> None:
        """*any*: remove it, whether it has its name or not. Idempotent."""
        self._folder.remove()

    def digest(self, done: Callable[[int], None]) -> Mapping[str, str]:
        """*pool*: after `commit`: digests of all blocks that have contents, by name, also added to the folder. See
        `MachineTarget.digest`. Gives storage back that holds nothing, too. Raises `StorageError`.
        """
        self._punch_holes()
        digests = {
            name: block_digest(block.view, block.present, block.page_size, done)
            for name, block in self._blocks.items()
            if name not in self._absent
        }
        with self._folder.errors():
            self._folder.write(DIGESTS, digests_to_json(digests))
        return digests

    def _write(self, layout: Layout, state: MachineState) -> int:
        """All but RAM's pages. Returns the file's length."""
        os.ftruncate(self._fd, layout.end)
        for block, (offset, data) in zip(layout.blocks, head(layout, state.early), strict=True):
            write_at(self._fd, data, offset)
            for at, piece in bitmap(self._blocks[block.name].present):
                write_at(self._fd, piece, place(block).bitmap_offset + at)
        end = layout.end
        for data in tail(layout, state):
            write_at(self._fd, data, end)
            end += len(data)
        return end

    def _punch_holes(self) -> None:
        """Give storage back that was reserved and holds nothing: pages that are zero, and what is before pages."""
        if self._file is None or self._layout is None:
            return
        for target in self._blocks.values():
            target.punch_holes()
        for block, (_, end) in zip(self._layout.blocks, frame(self._layout.blocks, 0), strict=False):
            self._file.punch_hole(end, place(block).pages_offset - end)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
