"""The table of messages is the specification's, row by row."""

import dataclasses
import re
import typing
from pathlib import Path

from multifd import errors, limits, messages
from multifd.wire.control import FRAME_HEAD_BYTES
from multifd.wire.schema import ROWS

PROTO = Path(__file__).parents[3] / "proto"
PAGE = (PROTO / "control.md").read_text(encoding="utf-8")


def spec_rows() -> list[tuple[int, str, list[str]]]:
    """(type, name, keys) of section 2; what stands in backquotes is a key."""
    section = PAGE[PAGE.index("## 2.") : PAGE.index("## 3.")]
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| [SD, ]+ \| (.*) \|$", section, re.MULTILINE)
    return [(int(number), name, list(dict.fromkeys(re.findall(r"`(\w+)`", keys)))) for number, name, keys in rows]


def test_rows_are_those_of_the_specification() -> None:
    """Type numbers, names and keys are those of proto/control.md section 2."""
    written = {number: (name, set(keys)) for number, name, keys in spec_rows()}
    built = {row.number: (row.name, set(row.keys)) for row in ROWS}
    assert written == built


def test_every_message_has_a_row() -> None:
    """The table has each class of `messages.Message` once, and keys in the order of its fields."""
    assert [row.make for row in ROWS] == list(typing.get_args(messages.Message))
    renamed = {"class_name": "class"}
    for row in ROWS:
        fields = [renamed.get(field.name, field.name) for field in dataclasses.fields(row.make)]
        assert list(row.keys) == fields


def test_reason_codes_are_those_of_the_specification() -> None:
    """Section 4 lists the numbers and names of `errors.Code`."""
    section = PAGE[PAGE.index("## 4.") :]
    written = {int(number): name.upper() for number, name in re.findall(r"(\d+) ([a-z]+)[,.]", section)}
    assert written == {int(code): code.name for code in errors.Code}


def test_limits_are_those_of_the_specification() -> None:
    """Wherever proto/ gives a limit's name with a number, `limits` has the same."""
    units = {"": 1, "KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB}
    found = {}
    for page in (PAGE, (PROTO / "native.md").read_text(encoding="utf-8")):
        for name, number, unit in re.findall(r"`([A-Z_]+)` = (\d+)(?: (KiB|MiB|GiB))?", page):
            found[name] = int(number) * units[unit]
    assert found.keys() >= {"FRAME_BYTES_MAX", "TEXT_BYTES_MAX", "NAME_BYTES_MAX", "ITEMS_MAX", "NESTING_MAX"}
    assert found == {name: getattr(limits, name) for name in found}
    assert FRAME_HEAD_BYTES == 12
