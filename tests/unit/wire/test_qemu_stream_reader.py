"""The reader of QEMU's main stream: configuration, sections and their ends, commands, and what it costs."""

import tracemalloc

import pytest
from qemu_stream_by_hand import (
    BLOCKS,
    CONFIGURATION,
    END,
    EOS,
    FILE,
    FLUSH,
    LIST,
    PAGE,
    PART,
    RAM,
    RAM_END,
    RAM_HEADER,
    START,
    TAIL,
    be,
    foot,
    header,
    read,
    refusal,
    str8,
    subsection,
)

from multifd.elements import (
    BlockList,
    Command,
    CommandNumber,
    Configuration,
    Description,
    EndOfState,
    Phase,
    RamBegins,
    RamEnds,
    Section,
    SectionHeader,
    SyncMark,
)
from multifd.errors import RemoteProtocolError
from multifd.wire import qemu_sections
from multifd.wire.qemu_stream import StreamReader


def test_a_whole_stream() -> None:
    """Every kind of element is read, in order."""
    data = (
        CONFIGURATION
        + (b"\x08" + be(2, 1) + be(2, 0))
        + (b"\x08" + be(2, 2) + be(2, 4) + be(4, 7))
        + (b"\x04" + header(9, b"early") + b"e" + foot(9))
        + (RAM + LIST + FLUSH + EOS + foot(2))
        + (PART + be(8, PAGE | 2) + str8(b"m") + b"\0" + EOS + foot(2))
        + (b"\x08" + be(2, 11) + be(2, 0))
        + RAM_END
        + (b"\x04" + header(5, b"timer", 1, 2) + b"body" + foot(5))
        + (b"\x04" + header(4, b"empty") + foot(4))
        + TAIL
    )
    assert read(data) == [
        Configuration("pc-q35-9"),
        Command(CommandNumber.OPEN_RETURN_PATH),
        Command(CommandNumber.PING, be(4, 7)),
        Section(Phase.FULL, SectionHeader(9, "early", 0, 1), b"e"),
        RamBegins(Phase.START, RAM_HEADER),
        BlockList(BLOCKS),
        SyncMark(),
        RamEnds(Phase.START),
        RamBegins(Phase.PART, RAM_HEADER),
        ("m", [PAGE]),
        RamEnds(Phase.PART),
        Command(CommandNumber.SWITCHOVER_START),
        RamBegins(Phase.END, RAM_HEADER),
        RamEnds(Phase.END),
        Section(Phase.FULL, SectionHeader(5, "timer", 1, 2), b"body"),
        Section(Phase.FULL, SectionHeader(4, "empty", 0, 1), b""),
        EndOfState(),
        Description(b"{}"),
    ]


# -- configuration -----------------------------------------------------------------------------------------------------


def test_configuration_has_three_subsections() -> None:
    """Page bits, capabilities and UUID are read; what is not there is None."""
    capabilities = be(4, 2) + str8(b"x-ignore-shared") + str8(b"other")
    uuid = bytes(range(16))
    subsections = subsection(b"target-page-bits", be(4, 14)) + subsection(b"capabilities", capabilities)
    data = CONFIGURATION + subsections + subsection(b"uuid", uuid) + b"\0"
    configuration = next(StreamReader().feed(data))
    assert configuration == Configuration("pc-q35-9", 14, ("x-ignore-shared", "other"), uuid)
    assert next(StreamReader().feed(CONFIGURATION + b"\0")) == Configuration("pc-q35-9")


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"QEVN" + be(4, 3), "main at 0: file header"),
        (b"QEVM" + be(4, 2), "main at 0: file header"),
        (FILE + RAM, "main at 8: element"),
        (FILE + b"\x07" + be(4, 0), "main at 8: configuration"),
        (FILE + b"\x07" + be(4, 129), "main at 8: configuration"),
        (FILE + b"\x07" + be(4, 2) + b"q\n", "main at 8: configuration"),
        (FILE + b"\x07" + be(4, 2) + b"q\xe9", "main at 8: configuration"),
        (CONFIGURATION + subsection(b"other", b""), "main at 21: configuration's subsection"),
        (CONFIGURATION + subsection(b"uuid", bytes(16), 2), "main at 21: configuration/uuid"),
        (CONFIGURATION + 2 * subsection(b"uuid", bytes(16)), "main at 61: configuration's subsection"),
        (
            CONFIGURATION + subsection(b"uuid", bytes(16)) + subsection(b"capabilities", be(4, 0)),
            "main at 61: configuration's subsection",
        ),
        (CONFIGURATION + subsection(b"target-page-bits", be(4, 9)), "main at 21: configuration/target-page-bits"),
        (CONFIGURATION + subsection(b"target-page-bits", be(4, 17)), "main at 21: configuration/target-page-bits"),
        (CONFIGURATION + subsection(b"capabilities", be(4, 65)), "main at 21: configuration/capabilities"),
        (CONFIGURATION + subsection(b"capabilities", be(4, 1) + str8(b"")), "main at 21: configuration/capabilities"),
    ],
)
def test_configurations_that_are_refused(data: bytes, where: str) -> None:
    """Each wrong field of header and configuration is named, with the offset of the part that it is in."""
    assert refusal(data).where == where


