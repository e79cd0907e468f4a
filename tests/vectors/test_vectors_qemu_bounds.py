"""Streams of QEMU's dialect that are large, deep or endless cost a destination bounded memory, and time in proportion
to what came.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from peak_memory import peak_growth
from qemu_corpus import Streams
from qemu_crafted import (
    EOS,
    MARK,
    OPEN_RETURN_PATH,
    PAGE,
    PING,
    block_list,
    blocks,
    command,
    craft,
    devices,
    end,
    footer,
    header,
    one,
    opening,
    packet,
    part,
    zero,
    zlib_packet,
    zstd_packet,
)
from qemu_hostile import BOMB, deflated, zstandard_of
from qemu_offline import Ending, Offline

from multifd import limits
from multifd.elements import Phase
from multifd.limits import KIB, MIB
from multifd.wire import qemu_sections as wire_sections

pytestmark = pytest.mark.slow

SECONDS_MAX = 30.0
"""For any of these, on a busy machine: some ten times what they take."""
ITEMS = limits.QEMU_DESCRIPTION_ITEMS_MAX // 2 - 10
TEXT = limits.QEMU_DESCRIPTION_BYTES_MAX - 200
BODY = header(Phase.FULL, 5, b"timer", 0, 2)
NAMES = [(b"%08d" % number + b"x" * 247, PAGE) for number in range(limits.QEMU_RAM_BLOCKS_MAX)]


def run(make: Callable[[], Streams], growth_max: int) -> Ending:
    """Receive it; within so many bytes of memory, and in time."""
    streams = make()
    began = time.monotonic()
    with peak_growth() as growth:
        ending = Offline(streams).run(silent=True)
    assert time.monotonic() - began < SECONDS_MAX
    assert growth.bytes < growth_max
    return ending


def listed(*items: bytes) -> Streams:
    """A VM description whose `devices` has these."""
    return end(b'{"devices":[' + b",".join(items) + b"]}")


DESCRIPTIONS: dict[str, tuple[Callable[[], Streams], str]] = {
    "lists in lists": (
        lambda: end(b'{"devices":' + b"[" * ITEMS + b"]" * ITEMS + b"}"),
        "JSON in UTF-8, of few levels",
    ),
    "objects in objects": (lambda: end(b'{"a":' * ITEMS + b"1" + b"}" * ITEMS), "JSON in UTF-8, of few levels"),
    "too many items": (lambda: listed(*[b"1"] * (2 * ITEMS + 20)), "at most 1000000 objects, arrays and members"),
    "empty lists": (lambda: listed(*[b"[]"] * ITEMS), r"devices\[0\]\.name"),
    "objects": (lambda: listed(*[b'{"a":1}'] * ITEMS), r"devices\[0\]\.name"),
    "keys": (lambda: end(b"{" + b",".join(b'"%x":[]' % n for n in range(ITEMS)) + b"}"), r"\.devices: expected"),
    "infinities": (lambda: listed(*[b"1e99999"] * 2 * ITEMS), r"devices\[0\]\.name"),
    "long numbers": (lambda: listed(*[b"9" * 4000] * 4000), r"devices\[0\]\.name"),
    "a number that is too long": (lambda: listed(b"9" * TEXT), "JSON in UTF-8"),
    "a long text": (lambda: end(b'{"devices":"' + b"a" * TEXT + b'\xf0\x9f\x98\x80"}'), "of type list, got 'aaa"),
    "spaces": (lambda: end(b'{"devices":' + b" " * TEXT + b"}"), "JSON in UTF-8"),
    "fields": (
        lambda: listed(
            b'{"name":"timer","instance_id":0,"fields":[' + b",".join([b'{"size":301989888}'] * (ITEMS - 10)) + b"]}"
        ),
        r"devices\[0\] \(timer\): expected a body of at most",
    ),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions(name: str) -> None:
    """A VM description takes a few hundred bytes of memory for each item and a few for each byte, and is refused."""
    make, words = DESCRIPTIONS[name]
    ending = run(make, 256 * MIB)
    assert re.search(f"main at .*: VM description.*{words}", ending.text)
    assert len(ending.text) < 1000


ENDLESS: dict[str, Callable[[], Streams]] = {
    "4096 blocks with long names": lambda: blocks(*NAMES),
    "a zero page two million times": lambda: part(zero(0) + zero(0, None) * 2_000_000 + MARK + EOS),
    "a zero page, by name": lambda: part(zero(0, b"m") * 50_000 + MARK + EOS),
    "PARTs": lambda: craft(switchover=(b"\2\0\0\0\2" + EOS + footer(2)) * 60_000),
    "POSTCOPY_ADVISE": lambda: opening(command(3) * 50_000),
    "OPEN_RETURN_PATH": lambda: opening(OPEN_RETURN_PATH * 50_000),
    "PINGs": lambda: opening(PING * 20_000),
    "empty packets": lambda: one(packet(block=b"") * 5_000),
    "a page by name": lambda: one(packet((PAGE,)) * 2_000),
    "a zero page on a channel": lambda: one(packet((), (PAGE,) * 128) * 5_000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_goes_on_and_on(name: str) -> None:
    """What is legal any number of times leaves nothing behind but its answers."""
    ending = run(ENDLESS[name], 24 * MIB)
    assert ending.error is None or name.endswith("long names")


BODIES: dict[str, bytes] = {
    "zeros": bytes(8 * MIB),
    "footers": footer(5) * (8 * MIB // 5),
    "footers and headers that are cut": (footer(5) + header(Phase.FULL, 7, b"x" * 255)[:250]) * (8 * MIB // 255),
    "footers and headers that are none": (footer(5) + header(Phase.FULL, 7, b"x")[:-4] + b"\1\0\0\0") * (8 * MIB // 19),
    "footers and ends that are none": (footer(5) + b"\0\6\0\0\0\0[") * (8 * MIB // 12),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_does_not_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section is looked through once, and refused at its bound; what is held is that much (here 4 MiB, for time)."""
    monkeypatch.setattr(wire_sections, "QEMU_SECTION_BYTES_MAX", 4 * MIB)
    ending = run(lambda: devices(BODY + BODIES[name]), 32 * MIB)
    assert re.search(r"main at \d+: section 5 \(timer\): expected its footer within 4194304 bytes", ending.text)


