"""A folder that is complete or absent: filled under a hidden name beside its own, on the disk before it is renamed.

What a crash leaves is `.NAME.part-XXXXXXXX`, which nobody takes for anything, and which may be deleted.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from multifd.errors import StorageError
from multifd.memory.file_calls import rename_exclusive

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PartFolder:
    """A folder on its way. Files are for their owner alone: a guest's memory has its secrets."""

    def __init__(self, path: Path) -> None:
        """Make the hidden folder. Raises `StorageError` if it can't be, or if `path` exists."""
        self.path = path.absolute()
        self._part = self.path.with_name(f".{self.path.name}.part-{secrets.token_hex(4)}") if self.path.name else path
        self._lock = threading.Lock()  # guards the two below, and that a name is given only to what stays
        self._published = False
        self._removed = False
        if os.path.lexists(self.path):
            raise self._exists()
        try:
            self._part.mkdir(mode=0o700)
        except FileNotFoundError:
            raise StorageError(f'can\'t make "{self.path}": there is no directory "{self.path.parent}"') from None
        except OSError as error:
            raise StorageError(f'can\'t make "{self.path}": {error.strerror}') from error
        try:
            with self.errors():
                self._fd = os.open(self._part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except StorageError:
            with suppress(OSError):
                self._part.rmdir()  # `remove` would need a descriptor, and there may be none left
            raise
        weakref.finalize(self, os.close, self._fd)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns `OSError` into `StorageError`, with the folder's name."""
        try:
            yield
        except OSError as error:
            raise StorageError(f'can\'t save to "{self.path}": {error.strerror}') from error

    def create(self, name: str) -> int:
        """A new file in it, for reading and writing: its descriptor. Raises `OSError`."""
        return os.open(name, _CREATE, 0o600, dir_fd=self._fd)

    def write(self, name: str, data: bytes) -> None:
        """A new file with this in it, on the disk before it has its name. Raises `OSError`."""
        temporary = f".{name}.part-{secrets.token_hex(4)}"
        fd = self.create(temporary)
        try:
            write_at(fd, data, 0)
            os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)
            raise
        finally:
            os.close(fd)
        os.fsync(self._fd)

    def publish(self) -> None:
        """Give it its name, on the disk. The last of its files came by `write`, which has the folder on the disk.

        Raises `StorageError` if the name is taken, if it was removed, or if that can't be done: it has no name then.
        """
        with self.errors():
            with self._lock:
                self._check_wanted()
                try:
                    self._rename()
                except (FileExistsError, NotADirectoryError):
                    raise self._exists() from None
                self._published = True
            try:
                _sync_directory(self.path.parent)
            except OSError:
                self.remove()
                raise
            with self._lock:
                self._check_wanted()

    def remove(self) -> None:
        """*any*: remove it, whatever name it has by now. What another thread is about to do in it fails. Idempotent.

        Raises `StorageError` if something of it is left.
        """
        with self._lock:
            self._removed = True
            if self._published:
                self._published = False
                try:
                    if os.path.samestat(self.path.lstat(), os.fstat(self._fd)):
                        self.path.rename(self._part)
                except FileNotFoundError:
                    pass  # somebody else has removed it
                except OSError as error:
                    raise StorageError(f'can\'t take "{self.path}" back: {error.strerror}; remove it') from error
        shutil.rmtree(self._part, ignore_errors=True)
        if os.path.lexists(self._part):
            raise StorageError(f'can\'t remove all of "{self._part}"; remove it')

    def _check_wanted(self) -> None:
        if self._removed:
            shutil.rmtree(self._part, ignore_errors=True)  # with what this thread has made in it since
            raise StorageError(f'"{self.path}" was called off')

    def _rename(self) -> None:
        try:
            rename_exclusive(str(self._part), str(self.path))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # This file system can't promise it. What somebody else makes just now is safe, but for an empty directory.
            if os.path.lexists(self.path):
                raise FileExistsError from None
            self._part.rename(self.path)

    def _exists(self) -> StorageError:
        return StorageError(f'"{self.path}" exists already; nothing is overwritten')


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of it. Raises `OSError`."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
