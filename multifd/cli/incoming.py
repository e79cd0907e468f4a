"""Received files: written under temporary names, given their own names all together or not at all.

What happens when:

    provide   checks a name and makes `.multifd-<random>.part` for it; on refusal nothing is left
    prepare   before LOADED: all data to the disk, where a slow disk harms nobody
    start     after COMMIT: a hard link for each file, which fails if the name is taken, then the directory to the disk;
              if anything fails, what was published is taken back, and the session ends aborted on both sides
    close     of a block, by the engine at its session's end, or of all: what is temporary still is removed

Knows nothing of sessions, except that there can be several: preflights, refused offers and strangers offer files too.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Self

from multifd.cli.names import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, name_fault, printable
from multifd.engine.owner import Owner
from multifd.errors import StorageError
from multifd.memory import Block, FileBlock
from multifd.messages import BlockInfo


class IncomingFile(FileBlock):
    """One file on its way: a block over a temporary file, which goes when the block is closed."""

    def __init__(self, directory_fd: int, info: BlockInfo) -> None:
        """Make the temporary file. Raise `StorageError` if it can't be made, or not so long."""
        self.temporary = _temporary_name()
        self.published = False
        self.touched = False
        """Something was received into it."""
        self._directory_fd = directory_fd
        self.fd = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(self.temporary, flags, 0o600, dir_fd=self._directory_fd)
            os.ftruncate(self.fd, info.length)
            super().__init__(info.name, self.fd, page_size=info.page_size)
            self._file = printable(info.name)  # the name that people know, in place of the temporary one
        except (OSError, OverflowError, StorageError) as error:
            self._discard()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StorageError(f"can't make a file of {info.length} bytes: {reason}") from error

    @property
    def is_open(self) -> bool:
        """Not closed yet."""
        return self.fd >= 0

    def written(self, offset: int, view: memoryview) -> None:
        """As for any file."""
        self.touched = True
        super().written(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """As for any file."""
        self.touched = True
        super().zero(offset, length)

    def close(self) -> None:
        """Give everything back, and remove what has no name of its own. Idempotent."""
        if self.is_open:
            super().close()
            self._discard()

    def flush(self, mode: int) -> None:
        """Give it its mode, and bring all of it to the disk. Raise `StorageError`."""
        try:
            os.fchmod(self.fd, mode)
            os.fsync(self.fd)
        except OSError as error:
            raise StorageError(f"can't write {printable(self.name)} to the disk: {error.strerror}") from error

    def publish(self) -> None:
        """Give it its name beside the temporary one. Raise `OSError`, `FileExistsError` if the name is taken."""
        where = self._directory_fd
        os.link(self.temporary, self.name, src_dir_fd=where, dst_dir_fd=where, follow_symlinks=False)
        self.published = True

    def take_back(self) -> None:
        """Undo `publish`, unless somebody else's file has the name by now."""
        if self.published:
            with suppress(OSError):
                there = os.stat(self.name, dir_fd=self._directory_fd, follow_symlinks=False)
                if os.path.samestat(there, os.fstat(self.fd)):
                    os.unlink(self.name, dir_fd=self._directory_fd)
            self.published = False

    def drop_temporary(self) -> None:
        """Remove the temporary name."""
        with suppress(OSError):
            os.unlink(self.temporary, dir_fd=self._directory_fd)

    def _discard(self) -> None:
        self.drop_temporary()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_offer: ContextVar[list[IncomingFile] | None] = ContextVar("multifd_incoming_offer")
"""The files of one offer: the engine has all of them provided in one context, and each offer in another."""


class IncomingFiles(Owner):
    """Files on their way into `directory`. As an owner: to start is to publish."""

    def __init__(self, directory: Path) -> None:
        """Open `directory` and make sure that files can be made and linked in it. Raise `StorageError` if not."""
        self.directory = directory
        self.published: dict[str, int] = {}
        """Name → bytes, of what has arrived."""
        self._offers: list[list[IncomingFile]] = []
        self._lock = threading.Lock()
        self._arrived: list[IncomingFile] = []
        self._called_off = threading.Event()
        self._mode = 0o666 & ~_umask()
        shown = printable(str(directory))
        try:
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"can't open the directory {shown}: {error.strerror}") from error
        try:
            self._probe()
        except OSError as error:
            os.close(self._directory_fd)
            raise StorageError(f"can't make files in {shown}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def provide(self, info: BlockInfo) -> Block:
        """The block for an offered file. Raise `StorageError` with the reason to refuse it. Any thread."""
        fault = name_fault(info.name)
        if fault is not None:
            raise StorageError(fault)
        offer = self._current_offer()
        if any(file.name == info.name for file in _open(offer)):
            raise StorageError("two files of this name are offered")
        if self._exists(info.name):
            raise StorageError(f'it exists in "{printable(str(self.directory))}" already; nothing is overwritten')
        file = IncomingFile(self._directory_fd, info)
        offer.append(file)
        return file

    async def prepare(self) -> None:
        """Bring all data to the disk. Raise `StorageError` if it does not take it."""
        self._arrived = self._find_arrived()
        await asyncio.to_thread(self._flush)

    async def start(self) -> None:
        """Publish all, or nothing. Raise `StorageError` if it can't be done; no file has its name then, nor after being
        cancelled, which ends only when the helper thread has.
        """
        publishing = asyncio.get_running_loop().run_in_executor(None, self._publish)
        try:
            await asyncio.shield(publishing)
        except asyncio.CancelledError:
            self._called_off.set()
            while not publishing.done():
                with suppress(asyncio.CancelledError, StorageError):
                    await asyncio.shield(publishing)
            self._take_back()
            raise

    def close(self) -> None:
        """Remove what was not published and give back all descriptors. Idempotent."""
        for offer in self._offers:
            for file in offer:
                file.close()
        self._offers.clear()
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    def _current_offer(self) -> list[IncomingFile]:
        offer = _offer.get(None)
        with self._lock:
            if offer is None or not any(offer is each for each in self._offers):
                offer = []
                _offer.set(offer)
                self._offers = [*(each for each in self._offers if _open(each)), offer]
        return offer

    def _find_arrived(self) -> list[IncomingFile]:
        """The files of the session that is ending. Others may be offered just now: into those nothing came."""
        offers = [files for offer in self._offers if (files := _open(offer))]
        received = [files for files in offers if any(file.touched for file in files)]
        candidates = received or offers
        if len(candidates) > 1:
            raise StorageError("empty files were offered by several sources at a time; send them again")
        return candidates[0] if candidates else []

    def _flush(self) -> None:
        for file in self._arrived:
            file.flush(self._mode)

    def _publish(self) -> None:
        name = ""
        try:
            for file in self._arrived:
                if self._called_off.is_set():
                    return
                name = file.name
                file.publish()
            os.fsync(self._directory_fd)
        except OSError as error:
            self._take_back()
            what = f"{printable(name)} in {printable(str(self.directory))}"
            if isinstance(error, FileExistsError):
                raise StorageError(f"{what} was made by somebody else meanwhile; nothing is overwritten") from error
            raise StorageError(f"can't publish {what}: {error.strerror}") from error
        for file in self._arrived:
            file.drop_temporary()
        self.published = {file.name: file.length for file in self._arrived}

    def _take_back(self) -> None:
        for file in self._arrived:
            file.take_back()
        self.published = {}

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"can't look for a file of this name: {error.strerror}") from error
        return True

    def _probe(self) -> None:
        """Make, link and remove an empty file: better to know now than at the end of a transfer."""
        first, second = _temporary_name(), _temporary_name()
        where = self._directory_fd
        os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=where))
        try:
            os.link(first, second, src_dir_fd=where, dst_dir_fd=where, follow_symlinks=False)
            os.unlink(second, dir_fd=where)
        finally:
            os.unlink(first, dir_fd=where)


def _open(offer: list[IncomingFile]) -> list[IncomingFile]:
    return [file for file in offer if file.is_open]


def _temporary_name() -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"


def _umask() -> int:
    """The process's umask, which can only be read by setting it: at start-up, when no other thread makes files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