# -- sections ----------------------------------------------------------------------------------------------------------

LIVE = b"\x01" + header(3, b"vfio") + foot(3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (START + b"\x05", "the type of a section"),
        (b"\x06", "the type of a section"),
        (b"\x07" + be(4, 8) + b"pc-q35-9", "the type of a section"),
        (foot(2), "the type of a section"),
        (PART, "begun with START"),
        (END, "begun with START"),
        (START + RAM_END + PART, "begun with START"),
        (START + RAM_END + END, "begun with START"),
        (START + b"\x04" + header(2, b"timer"), "a number that is not in use"),
        (START + b"\x01" + header(3, b"ram", 0, 4), "each START of a device once"),
        (START + b"\x04" + header(3, b"timer") + foot(3) + b"\x04" + header(4, b"timer"), "each FULL of a device once"),
        (b"\x01" + header(2, b"ram", 0, 3), "instance 0, version 4"),
        (b"\x01" + header(2, b"ram", 1, 4), "instance 0, version 4"),
        (b"\x04" + header(2, b"ram", 0, 4), "live"),
        (b"\x04" + header(1 << 24, b"timer"), "at most 16777215"),
        (b"\x04" + header(2, b"timer", 0, 1 << 24), "at most 16777215"),
        (b"\x04" + header(2, b""), "1 to 255 bytes of UTF-8"),
        (b"\x04" + header(2, b"a\0b"), "1 to 255 bytes of UTF-8"),
        (b"\x04" + header(2, b"a\x7fb"), "1 to 255 bytes of UTF-8"),
        (b"\x04" + header(2, b"a\xff"), "1 to 255 bytes of UTF-8"),
        (RAM + LIST + EOS + foot(3), "the footer of section 2"),
        (RAM + LIST + EOS + RAM_END, "the footer of section 2"),
        (RAM + EOS, "the block list before the end of START"),
        (TAIL, "the END of ram before it"),
        (START + TAIL, "the END of ram before it"),
        (START + RAM_END + b"\0" + b"\x04", "the VM description"),
        (START + RAM_END + b"\0\x06" + be(4, 0), "a length of 1.."),
        (START + RAM_END + b"\0\x06" + be(4, (16 << 20) + 1), "a length of 1.."),
        (START + RAM_END + TAIL + b"\0", "nothing after the end of the stream"),
    ],
)
def test_what_may_not_follow(data: bytes, expected: str) -> None:
    """Each rule about the order of elements is held, and its error says what would have been right."""
    assert expected in refusal(CONFIGURATION + data).expected


def test_a_live_device_may_end_with_a_full_section_of_its_number() -> None:
    """START, PART, END and FULL of one number are one device; FULL before END is not."""
    full = b"\x04" + header(3, b"vfio") + b"config" + foot(3)
    live = LIVE + b"\x02" + be(4, 3) + b"data" + foot(3) + b"\x03" + be(4, 3) + foot(3)
    sections = [
        (element.phase, element.body)
        for element in read(CONFIGURATION + START + live + RAM_END + full + TAIL)
        if isinstance(element, Section)
    ]
    assert sections == [(Phase.START, b""), (Phase.PART, b"data"), (Phase.END, b""), (Phase.FULL, b"config")]
    assert "not in use" in refusal(CONFIGURATION + LIVE + full).expected
    other = b"\x04" + header(3, b"other") + foot(3)
    assert "not in use" in refusal(CONFIGURATION + START + live + RAM_END + other).expected


def test_the_end_of_ram_is_told_before_its_footer() -> None:
    """`RamEnds` comes at EOS; the footer may stay in the source's buffer."""
    reader = StreamReader()
    assert list(reader.feed(CONFIGURATION + RAM + LIST + EOS))[-1] == RamEnds(Phase.START)
    assert not list(reader.feed(foot(2)))
    with pytest.raises(RemoteProtocolError, match="expected a section, a command, or the end of state"):
        reader.end()


