"""The VM description of QEMU's main stream: lengths of sections from JSON, and what is refused."""

import json
from typing import Any

import pytest

from multifd.elements import DescribedSection
from multifd.errors import RemoteProtocolError
from multifd.limits import (
    QEMU_DESCRIPTION_BYTES_MAX,
    QEMU_DESCRIPTION_ITEMS_MAX,
    QEMU_DESCRIPTION_NESTING_MAX,
    QEMU_SECTION_BYTES_MAX,
)
from multifd.wire.qemu_description import described_sections


def field(size: object, **more: object) -> dict[str, object]:
    return {"name": "f", "type": "uint8", "size": size, **more}


def device(name: object = "timer", instance: object = 0, **more: object) -> dict[str, object]:
    return {"name": name, "instance_id": instance, "vmsd_name": "timer", "version": 2, **more}


def describe(*devices: object) -> bytes:
    return json.dumps({"page_size": 4096, "devices": devices}).encode()


def test_lengths() -> None:
    """Fields count their size, arrays as often as they are long; subsections have a header; old devices one size."""
    inner = {"vmsd_name": "a/b", "version": 1, "fields": [field(10)]}
    outer = {"vmsd_name": "a/\u20ac", "version": 1, "fields": [field(2)], "subsections": [inner]}
    struct = field(7, struct={"vmsd_name": "s", "version": 1, "fields": [field(3), field(4)]})
    text = describe(
        device(fields=[]),
        device("plain", 1, fields=[field(1), field(0), field(4, array_len=3), field(5, index=0), field(6, index=1)]),
        device("nested", 2**32 - 1, fields=[struct], subsections=[inner, outer]),
        {"name": "old", "instance_id": 0, "size": 1234},
        device(fields=[]),
    )
    assert described_sections(text) == (
        DescribedSection("timer", 0, 0),
        DescribedSection("plain", 1, 1 + 12 + 5 + 6),
        DescribedSection("nested", 2**32 - 1, 7 + (6 + 3 + 10) + (6 + 5 + 2 + (6 + 3 + 10))),
        DescribedSection("old", 0, 1234),
        DescribedSection("timer", 0, 0),
    )
    assert described_sections(b'{"devices": []}') == ()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"", "main: VM description"),
        (b"{", "main: VM description"),
        (b'{"devices": []}x', "main: VM description"),
        (b'{"devices": "\xff"}', "main: VM description"),
        (b'{"devices": [' + 5000 * b"9" + b"]}", "main: VM description"),
        (5000 * b"[", "main: VM description"),
        (b"[]", "main: VM description .devices"),
        (b"{}", "main: VM description .devices"),
        (b'{"devices": {}}', "main: VM description .devices"),
        (describe(1), "main: VM description devices[0].name"),
        (describe(device(None, fields=[])), "main: VM description devices[0].name"),
        (describe(device("a\nb", fields=[])), "devices[0].name"),
        (describe(device("a\ud800", fields=[])), "devices[0].name"),
        (describe(device("", fields=[])), "devices[0].name"),
        (describe(device(fields=[], subsections=[{"vmsd_name": "\x1b", "fields": []}])), "(timer).vmsd_name"),
        (describe(device(fields=[]), device(instance=-1, fields=[])), "devices[1] (timer).instance_id"),
        (describe(device(instance=1 << 32, fields=[])), "devices[0] (timer).instance_id"),
        (describe(device(instance=True, fields=[])), "devices[0] (timer).instance_id"),
        (describe(device()), "devices[0] (timer).size"),
        (describe(device(fields={})), "devices[0] (timer).fields"),
        (describe(device(fields=[1])), "devices[0] (timer).size"),
        (describe(device(fields=[field(-1)])), "devices[0] (timer).size"),
        (describe(device(fields=[field(1.0)])), "devices[0] (timer).size"),
        (describe(device(fields=[field(1, array_len=None)])), "devices[0] (timer).array_len"),
        (describe(device(fields=[field(1, array_len=-1)])), "devices[0] (timer).array_len"),
        (describe(device(fields=[field(QEMU_SECTION_BYTES_MAX, array_len=2)])), "devices[0] (timer)"),
        (describe({"name": "old", "instance_id": 0, "size": QEMU_SECTION_BYTES_MAX + 1}), "devices[0] (old).size"),
        (describe(device(fields=[], subsections=None)), "devices[0] (timer).subsections"),
        (describe(device(fields=[], subsections=[{"fields": []}])), "devices[0] (timer).vmsd_name"),
        (describe(device(fields=[], subsections=[{"vmsd_name": "s"}])), "devices[0] (timer), s.fields"),
    ],
)
def test_what_is_refused(text: bytes, where: str) -> None:
    """Whatever is no JSON, or not of the form, is the peer's error, at its place."""
    with pytest.raises(RemoteProtocolError) as caught:
        described_sections(text)
    assert caught.value.where.endswith(where)


def test_subsections_are_nested_so_deep_and_no_deeper() -> None:
    """The bound is on the levels of subsections."""
    subsections: list[dict[str, Any]] = []
    for _ in range(QEMU_DESCRIPTION_NESTING_MAX - 1):
        subsections = [{"vmsd_name": "s", "fields": [], "subsections": subsections}]
    assert described_sections(describe(device(fields=[], subsections=subsections)))[0].length == 7 * 63
    subsections = [{"vmsd_name": "s", "fields": [], "subsections": subsections}]
    with pytest.raises(RemoteProtocolError, match="levels"):
        described_sections(describe(device(fields=[], subsections=subsections)))


def test_size_and_number_of_parts_are_bounded() -> None:
    """Text beyond the bounds is refused before it is parsed: it need not even be JSON."""
    with pytest.raises(RemoteProtocolError, match="at most 16777216 bytes"):
        described_sections(bytes(QEMU_DESCRIPTION_BYTES_MAX + 1))
    for part in (b"{", b"[", b","):
        with pytest.raises(RemoteProtocolError, match="at most 1000000 objects"):
            described_sections(part * (QEMU_DESCRIPTION_ITEMS_MAX + 1))
