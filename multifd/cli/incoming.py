"""Received files: written under temporary names, given their own names all together or not at all.

What happens when:

    provide   checks a name and makes `.multifd-<random>.part` for it; on refusal nothing is left
    prepare   before LOADED: all data to the disk, where a slow disk harms nobody
    start     after COMMIT: a hard link for each file, which fails if the name is taken, then the directory to the disk;
              if anything fails, what was published is taken back, and the session ends aborted on both sides
    close     removes whatever is still temporary

Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from multifd.cli.names import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, name_fault, printable
from multifd.engine.owner import Owner
from multifd.errors import StorageError
from multifd.memory import Block, FileBlock
from multifd.messages import BlockInfo


@dataclass(slots=True)
class IncomingFile:
    """One file on its way."""

    name: str
    length: int
    temporary: str
    fd: int
    published: bool = False


class IncomingFiles(Owner):
    """The files of one session, on their way into `directory`. As an owner: to start is to publish."""

    def __init__(self, directory: Path) -> None:
        """Open `directory` and make sure that files can be made and linked in it. Raise `StorageError` if not."""
        self.directory = directory
        self.files: dict[str, IncomingFile] = {}
        self._mode = 0o666 & ~_umask()
        try:
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"can't open the directory {printable(str(directory))}: {error.strerror}") from error
        try:
            self._probe()
        except OSError as error:
            os.close(self._directory_fd)
            raise StorageError(f"can't make files in {printable(str(directory))}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def provide(self, info: BlockInfo) -> Block:
        """The block for an offered file. Raise `StorageError` with the reason to refuse it."""
        fault = name_fault(info.name)
        if fault is not None:
            raise StorageError(fault)
        if info.name in self.files:
            self._discard(self.files.pop(info.name))
        if self._exists(info.name):
            raise StorageError(
                f"a file of this name exists in {printable(str(self.directory))}; nothing is overwritten"
            )
        try:
            file = self._create(info)
        except OSError as error:
            raise StorageError(f"can't make a file of {info.length} bytes: {error.strerror}") from error
        self.files[info.name] = file
        return FileBlock(info.name, file.fd, page_size=info.page_size)

    async def prepare(self) -> None:
        """Bring all data to the disk. Raise `StorageError` if it does not take it."""
        await asyncio.to_thread(self.flush)

    async def start(self) -> None:
        """Publish all, or nothing. Raise `StorageError` if it can't be done; no file has its final name then."""
        await asyncio.to_thread(self.publish)

    def flush(self) -> None:
        """What `prepare` does; blocks."""
        for file in self.files.values():
            try:
                os.fchmod(file.fd, self._mode)
                os.fsync(file.fd)
            except OSError as error:
                raise StorageError(f"can't write {printable(file.name)} to the disk: {error.strerror}") from error

    def publish(self) -> None:
        """What `start` does; blocks."""
        try:
            for file in self.files.values():
                self._link(file)
            os.fsync(self._directory_fd)
        except OSError as error:
            self._take_back()
            raise StorageError(
                f"can't write the files to {printable(str(self.directory))}: {error.strerror}"
            ) from error
        except StorageError:
            self._take_back()
            raise
        for file in self.files.values():
            with suppress(OSError):  # the file itself is safe under its own name
                os.unlink(file.temporary, dir_fd=self._directory_fd)

    def close(self) -> None:
        """Remove what was not published and give back all descriptors. Idempotent."""
        for file in self.files.values():
            self._discard(file)
        self.files.clear()
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    def _create(self, info: BlockInfo) -> IncomingFile:
        temporary = _temporary_name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=self._directory_fd)
        file = IncomingFile(info.name, info.length, temporary, fd)
        try:
            os.ftruncate(fd, info.length)
        except (OSError, OverflowError) as error:
            self._discard(file)
            raise error if isinstance(error, OSError) else OSError(0, "a file can't be that long") from error
        return file

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"can't look for a file of this name: {error.strerror}") from error
        return True

    def _link(self, file: IncomingFile) -> None:
        try:
            os.link(
                file.temporary,
                file.name,
                src_dir_fd=self._directory_fd,
                dst_dir_fd=self._directory_fd,
                follow_symlinks=False,
            )
        except FileExistsError as error:
            where = printable(f"{file.name} in {self.directory}")
            raise StorageError(f"{where} was made by somebody else meanwhile; nothing is overwritten") from error
        file.published = True

    def _take_back(self) -> None:
        """Unlink what was published, if it is still ours."""
        for file in self.files.values():
            if not file.published:
                continue
            with suppress(OSError):
                there = os.stat(file.name, dir_fd=self._directory_fd, follow_symlinks=False)
                if os.path.samestat(there, os.fstat(file.fd)):
                    os.unlink(file.name, dir_fd=self._directory_fd)
            file.published = False

    def _discard(self, file: IncomingFile) -> None:
        if not file.published:
            with suppress(OSError):
                os.unlink(file.temporary, dir_fd=self._directory_fd)
        os.close(file.fd)

    def _probe(self) -> None:
        """Make, link and remove an empty file: better to know now than at the end of a transfer."""
        first, second = _temporary_name(), _temporary_name()
        os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self._directory_fd))
        try:
            os.link(first, second, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd, follow_symlinks=False)
            os.unlink(second, dir_fd=self._directory_fd)
        finally:
            os.unlink(first, dir_fd=self._directory_fd)


def _temporary_name() -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"


def _umask() -> int:
    """The process's umask, which can only be read by setting it: at start-up, when no other thread makes files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
