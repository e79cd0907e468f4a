"""Frames and messages of the main channel (proto/control.md), both directions. Knows no state: any message may follow
any other. What a message may hold is `wire.schema`'s.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import xxhash

from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.limits import FRAME_BYTES_MAX, ITEMS_MAX, NESTING_MAX, TEXT_BYTES_MAX
from multifd.messages import Message
from multifd.wire.fields import BadValueError, record
from multifd.wire.schema import ROWS

_HEAD = struct.Struct(">IQ")  # body length, checksum
_LENGTH_BYTES = 4
FRAME_HEAD_BYTES = _HEAD.size
"""12: what goes before a body."""

_TYPES = {row.make: (row, record(row.make, row.keys, row.rule)) for row in ROWS}
_NUMBERS = {row.number: (row.name, of) for row, of in _TYPES.values()}


def serialize(message: Message) -> bytes:
    """One frame. Raises `LocalProtocolError` for a value out of its bounds, or a body longer than `FRAME_BYTES_MAX`."""
    row, of = _TYPES[type(message)]
    try:
        keys = of.write(message)
    except BadValueError as error:
        raise LocalProtocolError(row.name + error.path, error.expected, error.got) from None
    body: bytes = msgpack.packb({"type": row.number, **keys})
    if len(body) > FRAME_BYTES_MAX:
        raise LocalProtocolError(row.name, f"a body of at most {FRAME_BYTES_MAX} bytes", len(body))
    length = len(body).to_bytes(_LENGTH_BYTES, "big")
    return _HEAD.pack(len(body), xxhash.xxh3_64_intdigest(length + body)) + body


class ControlReader:
    """From the bytes of one direction of a main channel, preamble apart, to messages.

    Holds at most one frame and what was fed last. Any bytes give messages, nothing yet, or `RemoteProtocolError`; after
    that every further call raises the same error.
    """

    def __init__(self, first_frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """`first_frame_bytes_max`: of the first frame's body; for connections it is `FIRST_FRAME_BYTES_MAX`."""
        self._length_max = first_frame_bytes_max
        self._buffer = bytearray()
        self._error: RemoteProtocolError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages that `data` completes, in order.

        Raises `RemoteProtocolError` where `NAME.key` is wrong, or `frame.` and a part of the frame. The messages that
        the same `data` completed before the error are lost with it: the session fails in either case.
        """
        if self._error is not None:
            raise self._error
        self._buffer += data
        try:
            return self._parse()
        except RemoteProtocolError as error:
            self._error = error
            self._buffer.clear()
            raise

    def _parse(self) -> list[Message]:
        buffer = self._buffer
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
            if not 1 <= length <= self._length_max:
                raise RemoteProtocolError("frame.length", f"1..{self._length_max}", length)
            end = start + FRAME_HEAD_BYTES + length
            if len(buffer) < end:
                break
            _, said = _HEAD.unpack_from(buffer, start)
            body = buffer[start + FRAME_HEAD_BYTES : end]
            found = xxhash.xxh3_64_intdigest(buffer[start : start + _LENGTH_BYTES] + body)
            if said != found:
                raise RemoteProtocolError("frame.checksum", f"{found:#018x}", f"{said:#018x}")
            message = _parse_body(_unpack(body))
            if message is not None:
                messages.append(message)
            start = end
            self._length_max = FRAME_BYTES_MAX
        del buffer[:start]
        return messages


def _parse_body(body: dict[str, object]) -> Message | None:
    """None for an unknown message that is optional."""
    number = body.get("type")
    if type(number) is not int or number < 1:
        raise RemoteProtocolError("frame.type", "a number from 1", number)
    if number not in _NUMBERS:
        if body.get("optional") is True:
            return None
        raise RemoteProtocolError("frame.type", "a known type, or optional: true", number)
    name, of = _NUMBERS[number]
    try:
        message: Message = of.read(body)
    except BadValueError as error:
        raise RemoteProtocolError(name + error.path, error.expected, error.got) from None
    return message


def _unpack(body: bytearray) -> dict[str, object]:
    """The body's map, whatever its keys mean."""
    try:
        value = msgpack.unpackb(
            body,
            strict_map_key=False,  # `_map` is stricter
            object_pairs_hook=_map,
            ext_hook=_refuse_extension,
            max_str_len=TEXT_BYTES_MAX,
            max_bin_len=TEXT_BYTES_MAX,
            max_array_len=ITEMS_MAX,
            max_map_len=ITEMS_MAX,
            max_ext_len=0,
        )
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError("frame.body", "msgpack within the bounds of a body", str(error)) from None
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise RemoteProtocolError("frame.body", "a map with text keys", type(value).__name__)
    if _is_deeper(value, NESTING_MAX):
        raise RemoteProtocolError("frame.body", f"at most {NESTING_MAX} levels of maps and arrays")
    return value


def _map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """A map's keys are texts or integers, none of them twice."""
    if not all(type(key) is str or type(key) is int for key, _ in pairs):
        raise ValueError("a key that is neither text nor an integer")
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("a key that comes twice")
    return built


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"an extension type, {code}, of {len(data)} bytes")


def _is_deeper(body: dict[object, object], levels: int) -> bool:
    """Whether maps and arrays are nested more than `levels` deep. One level at a time: a million of them cost 0.1 s."""
    level: list[Any] = [body]
    for _ in range(levels):
        level = [item for outer in level for item in _items(outer) if type(item) is dict or type(item) is list]
        if not level:
            return False
    return True


def _items(outer: dict[object, object] | list[object]) -> Iterable[object]:
    return outer.values() if type(outer) is dict else outer
