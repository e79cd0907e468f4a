"""QEMU's main stream, from bytes to elements (proto/qemu.md sections 2, 3 and 8). `serialize` has the way back."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from multifd.elements import (
    Command,
    CommandNumber,
    Description,
    EndOfState,
    Phase,
    RamBegins,
    Section,
    SectionHeader,
    StreamElement,
)
from multifd.errors import RemoteProtocolError
from multifd.limits import QEMU_DESCRIPTION_BYTES_MAX
from multifd.wire.qemu_configuration import MAGIC, VERSION, read_configuration
from multifd.wire.qemu_incoming import Incoming
from multifd.wire.qemu_ram import RamReader
from multifd.wire.qemu_sections import COMMAND, DESCRIPTION, END_OF_STATE, Sections
from multifd.wire.qemu_serialize import StreamWriter, serialize

__all__ = ["MAGIC", "VERSION", "StreamReader", "StreamWriter", "serialize"]

_COMMAND_LENGTHS = {
    CommandNumber.OPEN_RETURN_PATH: (0,),
    CommandNumber.PING: (4,),
    CommandNumber.POSTCOPY_ADVISE: (0, 16),
    CommandNumber.SWITCHOVER_START: (0,),
}
"""Commands of a precopy with their lengths."""
_TURN_OFF = {CommandNumber.ENABLE_COLO: "x-colo"}
"""What to turn off at the source to be rid of a command; postcopy-ram unless it stands here."""


class StreamReader:
    """From the bytes of a main stream to its elements, in order.

    Any bytes in any pieces give elements, nothing yet, or `RemoteProtocolError`; after that every further call raises
    the same error. Holds what was fed last and the one body or description that is not whole; of what has passed, only
    headers of sections and the block list.
    """

    def __init__(self, *, description: bool = True, stream: str = "main") -> None:
        """`description`: whether a VM description ends the stream, else `00` does. `stream`: its name in errors."""
        self._incoming = Incoming(stream)
        self._ram = RamReader(self._incoming)
        self._sections = Sections(self._incoming, description=description)
        self._description = description
        self._begins: dict[Phase, RamBegins] = {}
        self._error: RemoteProtocolError | None = None
        self._parser = self._parse()
        self.finished = False
        """Whether the stream's last element has been given."""

    @property
    def offset(self) -> int:
        """Of the next byte that is not parsed."""
        return self._incoming.offset

    @property
    def continue_at(self) -> int | None:
        """In a mapped-ram file: the offset of the byte to feed next, when that is not the one after the last fed."""
        return self._incoming.jumped_to

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[StreamElement]:
        """The elements that `data` completes, parsed as they are asked for. Exhaust it before the next call.

        Elements before an error are given before it is raised. A section of a device is given when what follows its
        footer has begun; `RamEnds` at its EOS, whether the footer has come or not.

        If it sets `continue_at`, what was not parsed is forgotten.

        Raises `RemoteProtocolError`: its `where` has the stream, the offset of the element or record, and what it is.
        """
        if self._error is not None:
            raise self._error
        self._incoming.append(data)
        return self._advance()

    def end(self) -> None:
        """The stream has ended. Raises `RemoteProtocolError`, with what is missing, unless it is finished."""
        if self._error is not None:
            raise self._error
        if not self.finished:
            self._incoming.element = self.offset
            raise self._incoming.refuse("end of the stream", self._incoming.missing)

    def _advance(self) -> Iterator[StreamElement]:
        try:
            for element in self._parser:
                if element is None:
                    return
                yield element
        except RemoteProtocolError as error:
            self._error = error
            self._incoming.data.clear()
            raise

    def _parse(self) -> Generator[StreamElement | None, None, None]:
        """All elements; None where there are no bytes to go on with."""
        incoming = self._incoming
        configuration = yield from read_configuration(incoming)
        self._ram.set_configuration(configuration)
        yield configuration
        kind = -1
        while kind != END_OF_STATE:
            if len(incoming.data) == incoming.at:
                yield from incoming.wait(1, "a section, a command, or the end of state")
            incoming.element = incoming.offset
            kind = incoming.data[incoming.at]
            incoming.at += 1
            if kind in (Phase.PART, Phase.END):
                yield from self._section(Phase(kind), (yield from self._number(Phase(kind))))
            elif kind in (Phase.START, Phase.FULL):
                yield from self._section(Phase(kind), (yield from self._header(Phase(kind))))
            elif kind == COMMAND:
                yield (yield from self._command())
            elif kind != END_OF_STATE:
                expected = "the type of a section (1 to 4), of a command (8), or the end of state (0)"
                raise incoming.refuse("element", expected, kind)
        yield from self._end()

    def _end(self) -> Generator[StreamElement | None, None, None]:
        """What follows `00`, which ends everything if there is no description."""
        incoming = self._incoming
        if not self._sections.ram_ended:
            raise incoming.refuse("end of state", "the END of ram before it")
        self.finished = not self._description
        yield EndOfState()
        if self._description:
            incoming.element = incoming.offset
            kind = yield from incoming.number(1, "the VM description (a machine with suppress-vmdesc=on sends none)")
            if kind != DESCRIPTION:
                raise incoming.refuse("element", f"the VM description ({DESCRIPTION}) after the end of state", kind)
            length = yield from incoming.number(4, "the length of the VM description")
            if not 0 < length <= QEMU_DESCRIPTION_BYTES_MAX:
                raise incoming.refuse("VM description", f"a length of 1..{QEMU_DESCRIPTION_BYTES_MAX}", length)
            text = yield from incoming.take(length, "the rest of the VM description")
            self.finished = True
            yield Description(text)
        incoming.element = incoming.offset
        yield from incoming.wait(1, "nothing")
        raise incoming.refuse("element", "nothing after the end of the stream", incoming.data[incoming.at])

    # -- sections ------------------------------------------------------------------------------------------------------

    def _number(self, phase: Phase) -> Generator[None, None, SectionHeader]:
        """After the type of a PART or END."""
        incoming = self._incoming
        if len(incoming.data) - incoming.at < 4:
            yield from incoming.wait(4, f"the number of a section's {phase.name}")
        number = int.from_bytes(incoming.data[incoming.at : incoming.at + 4], "big")
        incoming.at += 4
        return self._sections.go_on(phase, number)

    def _header(self, phase: Phase) -> Generator[None, None, SectionHeader]:
        """After the type of a START or FULL."""
        incoming = self._incoming
        what = f"the header of a section's {phase.name}"
        number = yield from incoming.number(4, what)
        name = yield from incoming.name("section's name")
        instance = yield from incoming.number(4, what)
        header = SectionHeader(number, name, instance, (yield from incoming.number(4, what)))
        self._sections.begin(phase, header)
        return header

    def _section(self, phase: Phase, header: SectionHeader) -> Generator[StreamElement | None, None, None]:
        """Everything after the header."""
        if header.number != self._sections.ram:
            body = yield from self._sections.body(phase, header)
            yield Section(phase, header, body)
            return
        begins = self._begins.get(phase)
        if begins is None:
            begins = self._begins[phase] = RamBegins(phase, header)
        yield begins
        yield from self._ram.records(phase)
        yield from self._sections.footer(header.number)

    # -- commands ------------------------------------------------------------------------------------------------------

    def _command(self) -> Generator[None, None, Command]:
        """After the type of a command."""
        incoming = self._incoming
        value = yield from incoming.number(2, "the number of a command")
        length = yield from incoming.number(2, "the length of a command")
        if not 1 <= value <= max(CommandNumber):
            raise incoming.refuse("command", f"a number of 1..{max(CommandNumber)}", value)
        number = CommandNumber(value)
        lengths = _COMMAND_LENGTHS.get(number)
        if lengths is None:
            capability = _TURN_OFF.get(number, "postcopy-ram")
            expected = f"no command of {capability}, which is not supported: turn {capability} off at the source"
            raise incoming.refuse("command", expected, number.name)
        if length not in lengths:
            raise incoming.refuse(f"command {number.name}", f"a length of {' or '.join(map(str, lengths))}", length)
        payload = yield from incoming.take(length, f"the payload of {number.name}")
        if number is CommandNumber.POSTCOPY_ADVISE:
            # the page sizes of all blocks: two of them means that some block has huge pages
            self._ram.huge_pages = int.from_bytes(payload[:8], "big").bit_count() > 1
        return Command(number, payload)
