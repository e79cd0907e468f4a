"""A data channel's connection under TLS: what `DataSocket` is for a plain one."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence

from multifd import limits
from multifd.engine.tls import Tls
from multifd.engine.transport import DataSocket
from multifd.slot import Buffer

_RECORD_BYTES = 16 * limits.KIB
"""The most that a record of TLS holds."""
_JOINED_BYTES = 256 * limits.KIB


class TlsDataSocket(DataSocket):
    """As `DataSocket`; its handshake is done. Only its worker may call anything but `shut`: one TLS session must never
    be used by two threads at once.
    """

    def __init__(self, connection: ssl.SSLSocket, tls: Tls) -> None:
        super().__init__(connection)
        self.security = security_of(connection)
        self._session = connection
        self._tls = tls
        self._shut = False

    def send(self, buffers: Sequence[Buffer]) -> None:
        """*worker*: send all of it. Raises `OSError`."""
        with self._tls.explained():
            for each in _in_large_pieces(buffers):
                left = memoryview(each)
                while left:
                    left = left[self._session.send(left) :]

    def _take_some(self, buffer: memoryview) -> int:
        """An end without close-notify is an end too: older QEMUs just cut, and every dialect counts what came."""
        with self._tls.explained():
            return self._session.recv_into(buffer)

    def _fill(self, buffers: Sequence[memoryview]) -> int:
        filled = 0
        with self._tls.explained():
            for each in buffers:
                left = each
                while left:
                    got = self._session.recv_into(left)
                    if got == 0:
                        return filled
                    filled += got
                    left = left[got:]
        return filled

    def shut(self) -> None:
        """*any*: end it for both directions, at once: without close-notify, which is the worker's alone to send."""
        self._shut = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._session, socket.SHUT_RDWR)  # SSLSocket's own would drop the session in use

    def close(self) -> None:
        """*loop*: after the worker has ended. Unless it was shut, say that nothing follows (close-notify)."""
        if not self._shut:
            self._session.setblocking(False)
            say_end(self._session)
            discard(self._session)
        super().close()


def _in_large_pieces(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """Small buffers joined, large ones as they are. TLS makes a record and a system call of each piece: pages sent one
    by one took twice as long on both sides as pages that were copied together first.
    """
    small: list[Buffer] = []
    length = 0
    for each in buffers:
        if len(each) >= _RECORD_BYTES or length >= _JOINED_BYTES:
            yield b"".join(small)
            small.clear()
            length = 0
        if len(each) >= _RECORD_BYTES:
            yield each
        else:
            small.append(each)
            length += len(each)
    yield b"".join(small)


def security_of(connection: ssl.SSLSocket) -> str:
    """`TLS 1.3, TLS_AES_256_GCM_SHA384`: what the handshake came to."""
    cipher = connection.cipher()
    return f"{(connection.version() or '').replace('TLSv', 'TLS ')}, {cipher[0] if cipher else 'no cipher'}"


def say_end(connection: ssl.SSLSocket) -> bool:
    """Send close-notify on a non-blocking connection; False if that has to wait until it can be written to."""
    try:
        connection.unwrap()
    except ssl.SSLWantWriteError:
        return False
    except (OSError, ValueError):  # the peer's own close-notify is not waited for; or the connection is gone
        pass
    return True


def discard(connection: socket.socket) -> bool:
    """Take what has arrived on a non-blocking connection (a server's tickets, say) and forget it: closing over unread
    bytes would reset the connection. True if there is nothing more to come.
    """
    try:
        return not socket.socket.recv(connection, 65536)
    except BlockingIOError:
        return False
    except OSError:
        return True
