"""Frames of the return path of QEMU's dialect (proto/qemu.md section 9), both ways. Does no I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from multifd.elements import Pong, ReturnMessage, Shut, SwitchoverAck
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.slot import Buffer

_FRAME = struct.Struct(">HH")  # type, length; the payload follows
_VALUE = struct.Struct(">I")
_U32_MAX = 2**32 - 1
_SHUT = 1
_PONG = 2
_SWITCHOVER_ACK = 7
_LENGTHS = {_SHUT: _VALUE.size, _PONG: _VALUE.size, _SWITCHOVER_ACK: 0}
"""Of payloads, by type. No other type is known, so there is no other bound on lengths (QEMU's own is 512 bytes)."""
_POSTCOPY_NAMES = {3: "REQ_PAGES_ID", 4: "REQ_PAGES", 5: "RECV_BITMAP", 6: "RESUME_ACK"}


class ReturnReader:
    """Reads frames from bytes cut anywhere. After an error every further call raises it again."""

    def __init__(self) -> None:
        self.offset = 0
        """Of the next frame, in bytes from the begin of the return path."""
        self._data = b""
        self._position = 0  # in `_data`, of the next frame
        self._error: RemoteProtocolError | None = None

    def feed(self, data: Buffer) -> Iterator[ReturnMessage]:
        """The messages that `data` completes. Lazy: exhaust it before the next call.

        A frame is refused as soon as its first four bytes are there. Raises `RemoteProtocolError` after all messages
        before the fault.
        """
        if self._error is not None:
            raise self._error
        self._data = self._data[self._position :] + data
        self._position = 0
        while (message := self._next()) is not None:
            yield message

    def end(self) -> None:
        """The return path has ended. Raises `RemoteProtocolError` if it did inside a frame."""
        if rest := len(self._data) - self._position:
            raise self._error or self._refuse("frame", "all of it", f"{rest} bytes")

    def _next(self) -> ReturnMessage | None:
        """The next message; None if it is not whole."""
        there = len(self._data) - self._position
        if there < _FRAME.size:
            return None
        kind, length = _FRAME.unpack_from(self._data, self._position)
        self._check(kind, length)
        end = _FRAME.size + length
        if there < end:
            return None
        payload = self._data[self._position + _FRAME.size : self._position + end]
        self._position += end
        self.offset += end
        if kind == _SWITCHOVER_ACK:
            return SwitchoverAck()
        (value,) = _VALUE.unpack(payload)
        return Shut(value) if kind == _SHUT else Pong(value)

    def _check(self, kind: int, length: int) -> None:
        if kind not in _LENGTHS:
            name = f"{_POSTCOPY_NAMES[kind]} of postcopy" if kind in _POSTCOPY_NAMES else kind
            raise self._refuse("frame.type", "SHUT, PONG or SWITCHOVER_ACK", name)
        if length != _LENGTHS[kind]:
            raise self._refuse("frame.length", str(_LENGTHS[kind]), length)

    def _refuse(self, what: str, expected: str, got: object) -> RemoteProtocolError:
        self._error = RemoteProtocolError(f"return path at {self.offset}: {what}", expected, got)
        return self._error


def serialize_return(message: ReturnMessage) -> bytes:
    """The frame of `message`. Raises `LocalProtocolError`."""
    if isinstance(message, SwitchoverAck):
        return _FRAME.pack(_SWITCHOVER_ACK, 0)
    kind, value = (_SHUT, message.status) if isinstance(message, Shut) else (_PONG, message.value)
    if not 0 <= value <= _U32_MAX:
        raise LocalProtocolError("return path value", f"0..{_U32_MAX}", value)
    return _FRAME.pack(kind, _VALUE.size) + _VALUE.pack(value)
