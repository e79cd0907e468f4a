"""`SavedMachine`: a machine that was saved, by us or by a QEMU (docs/guides/saved-machines.md).

The file may come from anywhere. Everything in it is checked against bounds and against the file's length before it is
used, and against the manifest if there is one.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from multifd import elements as e
from multifd.errors import RemoteProtocolError, StorageError
from multifd.limits import KIB, MIB, QEMU_MANIFEST_BYTES_MAX
from multifd.memory.extents import runs
from multifd.memory.file_calls import is_tmpfs
from multifd.memory.file_pages import FilePages, OpenFile
from multifd.memory.populate import populate_read
from multifd.qemu.packets import windows
from multifd.qemu.saved_digest import block_digest, ranges_digest
from multifd.qemu.saved_layout import MAPPED_RAM, frame, place
from multifd.qemu.saved_manifest import DIGESTS, MANIFEST, VM, Manifest, digests_from_json
from multifd.wire.qemu_stream import StreamReader

_READ_BYTES = 64 * KIB
_PREPARE_BYTES = 64 * KIB  # what the kernel finds at once in any case, when one page of it is looked for
_BITMAP_STEP = MIB
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # not to wait for whoever opens the other end of a FIFO


@dataclasses.dataclass(frozen=True, slots=True)
class SavedBlock:
    """The contents of one RAM block. `view` is read-only, `file` has the same bytes to be read; where `present` is
    false the page is zero, whatever they have there.
    """

    view: memoryview
    present: npt.NDArray[np.bool_]
    file: FilePages
    is_mapped: bool


class SavedMachine:
    """A saved machine, open for reading: what `QemuSource` sends. Good until `close`.

    Its file must not be changed meanwhile; whoever cuts it short ends the process that looks at a block's `view`
    (SIGBUS).
    """

    def __init__(
        self,
        state: e.MachineState,
        blocks: Mapping[str, SavedBlock],
        mapping: mmap.mmap,
        *,
        digests: Mapping[str, str],
        received: Mapping[str, Any],
    ) -> None:
        """For `open`."""
        self.state = state
        """All but the contents of RAM, with the configuration that the machine was received with."""
        self.digests = digests
        """SHA-256 of blocks that was stored with the machine; empty if none was."""
        self.received = received
        """How it came, from the manifest; empty for a file of QEMU's."""
        self._blocks = dict(blocks)
        self._mapping = mapping

    @classmethod
    def open(cls, path: Path) -> Self:
        """The machine in a folder that `SavingMachine` made, or in a mapped-ram file that a QEMU saved.

        Raises `StorageError` if it is none, is damaged, or can't be read.
        """
        with _errors(path):
            folder = path.is_dir()
            manifest = Manifest.from_json(_read_file(path / MANIFEST)) if folder else None
            digests = digests_from_json(_read_file(path / DIGESTS)) if folder and (path / DIGESTS).exists() else {}
            with _file(path / VM if folder else path) as (fd, length):
                state = _read_state(fd, length, manifest)
                ignored = _ignored(state)
                absent = manifest.absent if manifest else ignored
                if not ignored <= absent:
                    raise StorageError(f"{VM} has no place for block {min(ignored - absent)}, which should be there")
                mapping = mmap.mmap(fd, length, prot=mmap.PROT_READ)
                file = OpenFile(fd, str(path))
                in_memory = is_tmpfs(fd)
                blocks = {
                    block.name: SavedBlock(
                        memoryview(mapping)[place(block).pages_offset :][: block.length],
                        _read_bitmap(fd, block),
                        _pages(file, block),
                        in_memory,
                    )
                    for block in state.blocks
                    if block.name not in absent
                }
                frame_sha256 = ranges_digest(fd, frame(state.blocks, length)) if manifest else ""
            state = _of_a_socket(state)
            if manifest is not None:
                found = Manifest.of(state, absent=absent, vm_bytes=length, frame_sha256=frame_sha256)
                if difference := manifest.difference(found):
                    raise StorageError(f"{VM} has {difference}")
                state = manifest.state(state)
        return cls(state, blocks, mapping, digests=digests, received=manifest.received if manifest else {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, going_on: Callable[[], bool] = lambda: True) -> None:
        """Find the pages of a file in memory (tmpfs), which takes some 50 ms a GiB: then none is looked for while it is
        sent. A file on a disk is read when its pages are sent. Ends early once `going_on` says no.
        """
        page_size = self.state.configuration.page_size
        for block in tuple(self._blocks.values()):
            for first, flags in windows(block.present) if block.is_mapped else ():
                extents, _ = runs(first + np.flatnonzero(flags), page_size=page_size, length=len(block.view))
                for start, length in extents.tolist():
                    if length >= _PREPARE_BYTES:
                        populate_read(block.view[start : start + length], going_on)

    def contents(self, block: str) -> SavedBlock | None:
        """Those of a block of `state`; None if they were not saved (x-ignore-shared)."""
        return self._blocks.get(block)

    def digest(self, done: Callable[[int], None] = lambda _: None) -> dict[str, str]:
        """SHA-256 of all blocks whose contents are there, computed now. `done` hears of the bytes of every piece; what
        it raises ends the work.
        """
        page_size = self.state.configuration.page_size
        return {name: block_digest(each.view, each.present, page_size, done) for name, each in self._blocks.items()}

    def close(self) -> None:
        """Give the file back; views into it that others still hold keep it. Idempotent."""
        self._blocks.clear()
        with suppress(BufferError):
            self._mapping.close()


# -- the mapped-ram file -----------------------------------------------------------------------------------------------


def _read_state(fd: int, length: int, manifest: Manifest | None) -> e.MachineState:
    """Everything in the file but RAM; blocks have their places."""
    if manifest is not None:
        return _Parts(_elements(fd, StreamReader(description=manifest.description is not None, stream=VM))).state
    try:
        return _Parts(_elements(fd, StreamReader(stream=VM))).state
    except RemoteProtocolError:
        # Whether a description ends it, a file of QEMU's does not say. One that has none ends with the end of state.
        if os.pread(fd, 1, length - 1) != b"\0":
            raise
        return _Parts(_elements(fd, StreamReader(description=False, stream=VM))).state


def _elements(fd: int, reader: StreamReader) -> Iterator[e.StreamElement]:
    at = 0
    while data := os.pread(fd, _READ_BYTES, at):
        yield from reader.feed(data)
        at = at + len(data) if reader.continue_at is None else reader.continue_at
    reader.end()


class _Parts:
    """Gathers a machine from the elements of its file."""

    def __init__(self, elements: Iterator[e.StreamElement]) -> None:
        self._configuration: e.Configuration | None = None
        self._ram: e.SectionHeader | None = None
        self._blocks: tuple[e.RamBlock, ...] = ()
        self._early: list[e.Section] = []
        self._late: list[e.Section] = []
        self._ram_ended = self._switchover_start = False
        self._description: bytes | None = None
        for element in elements:
            self._take(element)

    @property
    def state(self) -> e.MachineState:
        """The machine."""
        assert self._configuration is not None
        assert self._ram is not None  # a stream without RAM does not come to its end
        return e.MachineState(
            self._configuration,
            tuple(self._early),
            self._ram,
            self._blocks,
            self._switchover_start,
            tuple(self._late),
            self._description,
            self._configuration.uuid or bytes(16),
        )

    def _take(self, element: e.StreamElement) -> None:
        match element:
            case e.Configuration():
                if MAPPED_RAM not in (element.capabilities or ()):
                    raise StorageError(
                        "it is a migration stream without a place for each page: save it with mapped-ram"
                    )
                self._configuration = element
            case e.RamBegins():
                self._ram = element.section
            case e.RamEnds():
                self._ram_ended = element.phase is e.Phase.END
            case e.BlockList():
                self._blocks = element.blocks
            case e.Section():
                (self._late if self._ram_ended else self._early).append(element)
            case e.Command(number=e.CommandNumber.SWITCHOVER_START):
                self._switchover_start = True
            case e.Description():
                self._description = element.text
            case e.PageRecord() | e.ZeroRecords():
                raise StorageError(f"{VM} has pages outside their places")
            case _:
                pass  # what a file has no use for: a return path, sync marks


def _of_a_socket(state: e.MachineState) -> e.MachineState:
    """As the same machine would come over a socket: without `mapped-ram` and places."""
    configuration = state.configuration
    capabilities = tuple(name for name in configuration.capabilities or () if name != MAPPED_RAM)
    return dataclasses.replace(
        state,
        configuration=dataclasses.replace(configuration, capabilities=capabilities or None),
        blocks=tuple(dataclasses.replace(block, mapped=None) for block in state.blocks),
    )


def _ignored(state: e.MachineState) -> frozenset[str]:
    """Blocks without contents in a file of QEMU's (11.1, x-ignore-shared): they have no place."""
    return frozenset(block.name for block in state.blocks if not place(block).pages_offset)


def _read_bitmap(fd: int, block: e.RamBlock) -> npt.NDArray[np.bool_]:
    """One flag for each page. Takes memory only for pieces of the bitmap in which any bit is set."""
    mapped = place(block)
    try:
        present = np.zeros(block.length // mapped.page_size, dtype=np.bool_)
    except MemoryError:
        raise StorageError(f"no memory for the bitmap of block {block.name}, {block.length} bytes") from None
    for first in range(0, len(present), _BITMAP_STEP * 8):
        flags = present[first : first + _BITMAP_STEP * 8]
        raw = np.frombuffer(os.pread(fd, -(-len(flags) // 8), mapped.bitmap_offset + first // 8), dtype=np.uint8)
        if raw.any():
            flags[:] = np.unpackbits(raw, count=len(flags), bitorder="little").view(np.bool_)
    return present


def _pages(file: OpenFile, block: e.RamBlock) -> FilePages:
    mapped = place(block)
    return FilePages(file, mapped.pages_offset, block.length, page_size=mapped.page_size)


# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turns whatever is wrong into `StorageError`, with the machine's name."""
    try:
        yield
    except OSError as error:
        raise StorageError(f'can\'t read the saved machine "{path}": {error.strerror}') from error
    except StorageError as error:
        raise StorageError(f'can\'t use "{path}" as a saved machine: {error}') from error
    except RemoteProtocolError as error:
        got = "" if error.got is None else f", got {error.got!r:.100}"
        raise StorageError(f'"{path}" is damaged: {error.where}: expected {error.expected}{got}') from error


@contextmanager
def _file(path: Path) -> Iterator[tuple[int, int]]:
    """A regular file, open for reading: descriptor and length. Raises `OSError`, `StorageError` if it is none."""
    fd = os.open(path, _OPEN)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            raise StorageError(f"{path.name} is empty, or not a regular file")
        yield fd, status.st_size
    finally:
        os.close(fd)


def _read_file(path: Path) -> bytes:
    try:
        with _file(path) as (fd, length):
            if length > QEMU_MANIFEST_BYTES_MAX:
                raise StorageError(f"{path.name} has {length} bytes, of {QEMU_MANIFEST_BYTES_MAX} at most")
            return os.pread(fd, length, 0)
    except FileNotFoundError:
        raise StorageError(f"it has no {path.name}") from None
