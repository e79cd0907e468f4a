"""Bytes of a main stream of QEMU's that came and are not parsed yet (proto/qemu.md section 2), and names in them.

Parsers are generators: they yield None where they need more bytes, and go on from there when some have come. So they
read as if all bytes were at hand, and can be stopped at any byte.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from multifd.errors import LocalProtocolError, RemoteProtocolError

NAME_BYTES_MAX = 255
"""What a length of one byte allows."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def decode_name(raw: bytes | bytearray) -> str | None:
    """A name as it stands on the wire as text; None if it is none: not UTF-8, empty, or with control characters.

    QEMU makes names of identifiers and device addresses, which are ASCII, and of file names of ROMs, which are what
    the host calls them. Names are shown, compared with JSON and stored in JSON: what is no text is refused.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return None if not name or _CONTROL.search(name) else name


def serialize_name(name: str) -> bytes:
    """A length of one byte and the name. Raises `LocalProtocolError` for a name that would be refused."""
    raw = name.encode(errors="replace")
    if len(raw) > NAME_BYTES_MAX or decode_name(raw) != name:
        raise LocalProtocolError("name", f"1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters", name)
    return bytes((len(raw),)) + raw


class Incoming:
    """A buffer with a place in its stream. `data` from `at` on is not parsed yet.

    `data` and `at` are open to parsers, which look at them for every record. Positions in `data` do not outlive a
    yield: `append` moves everything to the front.
    """

    __slots__ = ("_begins", "_stream", "at", "data", "element", "jumped_to", "missing")

    def __init__(self, stream: str) -> None:
        """`stream`: its name in errors."""
        self._stream = stream
        self._begins = 0  # offset of data[0]
        self.data = bytearray()
        self.at = 0
        self.element = 0
        """Offset of the element or record that is being parsed: errors name it."""
        self.missing = "the file header"
        """What is waited for, in words."""
        self.jumped_to: int | None = None

    @property
    def offset(self) -> int:
        """Of the next byte that is not parsed, in the stream."""
        return self._begins + self.at

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """More bytes; what is parsed is forgotten."""
        if self.at:
            del self.data[: self.at]
            self._begins += self.at
            self.at = 0
        self.jumped_to = None
        self.data += data

    def jump(self, offset: int) -> None:
        """Go on at this offset: forgets all that came, `jumped_to` tells the next offset until bytes come."""
        self.data.clear()
        self.at = 0
        self._begins = self.jumped_to = offset

    def wait(self, count: int, what: str) -> Generator[None, None, None]:
        """Return when there are `count` bytes that are not parsed."""
        while len(self.data) - self.at < count:
            self.missing = what
            yield

    def take(self, count: int, what: str) -> Generator[None, None, bytes]:
        """The next `count` bytes."""
        yield from self.wait(count, what)
        with memoryview(self.data) as view:
            taken = bytes(view[self.at : self.at + count])
        self.at += count
        return taken

    def number(self, count: int, what: str) -> Generator[None, None, int]:
        """The next number, of `count` bytes."""
        return int.from_bytes((yield from self.take(count, what)), "big")

    def name(self, what: str) -> Generator[None, None, str]:
        """A length of one byte and a name."""
        length = yield from self.number(1, what)
        raw = yield from self.take(length, what)
        name = decode_name(raw)
        if name is None:
            raise self.refuse(what, f"1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters", raw)
        return name

    def refuse(self, what: str, expected: str, got: object = None) -> RemoteProtocolError:
        """The error to raise for the element that is being parsed."""
        return RemoteProtocolError(f"{self._stream} at {self.element}: {what}", expected, got)