def test_sections_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a START or FULL is refused, PARTs are not."""
    monkeypatch.setattr(qemu_sections, "QEMU_SECTIONS_MAX", 3)
    three = CONFIGURATION + START + LIVE + b"\x04" + header(4, b"timer") + foot(4)
    reader = StreamReader()
    assert len(list(reader.feed(three + 100 * (PART + EOS + foot(2))))) == 4 + 2 + 200
    assert "at most 3 sections" in refusal(three + b"\x04" + header(5, b"other")).expected


# -- ends of unknown bodies --------------------------------------------------------------------------------------------

NEXT = b"\x04" + header(8, b"next")
FOLLOWERS = (
    b"\x02" + be(4, 2), b"\x03" + be(4, 2), b"\x08" + be(2, 11), b"\x01" + header(8, b"next", 2**32 - 1), NEXT,
)  # fmt: skip
"""What can follow a footer while RAM is live."""
NO_FOLLOWERS = (
    b"\x05", b"\x06", b"\x07", b"\x7e", b"\xff", b"\x02" + be(4, 7), b"\x03" + be(4, 77), b"\x08" + be(2, 0),
    b"\x08" + be(2, 12), b"\x04\x01", b"\x04" + be(4, 1) + b"\0", b"\x04" + be(4, 8) + b"\x04ne\x01t" + bytes(8),
    b"\x04" + header(8, b"next", 0, 1 << 24), b"\x04" + header(1 << 24, b"next"),
    b"\x04" + header(8, b"n\xff"), b"\0\x05", b"\0\x06" + be(4, 5) + b"[",
)  # fmt: skip


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_footer_ends_a_body_if_an_element_can_follow(follower: bytes) -> None:
    """Each element that can follow a footer ends the body; the body is given once that has come, and not before."""
    section = b"\x04" + header(7, b"device") + b"body" + foot(7)
    reader = StreamReader()
    assert len(list(reader.feed(CONFIGURATION + START + section))) == 4
    assert reader.offset == len(CONFIGURATION + START + section) - len(b"body" + foot(7))
    element = next(reader.feed(follower))
    assert isinstance(element, Section)
    assert element.body == b"body"


@pytest.mark.parametrize("follower", NO_FOLLOWERS)
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_footer_with_anything_else_behind_it_is_of_the_body(follower: bytes, size: int) -> None:
    """What looks like a footer and is none belongs to the body, whatever pieces it comes in."""
    body = b"a" + foot(7) + follower + foot(7)[:3]
    data = CONFIGURATION + START + b"\x04" + header(7, b"device") + body + foot(7) + NEXT
    reader = StreamReader()
    elements = [element for at in range(0, len(data), size) for element in reader.feed(data[at : at + size])]
    assert elements[4] == Section(Phase.FULL, SectionHeader(7, "device", 0, 1), body)


def test_a_false_footer_near_the_end_waits_for_nothing() -> None:
    """What could be a header with a long name is told from one by the bytes there are: none may come after them."""
    body = b"a" + foot(7) + b"\x04" + be(4, 1) + b"\xff"
    data = CONFIGURATION + START + RAM_END + b"\x04" + header(7, b"device") + body + foot(7) + TAIL
    assert read(data)[-3] == Section(Phase.FULL, SectionHeader(7, "device", 0, 1), body)


def test_without_a_description_the_end_is_the_end() -> None:
    """`00` after a footer ends the body if nothing follows it, and the stream."""
    data = CONFIGURATION + START + RAM_END + b"\x04" + header(7, b"device") + b"body" + foot(7) + b"\0"
    assert read(data, description=False)[-1] == EndOfState()
    body = foot(7) + b"\0\x01"
    elements = read(
        CONFIGURATION + START + RAM_END + b"\x04" + header(7, b"d") + body + foot(7) + b"\0", description=False
    )
    assert elements[-2] == Section(Phase.FULL, SectionHeader(7, "d", 0, 1), body)


def test_a_description_that_was_not_announced_is_refused() -> None:
    """A reader that was told of none finds the end of the last section all the same, and says what it found."""
    data = CONFIGURATION + START + RAM_END + b"\x04" + header(7, b"device") + b"body" + foot(7) + TAIL
    assert "nothing after the end of the stream" in refusal(data, description=False).expected


def test_every_footer_of_a_hostile_body_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of footers costs a look at each, not one at each with each piece that comes."""
    looks = 0
    look = qemu_sections.Sections._may_begin

    def counted(self: qemu_sections.Sections, at: int) -> bool | None:
        nonlocal looks
        looks += 1
        return look(self, at)

    monkeypatch.setattr(qemu_sections.Sections, "_may_begin", counted)
    hits, pieces = 4000, 100
    data = b"\x04" + header(7, b"device") + hits * (foot(7) + b"\xff") + foot(7) + NEXT
    reader = StreamReader()
    list(reader.feed(CONFIGURATION + START))
    size = len(data) // pieces
    elements = [element for at in range(0, len(data), size) for element in reader.feed(data[at : at + size])]
    assert len(elements) == 1
    assert hits < looks <= hits + pieces + 2


