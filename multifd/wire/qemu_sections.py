"""Sections of QEMU's main stream: which may follow which, and where one ends (proto/qemu.md sections 2 and 8).

Bodies of devices carry no length. Their end is found by their footer, and by what can follow a footer.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final

from multifd.elements import CommandNumber, Phase, SectionHeader
from multifd.limits import QEMU_SECTION_BYTES_MAX, QEMU_SECTIONS_BYTES_MAX, QEMU_SECTIONS_MAX
from multifd.wire.qemu_incoming import Incoming, decode_name

END_OF_STATE = 0x00
DESCRIPTION = 0x06
COMMAND = 0x08
FOOTER = 0x7E

RAM: Final = ("ram", 0, 4)
"""Name, instance and version of the section that has RAM."""
NUMBER_MAX = 2**24 - 1
"""Of sections and of their versions: sources count both from 0, and what looks like a header has a 0 there."""
_FOOTER_BYTES = 5
_NO_NAME = re.compile(rb"[\x00-\x1f\x7f]")  # bytes that no name has
_LIVE = (Phase.START, Phase.PART)


class Sections:
    """What has been said of sections so far."""

    def __init__(self, incoming: Incoming, *, description: bool) -> None:
        """`description`: whether a VM description follows `00`."""
        self._incoming = incoming
        self._description = description
        self._headers: dict[int, SectionHeader] = {}
        self._phases: dict[int, Phase] = {}
        self._begun: set[tuple[Phase, str, int]] = set()
        self._bytes = 0
        self.ram: int | None = None
        """RAM's number, once it has begun."""

    @property
    def ram_ended(self) -> bool:
        """Whether RAM's END has begun."""
        return self.ram is not None and self._phases[self.ram] is Phase.END

    def begin(self, phase: Phase, header: SectionHeader) -> None:
        """A START or FULL. A live device may have both, FULL after its END, under the same number.

        Raises `RemoteProtocolError`.
        """
        refuse = self._incoming.refuse
        if header.number > NUMBER_MAX or header.version > NUMBER_MAX:
            raise refuse("section", f"a number and a version of at most {NUMBER_MAX}", header)
        known = self._headers.get(header.number)
        if known is not None and (
            phase is not Phase.FULL or known != header or self._phases[known.number] != Phase.END
        ):
            raise refuse("section", f"a number that is not in use, as {known.number} is by {known.name}", header)
        unique = (phase, header.name, header.instance)
        if unique in self._begun:
            raise refuse("section", f"each {phase.name} of a device once", header)
        if len(self._headers) == QEMU_SECTIONS_MAX:
            raise refuse("section", f"at most {QEMU_SECTIONS_MAX} sections", header)
        if header.name == RAM[0]:
            if phase is not Phase.START or (header.name, header.instance, header.version) != RAM:
                raise refuse("section", "one section ram, live, instance 0, version 4", header)
            self.ram = header.number
        self._begun.add(unique)
        self._headers[header.number] = header
        self._phases[header.number] = phase

    def go_on(self, phase: Phase, number: int) -> SectionHeader:
        """A PART or END. Raises `RemoteProtocolError`."""
        if self._phases.get(number) not in _LIVE:
            expected = f"{phase.name} of a section that has begun with START and has not ended"
            raise self._incoming.refuse("section", expected, number)
        self._phases[number] = phase
        return self._headers[number]

    def footer(self, number: int) -> Generator[None, None, None]:
        """The footer of a section whose end is known. Raises `RemoteProtocolError`."""
        incoming = self._incoming
        if len(incoming.data) - incoming.at < _FOOTER_BYTES:
            yield from incoming.wait(_FOOTER_BYTES, f"the footer of section {number}")
        incoming.element = incoming.offset
        found = incoming.data[incoming.at : incoming.at + _FOOTER_BYTES]
        if found != _footer(number):
            raise incoming.refuse("section", f"the footer of section {number}", found.hex(" "))
        incoming.at += _FOOTER_BYTES

    def body(self, phase: Phase, header: SectionHeader) -> Generator[None, None, bytes]:
        """The body of a section of unknown length; takes its footer as well.

        Every byte is looked at once, but for those of a footer that is not whole. Raises `RemoteProtocolError`.
        """
        incoming = self._incoming
        name = f"section {header.number} ({header.name})"
        bytes_max = QEMU_SECTION_BYTES_MAX
        if phase is not Phase.PART:  # nobody needs to keep those
            bytes_max = min(bytes_max, QEMU_SECTIONS_BYTES_MAX - self._bytes)
        footer = _footer(header.number)
        length, ended = self._find(footer, 0)
        while not ended and length <= bytes_max:
            incoming.missing = f"the footer of {name} and what follows it"
            yield
            length, ended = self._find(footer, length)
        if length > bytes_max:
            expected = (
                f"its footer within {QEMU_SECTION_BYTES_MAX} bytes, and all sections within {QEMU_SECTIONS_BYTES_MAX}"
            )
            raise incoming.refuse(name, expected)
        body = yield from incoming.take(length, name)
        incoming.at += _FOOTER_BYTES
        if phase is not Phase.PART:
            self._bytes += length
        return body

    def _find(self, footer: bytes, length: int) -> tuple[int, bool]:
        """Whether the body's end can be told, and its length; if not, the least that it can be. `length` is the least
        that was known before.
        """
        data, at = self._incoming.data, self._incoming.at
        while (found := data.find(footer, at + length)) >= 0:
            length = found - at
            verdict = self._may_begin(found + _FOOTER_BYTES)
            if verdict is not False:
                return length, verdict is True
            length += 1
        return max(length, len(data) - at - _FOOTER_BYTES + 1), False

    def _may_begin(self, at: int) -> bool | None:
        """Whether an element can begin at this place in `data`; None as long as it takes more bytes to tell."""
        data = self._incoming.data
        left = len(data) - at
        kind = data[at] if left else None
        if kind in (Phase.START, Phase.FULL):
            return _may_be_header(data, at + 1, left - 1)
        if kind in (Phase.PART, Phase.END):
            return None if left < 5 else self._phases.get(int.from_bytes(data[at + 1 : at + 5], "big")) in _LIVE
        if kind == COMMAND:
            return None if left < 3 else 1 <= int.from_bytes(data[at + 1 : at + 3], "big") <= max(CommandNumber)
        if kind == END_OF_STATE:
            return self._may_be_end(at, left)
        return None if kind is None else False

    def _may_be_end(self, at: int, left: int) -> bool | None:
        """`00`, and a description that begins, if there is one."""
        data = self._incoming.data
        if left == 1:
            return None if self._description else True
        if data[at + 1] != DESCRIPTION:
            return False
        return None if left < 7 else data[at + 6] == 0x7B


def _may_be_header(data: bytearray, at: int, left: int) -> bool | None:
    """Number, name, instance, version: of a number and a version the first byte is 0; instances may be anything.

    A name is refused by the bytes that are there, so that a false footer near the stream's end waits for nothing.
    """
    if left < 5:
        return None if left == 0 or data[at] == 0 else False
    name, length = at + 5, data[at + 4]
    if data[at] or not length or _NO_NAME.search(data, name, min(name + length, len(data))):
        return False
    if left < 5 + length + 8:
        return None
    return data[name + length + 4] == 0 and decode_name(data[name : name + length]) is not None


def _footer(number: int) -> bytes:
    return bytes((FOOTER, *number.to_bytes(4, "big")))
