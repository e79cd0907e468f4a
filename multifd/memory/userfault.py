"""userfaultfd(2) as far as dirty tracking needs it: asynchronous write protection, resolved in the kernel without a
handler.

Numbers and layouts: linux/userfaultfd.h. The structs are rows of u64. Linux 6.7 or later.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

import numpy as np

from multifd.errors import TrackingError
from multifd.memory.libc import userfaultfd

_DEVICE = "/dev/userfaultfd"
_DEVICE_NEW = 0xAA00
_API_VERSION = 0xAA
_API = 0xC018AA3F  # _IOWR(0xAA, 0x3F, 24): version, features, ioctls out
_REGISTER = 0xC020AA00  # _IOWR(0xAA, 0, 32): start, length, mode, ioctls out
_WRITEPROTECT = 0xC018AA06  # _IOWR(0xAA, 6, 24): start, length, mode
_MODE_WP = 2
_PROTECT = 1
_USER_MODE_ONLY = 1
_PAGEFAULT_FLAG_WP, _WP_HUGETLBFS_SHMEM, _WP_UNPOPULATED, _WP_ASYNC = 1 << 0, 1 << 12, 1 << 13, 1 << 15
_FEATURES = _PAGEFAULT_FLAG_WP | _WP_HUGETLBFS_SHMEM | _WP_UNPOPULATED | _WP_ASYNC

_CAUSES = {
    errno.EBUSY: "a page of it is tracked by somebody else already (two small blocks may share a page)",
    errno.EINVAL: "the kernel does not track this kind of memory",
    errno.EPERM: "it is mapped from a file that was opened for reading only",
    errno.ENOMEM: "part of it is not mapped, or memory is short",
}


class UserFault:
    """One userfaultfd, ready for asynchronous write protection. Closing it ends the tracking of all that was registered
    with it.
    """

    def __init__(self) -> None:
        """Open it. Raise `TrackingError` if the kernel does not have it or does not allow it."""
        self.fd, self.user_mode_only = _open()
        try:
            fcntl.ioctl(self.fd, _API, np.array([_API_VERSION, _FEATURES, 0], dtype=np.uint64).data)
        except OSError as error:
            self.close()
            raise TrackingError(f"asynchronous write protection needs Linux 6.7 or later ({error.strerror})") from error

    def register(self, address: int, length: int) -> None:
        """Have writes to this page-aligned range of this process seen, once it is protected. Raise `TrackingError` with
        the cause.
        """
        try:
            fcntl.ioctl(self.fd, _REGISTER, np.array([address, length, _MODE_WP, 0], dtype=np.uint64).data)
        except OSError as error:
            raise TrackingError(_CAUSES.get(error.errno or 0, str(error.strerror))) from error

    def protect(self, address: int, length: int) -> None:
        """Write-protect all pages of a registered range, those not yet populated as well. Raise `TrackingError`."""
        try:
            fcntl.ioctl(self.fd, _WRITEPROTECT, np.array([address, length, _PROTECT], dtype=np.uint64).data)
        except OSError as error:
            raise TrackingError(f"it can't be write-protected: {error.strerror}") from error

    def close(self) -> None:
        """Give it back. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open() -> tuple[int, bool]:
    """(fd, whether it is for faults from user mode only), by the first way that is allowed.

    Asynchronous write protection is resolved in the kernel, so writes by the kernel into the range (recv into it) are
    tracked in user mode only as well.
    """
    with suppress(OSError):
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            return fcntl.ioctl(device, _DEVICE_NEW, os.O_CLOEXEC | os.O_NONBLOCK), False
        finally:
            os.close(device)
    with suppress(PermissionError):
        return userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK), False
    try:
        return userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY), True
    except OSError as error:
        raise TrackingError(f"userfaultfd can't be used: {error.strerror or error}") from error
