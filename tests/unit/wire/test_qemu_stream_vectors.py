"""The captured main streams in proto/vectors/qemu: read whole and in pieces, held against what is known of them from
elsewhere, and written back.
"""

import functools
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from multifd.elements import (
    BlockList,
    Command,
    Configuration,
    DescribedSection,
    Description,
    Offsets,
    PageRecord,
    Phase,
    RamBegins,
    RamEnds,
    Section,
    StreamElement,
    SyncMark,
    ZeroRecords,
)
from multifd.errors import RemoteProtocolError
from multifd.wire.qemu_description import described_sections
from multifd.wire.qemu_stream import StreamReader, serialize

FOLDER = Path(__file__).resolve().parents[3] / "proto" / "vectors" / "qemu"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/main.bin.zst"))
WITHOUT_DESCRIPTION = "10.0-none-novmdesc"
SMALL = (WITHOUT_DESCRIPTION, "10.0-none-ignore-shared")
"""Read byte by byte: without a description, and with all that a configuration can have on x86."""

by_name = pytest.mark.parametrize("name", NAMES)


@functools.cache
def data(name: str) -> bytes:
    return zstandard.ZstdDecompressor().decompress((FOLDER / name / "main.bin.zst").read_bytes())


@functools.cache
def meta(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / name / "meta.json").read_text(encoding="utf-8"))
    return read


def read(name: str, cuts: list[int]) -> list[StreamElement]:
    """The elements of a stream that comes in pieces."""
    stream = data(name)
    reader = StreamReader(description=name != WITHOUT_DESCRIPTION)
    elements: list[StreamElement] = []
    for begin, end in itertools.pairwise([0, *cuts, len(stream)]):
        elements += reader.feed(stream[begin:end])
    reader.end()
    assert reader.finished
    return elements


@functools.cache
def whole(name: str) -> tuple[StreamElement, ...]:
    return tuple(read(name, []))


def merged(elements: tuple[StreamElement, ...] | list[StreamElement]) -> list[object]:
    """With ZERO records of a block together, however they were cut."""
    together: list[object] = []
    for zero, group in itertools.groupby(elements, lambda each: isinstance(each, ZeroRecords) and each.block):
        if zero is False:
            together += group
        else:
            offsets: list[Offsets] = [each.offsets for each in group if isinstance(each, ZeroRecords)]
            together.append((zero, np.concatenate(offsets).tolist()))
    return together


def test_there_are_captures() -> None:
    """The tests below have something to read: several versions and both dialects of sync points."""
    assert {name.partition("-")[0] for name in NAMES} >= {"7.2", "10.0", "11.1"}
    assert {meta(name).get("sync_mode") for name in NAMES} >= {"per-section", "per-round"}


@by_name
def test_written_back_they_are_the_same(name: str) -> None:
    """The elements of a stream, serialized, are its bytes."""
    assert serialize(*whole(name)) == data(name)


@by_name
def test_pieces_make_no_difference(name: str) -> None:
    """Cut at random, long and short, a stream has the same elements."""
    chance = random.Random(name)
    for longest in (9, 300, 70_000):
        steps = itertools.accumulate(chance.randint(1, longest) for _ in itertools.count())
        cuts = list(itertools.takewhile(lambda at: at < len(data(name)), steps))
        assert merged(read(name, cuts)) == merged(whole(name))


@pytest.mark.parametrize("name", SMALL)
def test_byte_by_byte(name: str) -> None:
    """A stream can be cut at every byte."""
    assert merged(read(name, list(range(1, len(data(name)))))) == merged(whole(name))


@pytest.mark.parametrize("name", SMALL)
def test_cut_short_none_is_whole(name: str) -> None:
    """A stream that ends too early anywhere is not finished, and its end is an error."""
    reader = StreamReader(description=name != WITHOUT_DESCRIPTION)
    pieces = [data(name)[at : at + 61] for at in range(0, len(data(name)), 61)]
    for piece in pieces[:-1]:
        list(reader.feed(piece))
        assert not reader.finished
    list(reader.feed(pieces[-1][:-1]))
    with pytest.raises(RemoteProtocolError):
        reader.end()


@by_name
def test_ends_of_sections_are_those_of_the_description(name: str) -> None:
    """The lengths that were found by footers are those that follow from the JSON, section by section."""
    last = whole(name)[-1]
    if name == WITHOUT_DESCRIPTION:
        assert not isinstance(last, Description)
        return
    assert isinstance(last, Description)
    found = tuple(
        DescribedSection(element.header.name, element.header.instance, len(element.body))
        for element in whole(name)
        if isinstance(element, Section)
    )
    assert described_sections(last.text) == found
    assert len(found) == meta(name).get("device_sections", len(found))


@by_name
def test_blocks_and_configuration_are_those_of_the_source(name: str) -> None:
    """Machine, capabilities, UUID and blocks are what the source was set to."""
    configuration = whole(name)[0]
    assert isinstance(configuration, Configuration)
    assert configuration.machine == meta(name)["machine"]
    subsections = meta(name).get("config_subsections", {})
    assert list(configuration.capabilities or ()) == subsections.get("configuration/capabilities", [])
    assert (configuration.uuid or b"").hex() == subsections.get("configuration/uuid", "")
    (blocks,) = (element.blocks for element in whole(name) if isinstance(element, BlockList))
    if "blocks" in meta(name):
        assert [[block.name, block.length, block.address] for block in blocks] == meta(name)["blocks"]
    digests = (FOLDER / name / "ram.sha256").read_text(encoding="utf-8").splitlines()
    assert {(block.name, block.length) for block in blocks} >= {
        (line.split("  ")[1], int(line.split("  ")[2])) for line in digests
    }


@by_name
def test_sections_of_ram_are_those_that_were_recorded(name: str) -> None:
    """Phases, sync marks and zero pages on main are as many as a receiver counted that shares no code with this one."""
    phases: list[tuple[str, int]] = []
    zeros = 0
    for element in whole(name):
        if isinstance(element, RamBegins):
            phases.append((element.phase.name, 0))
        elif isinstance(element, SyncMark):
            phases[-1] = (phases[-1][0], phases[-1][1] + 1)
        elif isinstance(element, ZeroRecords):
            zeros += len(element.offsets)
        assert not isinstance(element, PageRecord)
    assert phases[0][0] == Phase.START.name
    assert phases[-1][0] == Phase.END.name
    assert sum(isinstance(element, RamEnds) for element in whole(name)) == len(phases)
    if "ram_sections" in meta(name):
        assert phases == [(section["phase"], section["flushes"]) for section in meta(name)["ram_sections"]]
        assert zeros == meta(name)["stats"]["main_zero"]


@by_name
def test_commands_are_those_that_were_recorded(name: str) -> None:
    """Commands come in the order in which the receiver saw them."""
    events = meta(name).get("events", [])
    recorded = [(event[2], event[3]) for event in events if event[1] == "cmd"]
    found = [(each.number.name, each.payload.hex()) for each in whole(name) if isinstance(each, Command)]
    assert found == recorded or not events
