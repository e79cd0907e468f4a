"""What two relays say to each other inside of the native dialect, beside the bytes of two QEMUs (proto/qemu.md section
16): words of the far relay, which travel as messages of the device `qemu-main`, and the near relay's last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from multifd.elements import Compression
from multifd.errors import RemoteProtocolError
from multifd.limits import DEVICE_MESSAGE_BYTES_MAX

MAIN = "qemu-main"
"""The device's id that is main and its return path. One, instance 0."""
CHANNEL = "qemu-channel"
"""That of a channel; its number is the instance."""
VERSION = 1
"""Of all that is said here: the devices' schema version."""

_FACTS, _RETURNED, _RELEASED, _WHOLE, _GONE = 1, 2, 3, 4, 5
_NO, _YES = 1, 2
_AS_IT_COMES = 0xFF
_COMPRESSIONS = {int(each): each for each in Compression}


@dataclass(frozen=True, slots=True)
class Facts:
    """The far relay's first word, once."""

    continues: bool
    """The far end's QEMU has been started with -S, and its guest runs when the far relay says so."""
    compression: Compression | None
    """What the far end's QEMU takes; None: what the source's gives."""


@dataclass(frozen=True, slots=True)
class Returned:
    """One message of the far end's return path, as it came; anything but SHUT 0."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Released:
    """The far end is about to be given the end of the stream: from now on it can have the machine."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The far end has said SHUT 0."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The far end has ended main without SHUT, by its own doing."""

    cause: str


FarWord = Facts | Returned | Released | Whole | Gone


def serialize_word(word: FarWord) -> bytes:
    """As the data of one message; a cause that is too long is cut."""
    match word:
        case Facts():
            compression = _AS_IT_COMES if word.compression is None else int(word.compression)
            return bytes((_FACTS, _YES if word.continues else _NO, compression))
        case Returned():
            return bytes((_RETURNED,)) + word.data
        case Released():
            return bytes((_RELEASED,))
        case Whole():
            return bytes((_WHOLE,))
        case Gone():
            said = word.cause.encode(errors="replace")[: DEVICE_MESSAGE_BYTES_MAX - 1]
            return bytes((_GONE,)) + said.decode(errors="ignore").encode()


def parse_word(data: bytes) -> FarWord:
    """Read the data of one message. Raises `RemoteProtocolError`."""
    kind, rest = data[:1], data[1:]
    if kind == bytes((_FACTS,)):
        if len(rest) != 2 or rest[0] not in (_NO, _YES) or rest[1] not in (*_COMPRESSIONS, _AS_IT_COMES):
            raise RemoteProtocolError("the far relay's facts", "two bytes that are known", rest)
        return Facts(rest[0] == _YES, _COMPRESSIONS.get(rest[1]))
    if kind == bytes((_RETURNED,)) and rest:
        return Returned(rest)
    if kind == bytes((_RELEASED,)) and not rest:
        return Released()
    if kind == bytes((_WHOLE,)) and not rest:
        return Whole()
    if kind == bytes((_GONE,)):
        return Gone(rest.decode(errors="replace"))
    raise RemoteProtocolError("the far relay's word", "one that is known", data)


def serialize_order(*, run: bool) -> bytes:
    """The near relay's last word: whether the far end's guest is to run."""
    return bytes((_YES if run else _NO,))


def parse_order(data: bytes) -> bool:
    """Read it. Raises `RemoteProtocolError`."""
    if data not in (bytes((_NO,)), bytes((_YES,))):
        raise RemoteProtocolError("the near relay's last word", "1 or 2", data)
    return data == bytes((_YES,))
