"""The few calls that Python's `os` and `mmap` lack, from the C library. Each releases the GIL and raises `OSError`.
Linux on a 64-bit machine.
"""

from __future__ import annotations

import ctypes
import os
import platform

_USERFAULTFD = {"x86_64": 323, "aarch64": 282}  # system call numbers

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_long)
_libc.syscall.restype = ctypes.c_long


def madvise(address: int, length: int, advice: int) -> None:
    """`madvise` on `length` bytes at `address`, which is page aligned. (`mmap.madvise` knows only mappings that Python
    made.)
    """
    _check(_libc.madvise(address, length, advice))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """`fallocate` with a mode, which `os.posix_fallocate` lacks."""
    _check(_libc.fallocate(fd, mode, offset, length))


def userfaultfd(flags: int) -> int:
    """`userfaultfd`: a new file descriptor."""
    number = _USERFAULTFD.get(platform.machine())
    if number is None:
        raise OSError(f"the number of the system call userfaultfd is not known for {platform.machine()}")
    return _check(_libc.syscall(number, flags))


def _check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
