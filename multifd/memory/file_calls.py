"""Calls on files that Python's `os` lacks, from the C library. Each releases the GIL and raises `OSError`. Linux."""

from __future__ import annotations

import ctypes
import errno
import os

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2
_STATFS_WORDS = 64  # `struct statfs` has 15 of them on 64-bit machines; its first is the type
_TMPFS_MAGIC = 0x01021994

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_renameat2 = getattr(_libc, "renameat2", None)  # glibc 2.28
if _renameat2 is not None:
    _renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def rename_exclusive(source: str, target: str) -> None:
    """Rename, unless `target` exists: then `FileExistsError`. `EINVAL` or `ENOSYS` where that can't be
    promised.
    """
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _check(_renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE))


def begin_writeback(fd: int) -> None:
    """Have the kernel write what is dirty of the file; does not wait for it, unless the disk's queue is full."""
    _check(_libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE))


def is_tmpfs(fd: int) -> bool:
    """Whether the file is in memory (tmpfs, memfd)."""
    words = (ctypes.c_long * _STATFS_WORDS)()
    _check(_libc.fstatfs(fd, words))
    return int(words[0]) == _TMPFS_MAGIC


def _check(result: int) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