def test_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body beyond the bound is refused, and so is one that with all others is beyond theirs; PARTs count alone."""
    monkeypatch.setattr(qemu_sections, "QEMU_SECTION_BYTES_MAX", 1000)
    monkeypatch.setattr(qemu_sections, "QEMU_SECTIONS_BYTES_MAX", 2500)

    def full(number: int, length: int) -> bytes:
        return b"\x04" + header(number, b"device", number) + length * b"b" + foot(number)

    begin = CONFIGURATION + START + RAM_END
    assert len(read(begin + full(10, 1000) + full(11, 1000) + full(12, 500) + TAIL)) == 11
    assert "section 10 (device)" in refusal(begin + full(10, 1001) + TAIL).where
    assert "section 12 (device)" in refusal(begin + full(10, 1000) + full(11, 1000) + full(12, 501) + TAIL).where
    parts = 5 * (b"\x02" + be(4, 3) + 1000 * b"p" + foot(3))
    assert len(read(CONFIGURATION + START + LIVE + parts + RAM_END + TAIL)) == 4 + 6 + 4


# -- commands ----------------------------------------------------------------------------------------------------------


def test_the_advice_of_postcopy_is_taken() -> None:
    """POSTCOPY_ADVISE, of 16 bytes or none, is an element as any other."""
    advice = be(8, PAGE) + be(8, PAGE)
    data = CONFIGURATION + b"\x08" + be(2, 3) + be(2, 16) + advice + b"\x08" + be(2, 3) + be(2, 0) + START
    elements = list(StreamReader().feed(data))
    assert elements[1:3] == [
        Command(CommandNumber.POSTCOPY_ADVISE, advice),
        Command(CommandNumber.POSTCOPY_ADVISE),
    ]
    huge = CONFIGURATION + b"\x08" + be(2, 3) + be(2, 16) + be(8, PAGE | 1 << 21) + be(8, PAGE) + START
    assert "turn postcopy-ram off" in refusal(huge).expected


@pytest.mark.parametrize("number", [4, 5, 6, 7, 8, 9, 10])
def test_commands_of_postcopy_and_colo_say_what_to_turn_off(number: int) -> None:
    """Each is refused with the capability that makes the source send it, before its payload has come."""
    error = refusal(CONFIGURATION + b"\x08" + be(2, number) + be(2, 60000))
    assert error.where == "main at 21: command"
    assert f"turn {'x-colo' if number == 8 else 'postcopy-ram'} off at the source" in error.expected


@pytest.mark.parametrize(
    ("number", "length"), [(0, 0), (12, 0), (65535, 0), (1, 1), (2, 0), (2, 5), (3, 8), (3, 17), (11, 1)]
)
def test_commands_that_are_refused(number: int, length: int) -> None:
    """Unknown numbers and wrong lengths are refused."""
    assert refusal(CONFIGURATION + b"\x08" + be(2, number) + be(2, length)).where.startswith("main at 21: command")


# -- resuming, ending, cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (b"", "the file header"),
        (FILE, "the configuration"),
        (CONFIGURATION, "what follows the configuration"),
        (CONFIGURATION + RAM, "a RAM record"),
        (CONFIGURATION + RAM + LIST + EOS, "the footer of section 2"),
        (CONFIGURATION + START, "a section, a command, or the end of state"),
        (CONFIGURATION + START + PART + be(8, 8) + str8(b"m") + b"1", "the rest of a RAM record"),
        (CONFIGURATION + b"\x04" + header(3, b"timer") + b"body", "the footer of section 3 (timer)"),
        (CONFIGURATION + START + RAM_END + b"\0", "the VM description"),
        (CONFIGURATION + START + RAM_END + TAIL[:-1], "the rest of the VM description"),
    ],
)
def test_a_stream_that_ends_early_says_what_is_missing(data: bytes, missing: str) -> None:
    """`end` names what was waited for, and where."""
    reader = StreamReader()
    list(reader.feed(data))
    with pytest.raises(RemoteProtocolError) as caught:
        reader.end()
    assert missing in caught.value.expected
    assert caught.value.where == f"main at {reader.offset}: end of the stream"


def test_elements_are_parsed_as_they_are_asked_for() -> None:
    """Nothing behind the element that was given is looked at: a caller may stop there."""
    reader = StreamReader()
    elements = reader.feed(CONFIGURATION + RAM + LIST + b"rubbish!")
    for _ in range(3):
        next(elements)
    assert reader.offset == len(CONFIGURATION + RAM + LIST)
    with pytest.raises(RemoteProtocolError):
        next(elements)


def test_memory_does_not_grow_with_sections() -> None:
    """Thousands of PARTs leave nothing behind."""
    reader = StreamReader()
    list(reader.feed(CONFIGURATION + START))
    parts = 500 * (PART + FLUSH + EOS + foot(2))
    held = []
    tracemalloc.start()
    try:
        for _ in range(4):
            assert sum(1 for _ in reader.feed(parts)) == 1500
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(held) - held[0] < 2000