def test_bodies_that_are_too_much_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sections of a machine have a bound as well (here 4 MiB)."""
    monkeypatch.setattr(wire_sections, "QEMU_SECTIONS_BYTES_MAX", 4 * MIB)
    many = b"".join(header(Phase.FULL, 9 + n, b"nic", n) + bytes(100 * KIB) + footer(9 + n) for n in range(100))
    ending = run(lambda: devices(many), 32 * MIB)
    assert "all sections within 4194304" in ending.text


def test_parts_of_a_device_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """PARTs of a live device other than RAM are kept, as far as the bound (here 4 MiB)."""
    monkeypatch.setattr(limits, "QEMU_SECTIONS_BYTES_MAX", 4 * MIB)
    begun = header(Phase.START, 9, b"dirty-bitmap") + footer(9)
    ending = run(lambda: opening(begun + (b"\2\0\0\0\x09" + footer(9)) * 20_000), 32 * MIB)
    assert re.search(r"main at \d+: section dirty-bitmap: expected at most 4194304 bytes", ending.text)


@pytest.mark.parametrize("make", [lambda: zlib_packet(deflated(*BOMB)), lambda: zstd_packet(zstandard_of(*BOMB))])
def test_bombs(make: Callable[[], Streams]) -> None:
    """Payload is decoded as far as what it announced, whatever there is in it: 200 MiB here."""
    assert "4096 bytes were announced, decoding gave 4097 or more" in run(make, 24 * MIB).text


def test_ram_is_announced_and_does_not_come() -> None:
    """A block list takes memory for its names alone."""
    ending = run(lambda: craft(blocks=block_list((b"m", limits.QEMU_RAM_BYTES_MAX))), 8 * MIB)
    assert ending.error is None


def test_what_is_said_often_is_noted_once() -> None:
    """Notes for people do not grow with the stream."""
    offline = Offline(opening(command(3) * 1000))
    offline.run()
    assert len(offline.session.notes) == 1
