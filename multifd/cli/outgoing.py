"""Files to send: opened, checked, and watched for changes. Knows nothing of sessions."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from multifd.cli.ending import UsageError
from multifd.cli.names import name_fault, printable
from multifd.engine.owner import Owner
from multifd.errors import OwnerError
from multifd.memory import Block, FileBlock

_DIRECTORY = "a directory; pack it with tar, or name its files"
_LOOK = "check the path"
_NEXT = {errno.EACCES: "make it readable for you", errno.EMFILE: "send fewer files at a time"}
"""What to do if a file can't be opened."""


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """One open file, and how it was when it was opened."""

    path: str
    name: str
    fd: int
    length: int
    modified_ns: int
    block: FileBlock


class OutgoingFiles(Owner):
    """The files of one `multifd send`. As an owner: to stop is to look whether all are still as they were."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Open them all. Raise `UsageError` for what can't be sent, before anything is."""
        self.files: list[OutgoingFile] = []
        try:
            for path in paths:
                self._add(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def length(self) -> int:
        """Bytes of all files."""
        return sum(file.length for file in self.files)

    def blocks(self) -> list[Block]:
        """A block for each file, named as the file is."""
        return [file.block for file in self.files]

    async def stop(self) -> None:
        """Raise `OwnerError` if a file was changed since it was opened: what was sent may be half of each."""
        for file in self.files:
            now = os.fstat(file.fd)
            if (now.st_size, now.st_mtime_ns) != (file.length, file.modified_ns):
                raise OwnerError(
                    f"{file.path} was changed while it was being sent; send it again when nobody writes to it"
                )

    def close(self) -> None:
        """Close all. Idempotent."""
        while self.files:
            file = self.files.pop()
            file.block.close()
            os.close(file.fd)

    def _add(self, path: str) -> None:
        shown = printable(path)
        name = Path(path).name
        fault = name_fault(name)
        if fault is not None:
            raise UsageError(f"can't send {shown}: {fault}")
        for other in self.files:
            if other.name == name:
                if _same(other.path, path):
                    raise UsageError(f"{shown} is given twice; name it once")
                both = f"{printable(other.path)} and {shown}"
                raise UsageError(f"{both} would have the same name at the destination; rename one")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would block
        except OSError as error:
            raise UsageError(f"can't open {shown}: {error.strerror}; {_NEXT.get(error.errno or 0, _LOOK)}") from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                is_directory = stat.S_ISDIR(found.st_mode)
                what = _DIRECTORY if is_directory else "not a regular file; copy what it gives into one"
                raise UsageError(f"can't send {shown}: it is {what}")
            block = FileBlock(name, fd)
        except BaseException:
            os.close(fd)
            raise
        self.files.append(OutgoingFile(path, name, fd, found.st_size, found.st_mtime_ns, block))


def _same(first: str, second: str) -> bool:
    try:
        return Path(first).samefile(second)
    except OSError:
        return False
