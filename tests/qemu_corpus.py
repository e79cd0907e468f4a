"""Broken streams of QEMU's dialect, made by rule from the captures in proto/vectors/qemu: every field at its extremes,
streams cut and prolonged, elements dropped, doubled and swapped, random changes. The same every time.

Where an element begins and ends is what the readers say; what fields it has and where is known here (proto/qemu.md
sections 1 to 8).
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from multifd import elements as e
from multifd.qemu.capture import Capture
from multifd.wire.qemu_stream import StreamReader

VECTORS = Path(__file__).parents[1] / "proto" / "vectors" / "qemu"
CAPTURES = tuple(sorted(path.name for path in VECTORS.iterdir() if path.is_dir()))
HANDSHAKE, HEADER, PAGE = 64, 1344, 4096
MAIN = "main"

ANY: Mapping[str, str] = {
    "command.payload": "a PING's value is answered, whatever it is",
    "command.number": "another command without payload may be legal in its place",
    "configuration.machine": "any name is a machine type",
    "section.version": "the state is stored, not loaded",
    "block.name": "a block to which no page comes may have any name",
    "block.address": "stored, not looked at",
    "handshake.reserved": "not looked at",
    "packet.flags": "a SYNC that is doubled at the very end is legal, and none may be owed",
    "packet.number": "for tracing alone",
    "packet.capacity": "any that holds what is listed",
    "packet.zero": "what follows the offsets in use are zeros: page 0",
    "packet.reserved": "not looked at",
    "packet.offset": "another page of the block",
    "stale.payload_bytes": "not looked at without pages",
    "stale.block": "not looked at without pages",
    "stale.offset": "not looked at without pages",
}
"""Fields of which not every value is refused, with the reason: the change is harmless, or nobody can know. Any other
field has one right value, or values that others in the stream must fit."""
UNDESCRIBED = ("section.", "footer.")
"""The same where no VM description says what sections there are: a header or footer that is none any more is taken for
a part of the section before.
"""


@dataclass(frozen=True, slots=True)
class Field:
    """A number on the wire, or `number` false: a name, a UUID."""

    kind: str
    at: int
    size: int
    number: bool = True


@dataclass(frozen=True, slots=True)
class Element:
    """A piece of a stream that stands for itself."""

    kind: str
    begin: int
    end: int
    earliest: int
    """The first offset that an error in this element may name: the end of a device's section is found by what follows
    it, so that what is wrong behind it is taken for a part of it.
    """
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Streams:
    """What goes over each connection of one migration, and what its destination was told."""

    main: bytes
    channels: tuple[bytes, ...]
    description: bool = True
    ignore_shared: bool = False
    compression: e.Compression = e.Compression.NONE
    ack: str = "off"

    def get(self, stream: str) -> bytes:
        """`main` or `channel0`, `channel1` ..."""
        return self.main if stream == MAIN else self.channels[int(stream.removeprefix("channel"))]

    def put(self, stream: str, data: bytes) -> Streams:
        """The same with one stream replaced."""
        channels = list(self.channels)
        if stream != MAIN:
            channels[int(stream.removeprefix("channel"))] = data
        return Streams(
            data if stream == MAIN else self.main, tuple(channels), self.description, self.ignore_shared,
            self.compression, self.ack,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One broken migration: in `stream` the bytes from `at` up to `end` are replaced by `new`.

    `harmless`: it may complete. `earliest`: no error in this stream can be before it.
    """

    name: str
    capture: str
    stream: str
    at: int
    end: int
    new: bytes
    harmless: bool
    earliest: int
    kind: str = ""
    """Of the field that has another value."""

    def streams(self) -> Streams:
        """All streams, this one changed."""
        original = thin(self.capture)
        data = original.get(self.stream)
        return original.put(self.stream, data[: self.at] + self.new + data[self.end :])


# -- captures ----------------------------------------------------------------------------------------------------------


@functools.cache
def whole(capture: str) -> Streams:
    """A capture as it was recorded."""
    source = Capture(VECTORS / capture)
    channels = tuple(b"".join(source.stream(f"channel{number}")) for number in range(source.channels))
    compression = {"zlib": e.Compression.ZLIB, "zstd": e.Compression.ZSTD}.get(capture.split("-")[1])
    return Streams(
        b"".join(source.stream(MAIN)),
        channels,
        description="novmdesc" not in capture,
        ignore_shared="ignore-shared" in capture,
        compression=compression or e.Compression.NONE,
        ack="on" if "switchover-ack" in capture else "off",
    )


@functools.cache
def thin(capture: str) -> Streams:
    """A capture with most of its RAM left out, which nobody can know, so that a row costs milliseconds: all of main,
    and of each channel the first few packets with pages before each SYNC, of compressed ones the first few of all.
    """
    streams = whole(capture)
    for number, data in enumerate(streams.channels):
        kept, pages = [data[:HANDSHAKE]], 0
        for packet in channel_elements(data)[1:]:
            is_sync, has_payload = bool(data[packet.begin + 11] & 1), packet.end - packet.begin > HEADER
            pages += has_payload
            if is_sync or not has_payload or pages <= 2:
                kept.append(data[packet.begin : packet.end])
            if is_sync and streams.compression is e.Compression.NONE and len(kept) < 12:
                pages = 0
            if is_sync and has_payload and pages > 2:  # old sources: the SYNC alone
                kept[-1] = data[packet.begin : packet.begin + 16] + bytes(4) + data[packet.begin + 20 :][: HEADER - 20]
        streams = streams.put(f"channel{number}", b"".join(kept))
    return streams


# -- elements and fields -----------------------------------------------------------------------------------------------


class _Fields:
    """Fields one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self.found: list[Field] = []
        self._data = data
        self._at = at

    def number(self, kind: str, size: int) -> int:
        self.found.append(Field(kind, self._at, size))
        value = int.from_bytes(self._data[self._at : self._at + size], "big")
        self._at += size
        return value

    def text(self, kind: str, size: int) -> None:
        self.found.append(Field(kind, self._at, size, number=False))
        self._at += size

    def name(self, kind: str) -> None:
        self.text(kind, self.number(f"{kind}_length", 1))

    def skip(self, size: int) -> None:
        self._at += size


def main_elements(data: bytes, *, description: bool = True) -> tuple[Element, ...]:
    """Those of a main stream, and the footers of RAM."""
    reader, at, found = StreamReader(description=description), 0, []
    earliest, in_ram = None, False
    for element in reader.feed(data):
        if in_ram:
            fields = (Field("footer.type", at, 1), Field("footer.number", at + 1, 4))
            found.append(Element("footer", at, at + 5, at, fields))
            at += 5
        kind, some = _main_fields(element, data, at, reader.offset)
        found.append(Element(kind, at, reader.offset, at if earliest is None else earliest, tuple(some)))
        if isinstance(element, e.Section):
            earliest = at
        elif not isinstance(element, e.EndOfState):
            earliest = None
        in_ram, at = isinstance(element, e.RamEnds), reader.offset
    return tuple(found)


def _main_fields(element: e.StreamElement, data: bytes, at: int, end: int) -> tuple[str, list[Field]]:
    fields = _Fields(data, at)
    kind = type(element).__name__
    match element:
        case e.Configuration():
            _configuration(element, fields)
        case e.Command():
            kind = element.number.name
            for part, size in (("type", 1), ("number", 2), ("length", 2)):
                fields.number(f"command.{part}", size)
            if element.payload:
                fields.number("command.payload", len(element.payload))
        case e.RamBegins() | e.Section():
            header = element.section if isinstance(element, e.RamBegins) else element.header
            kind = f"{element.phase.name} of {'ram' if isinstance(element, e.RamBegins) else 'device'}"
            _section(element.phase, fields)
            if isinstance(element, e.Section):
                footer = _Fields(data, end - 5)
                footer.number("footer.type", 1)
                footer.number("footer.number", 4)
                fields.found += footer.found
            assert header.name
        case e.BlockList():
            fields.number("blocks.total", 8)
            for block in element.blocks:
                fields.name("block.name")
                fields.number("block.length", 8)
                if block.address is not None:
                    fields.number("block.address", 8)
        case e.ZeroRecords():
            if not fields.number("zero.word", 8) & 0x20:
                fields.name("zero.name")
            fields.number("zero.fill", 1)
        case e.SyncMark() | e.RamEnds():
            fields.number("record.word", 8)
        case e.EndOfState():
            fields.number("end.type", 1)
        case e.Description():
            fields.number("description.type", 1)
            fields.number("description.length", 4)
        case _:
            raise AssertionError(element)
    return kind, fields.found


def _configuration(configuration: e.Configuration, fields: _Fields) -> None:
    for part, size in (("header.magic", 4), ("header.version", 4), ("configuration.type", 1)):
        fields.number(part, size)
    fields.text("configuration.machine", fields.number("configuration.length", 4))
    for there, kind in ((configuration.capabilities, "capabilities"), (configuration.uuid, "uuid")):
        if there is None:
            continue
        fields.number("subsection.type", 1)
        fields.name("subsection.name")
        fields.number("subsection.version", 4)
        if kind == "uuid":
            fields.text("uuid", 16)
        else:
            for _ in range(fields.number("capabilities.count", 4)):
                fields.name("capability.name")


def _section(phase: e.Phase, fields: _Fields) -> None:
    fields.number("section.type", 1)
    fields.number("section.number", 4)
    if phase in (e.Phase.START, e.Phase.FULL):
        fields.name("section.name")
        fields.number("section.instance", 4)
        fields.number("section.version", 4)


_HANDSHAKE_FIELDS = (
    Field("handshake.magic", 0, 4), Field("handshake.version", 4, 4), Field("handshake.uuid", 8, 16, number=False),
    Field("handshake.channel", 24, 1), Field("handshake.reserved", 25, 7), Field("handshake.reserved", 32, 8),
)  # fmt: skip


def channel_elements(data: bytes) -> tuple[Element, ...]:
    """The handshake and the packets of a channel."""
    found, at = [Element("handshake", 0, HANDSHAKE, 0, _HANDSHAKE_FIELDS)], HANDSHAKE
    while at < len(data):
        normal, size = (int.from_bytes(data[at + place : at + place + 4], "big") for place in (16, 20))
        zero = int.from_bytes(data[at + 32 : at + 36], "big")
        end = at + HEADER + (size if normal else 0)
        kind = "SYNC" if data[at + 11] & 1 else "packet"
        kind += " with pages" if normal else " with zero pages" if zero else ""
        found.append(Element(kind, at, end, at, tuple(_packet(at, normal, zero))))
        at = end
    return tuple(found)


def _packet(at: int, normal: int, zero: int) -> Iterator[Field]:
    listed = "packet" if normal + zero else "stale"
    for kind, place, size in (
        ("packet.magic", 0, 4), ("packet.version", 4, 4), ("packet.flags", 8, 4), ("packet.capacity", 12, 4),
        ("packet.normal", 16, 4), (f"{'packet' if normal else 'stale'}.payload_bytes", 20, 4), ("packet.number", 24, 8),
        ("packet.zero", 32, 4), ("packet.reserved", 36, 4), ("packet.reserved", 40, 8),
    ):  # fmt: skip
        yield Field(kind, at + place, size)
    yield Field(f"{listed}.block", at + 64, 256, number=False)
    yield Field(f"{listed}.offset", at + 320, 8)
    if normal + zero > 1:
        yield Field(f"{listed}.offset", at + 320 + 8 * (normal + zero - 1), 8)


@functools.cache
def elements(capture: str, stream: str) -> tuple[Element, ...]:
    """Those of a stream of a thinned capture."""
    streams = thin(capture)
    if stream == MAIN:
        return main_elements(streams.main, description=streams.description)
    return channel_elements(streams.get(stream))


def chosen(capture: str, stream: str, each: int) -> tuple[Element, ...]:
    """The first and the last few of each kind: streams have the same thing a thousand times."""
    by_kind: dict[str, list[Element]] = {}
    for element in elements(capture, stream):
        by_kind.setdefault(element.kind, []).append(element)
    kept = {element for some in by_kind.values() for element in (*some[:each], *some[-each:])}
    return tuple(sorted(kept, key=lambda element: element.begin))


# -- rows --------------------------------------------------------------------------------------------------------------


def extremes(capture: str, stream: str, each: int) -> Iterator[Row]:
    """Every field of every kind of element at its extremes."""
    data = thin(capture).get(stream)
    for element in chosen(capture, stream, each):
        for field in element.fields:
            original = data[field.at : field.at + field.size]
            for new in _numbers(original) if field.number else _texts(field.kind, original):
                harmless = field.kind in ANY or (field.kind.startswith(UNDESCRIBED) and not thin(capture).description)
                name = f"{capture}: {stream} at {element.begin}: {element.kind}, {field.kind} is {new[:12].hex()}"
                yield Row(
                    name, capture, stream, field.at, field.at + field.size, new, harmless, element.earliest, field.kind
                )


def _numbers(original: bytes) -> Iterator[bytes]:
    bits, value = 8 * len(original), int.from_bytes(original, "big")
    tried = {value}
    for new in (0, 1, (1 << bits) - 1, (1 << bits) - 2, 1 << (bits - 1), (1 << (bits - 1)) - 1, value - 1, value + 1):
        if new not in tried and 0 <= new < 1 << bits:
            tried.add(new)
            yield new.to_bytes(len(original), "big")


def _texts(kind: str, original: bytes) -> Iterator[bytes]:
    """Control characters, what is no UTF-8, another text; for fields of a fixed size also no end."""
    news = [bytes((byte,)) + original[1:] for byte in (0x00, 0x1F, 0x7F, 0x80, 0xFF)]
    news += [original[:-1] + bytes(((original[-1] + 1) & 0x7F,))]
    if kind.endswith(".block"):
        news += [b"x" * len(original), original.rstrip(b"\0") + b"\0x".ljust(len(original), b"\0")]
    yield from (new[: len(original)] for new in news if new[: len(original)] != original)


def cuts(capture: str, stream: str, each: int) -> Iterator[Row]:
    """The stream ends at every border, and within every kind of element after the first byte, half way, and before the
    last one.
    """
    end = len(thin(capture).get(stream))
    last = max(element.end for element in elements(capture, stream) if stream == MAIN or "SYNC" in element.kind)
    places: dict[int, int] = {}
    for element in chosen(capture, stream, each):
        length = element.end - element.begin
        for inside in (0, 1, length // 2, length - 1):
            places.setdefault(element.begin + inside, element.earliest)
    for at, earliest in sorted(places.items()):
        yield Row(f"{capture}: {stream} ends at {at}", capture, stream, at, end, b"", at >= last, earliest)


def tails(capture: str, stream: str, _each: int) -> Iterator[Row]:
    """Something follows the end. Less than a header on a channel is never looked at."""
    end, earliest = len(thin(capture).get(stream)), elements(capture, stream)[-1].earliest
    for new in (b"\0", b"\x7f", b"\x08\x00\x02\x00\x04\x00\x00\x00\x01", bytes(HEADER), b"\xff" * 400):
        harmless = stream != MAIN and len(new) < 276
        name = f"{capture}: {stream} has {new[:9].hex()} behind it"
        yield Row(name, capture, stream, end, end, new, harmless, earliest)


_MAY_GO = frozenset(
    {"PING", "SWITCHOVER_START", "SyncMark", "ZeroRecords", "packet", "packet with pages", "packet with zero pages"}
)
"""Of what is dropped nobody can know: pages that are sent again, a mark at the very end."""
_MAY_COME_TWICE = _MAY_GO | {"OPEN_RETURN_PATH", "SYNC", "SYNC with pages"}
"""In their order nothing is owed either."""


def disorder(capture: str, stream: str, each: int) -> Iterator[Row]:
    """Elements dropped, doubled, and swapped with the next."""
    data, all_of_them = thin(capture).get(stream), elements(capture, stream)
    following = dict(itertools.pairwise(all_of_them))
    for element in chosen(capture, stream, each):
        one = data[element.begin : element.end]
        free = element.kind == "FULL of device" and not thin(capture).description
        where = f"{capture}: {stream} at {element.begin}: {element.kind}"
        yield _disorder(f"{where} is dropped", capture, stream, element, b"", free or element.kind in _MAY_GO)
        yield _disorder(f"{where} comes twice", capture, stream, element, one * 2, element.kind in _MAY_COME_TWICE)
        after = following.get(element)
        if after is not None and data[after.begin : after.end] != one:
            kinds = {element.kind, after.kind}
            may = kinds <= _MAY_COME_TWICE or (free and after.kind == element.kind)
            pair = Element(element.kind, element.begin, after.end, element.earliest)
            new = data[after.begin : after.end] + one
            yield _disorder(f"{where} is swapped with {after.kind}", capture, stream, pair, new, may)


def _disorder(name: str, capture: str, stream: str, element: Element, new: bytes, harmless: bool) -> Row:
    return Row(name, capture, stream, element.begin, element.end, new, harmless, element.earliest)


def random_changes(capture: str, count: int, seed: int = 0) -> Iterator[Row]:
    """`count` random changes of a byte or a few, mostly in fields."""
    chance = random.Random(f"{capture}/{seed}")
    streams = [MAIN] * len(thin(capture).channels) + [f"channel{n}" for n in range(len(thin(capture).channels))]
    for number in range(count):
        stream = chance.choice(streams)
        data = thin(capture).get(stream)
        element = chance.choice(chosen(capture, stream, 20) if chance.random() < 0.9 else elements(capture, stream))
        at = chance.randrange(element.begin, element.end)
        if element.fields and chance.random() < 0.7:
            field = chance.choice(element.fields)
            at = chance.randrange(field.at, field.at + field.size)
        length, new = _random_change(chance, data, at)
        name = f"{capture}: random {number} of seed {seed}: {stream} at {at}, {length} bytes become {new[:16].hex()}"
        yield Row(name, capture, stream, at, at + length, new, True, element.earliest)


def _random_change(chance: random.Random, data: bytes, at: int) -> tuple[int, bytes]:
    kind = chance.random()
    if kind < 0.4:
        return 1, bytes((data[at] ^ 1 << chance.randrange(8),))
    if kind < 0.6:
        return 1, chance.choice((b"\x00", b"\x01", b"\x7e", b"\x7f", b"\x80", b"\xff"))
    size = chance.choice((1, 2, 4, 8, 9, 13, 64))
    if kind < 0.7:
        return 0, chance.randbytes(size)
    if kind < 0.8:
        return size, b""
    begin = chance.randrange(len(data))
    return chance.choice((0, size)), data[begin : begin + size]


FAMILIES = {"extremes": extremes, "cuts": cuts, "tails": tails, "disorder": disorder}


def rows(capture: str, family: str, *, each: int, channels: int) -> Iterable[Row]:
    """Those of one family, in main and so many channels. `each`: see `chosen`."""
    streams = [MAIN, *(f"channel{number}" for number in range(len(thin(capture).channels)))]
    for stream in streams[: 1 + channels]:
        yield from FAMILIES[family](capture, stream, each)
