"""Types of values in messages: for each, one check that serves both directions. Knows no message; `wire.schema` makes
its tables of these.

All checks raise `BadValueError`, which says where in the value.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from multifd.limits import ITEMS_MAX, NAME_BYTES_MAX, SECONDS_MAX, TEXT_BYTES_MAX

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1

Rule = Callable[[Any], tuple[str, str] | None]
"""What holds between the keys of one map: None, or the key that is wrong and what was expected."""


class FieldType(NamedTuple):
    """`read` takes what msgpack gave and returns what a message holds; `write` is its inverse."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


class BadValueError(Exception):
    """A value is not what its type says. `path` leads to it from the value that was checked: `.key`, `[index]`."""

    def __init__(self, expected: str, got: object, path: str = "") -> None:
        super().__init__(path, expected)
        self.expected = expected
        self.got = got
        self.path = path

    def rethrow_under(self, step: str) -> NoReturn:
        """Raise it again from one level up."""
        raise BadValueError(self.expected, self.got, step + self.path) from None


def integer(low: int = 0, high: int = U64_MAX) -> FieldType:
    """An integer from `low` to `high`. A bool is none."""

    def check(value: Any) -> int:
        if type(value) is int and low <= value <= high:
            return value
        raise BadValueError(f"an integer {low}..{high}", value)

    return FieldType(check, check)


def power_of_two(low: int, high: int) -> FieldType:
    """A power of two from `low` to `high`. Equal ones are one object: an INVENTORY has many."""
    powers = {1 << n: 1 << n for n in range((low - 1).bit_length(), high.bit_length())}

    def check(value: Any) -> int:
        if type(value) is int and value in powers:
            return powers[value]
        raise BadValueError(f"a power of two {low}..{high}", value)

    return FieldType(check, check)


def boolean() -> FieldType:
    """True or false."""

    def check(value: Any) -> bool:
        if type(value) is bool:
            return value
        raise BadValueError("true or false", value)

    return FieldType(check, check)


def seconds() -> FieldType:
    """A finite time from 0 to `SECONDS_MAX`. An integer will do: writers of msgpack may shorten."""

    def check(value: Any) -> float:
        if (type(value) is float or type(value) is int) and 0 <= value <= SECONDS_MAX:  # false for NaN
            return float(value)
        raise BadValueError(f"seconds 0..{SECONDS_MAX:.0f}", value)

    return FieldType(check, check)


def binary(low: int, high: int | None = None) -> FieldType:
    """Exactly `low` bytes, or `low` to `high`."""
    expected = f"{low} bytes" if high is None else f"{low}..{high} bytes"

    def check(value: Any) -> bytes:
        if type(value) is bytes and low <= len(value) <= (low if high is None else high):
            return value
        raise BadValueError(expected, value)

    return FieldType(check, check)


def text(bytes_max: int = TEXT_BYTES_MAX, *, bytes_min: int = 0) -> FieldType:
    """Text whose UTF-8 has from `bytes_min` to `bytes_max` bytes."""

    def check(value: Any) -> str:
        if type(value) is str and bytes_min <= _utf8_length(value) <= bytes_max:
            return value
        raise BadValueError(f"text of {bytes_min}..{bytes_max} bytes of UTF-8", value)

    return FieldType(check, check)


def name() -> FieldType:
    """A name: a text that is not empty, of at most `NAME_BYTES_MAX` bytes."""
    return text(NAME_BYTES_MAX, bytes_min=1)


def _utf8_length(value: str) -> int:
    """Bytes of UTF-8, or -1 if it has none (a lone surrogate)."""
    if value.isascii():
        return len(value)
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        return -1


def choice(of: type[enum.IntEnum], fallback: enum.IntEnum | None = None) -> FieldType:
    """A member of an enum, by its number. With `fallback` any other number, but not zero, reads as that."""
    members: dict[int, enum.IntEnum] = {int(member): member for member in of}

    def read(value: Any) -> enum.IntEnum:
        member = members.get(value, fallback) if type(value) is int and value > 0 else None
        if member is None:
            raise BadValueError(f"one of {list(members)}", value)
        return member

    def write(value: Any) -> int:
        if type(value) is not of:
            raise BadValueError(f"a member of {of.__name__}", value)
        return int(value)

    return FieldType(read, write)


def nullable(of: FieldType) -> FieldType:
    """A value or nil. The key must be there in either case."""

    def read(value: Any) -> Any:
        return None if value is None else of.read(value)

    def write(value: Any) -> Any:
        return None if value is None else of.write(value)

    return FieldType(read, write)


def array(of: FieldType, *, low: int = 0, high: int = ITEMS_MAX) -> FieldType:
    """From `low` to `high` items of one type. A tuple in messages."""
    expected = f"an array of {low}..{high} items"

    def convert(items: Any, kind: type[Any], one: Callable[[Any], Any]) -> list[Any]:
        if type(items) is not kind or not low <= len(items) <= high:
            raise BadValueError(expected, items)
        converted: list[Any] = []
        try:
            for item in items:
                converted.append(one(item))  # its length tells which item was bad
        except BadValueError as error:
            error.rethrow_under(f"[{len(converted)}]")
        return converted

    def read(value: Any) -> tuple[Any, ...]:
        return tuple(convert(value, list, of.read))

    def write(value: Any) -> list[Any]:
        return convert(value, tuple, of.write)

    return FieldType(read, write)


def table(key: FieldType, of: FieldType) -> FieldType:
    """A map from keys of one type to values of one type, at most `ITEMS_MAX` of them."""

    def convert(
        items: Any, kind: type[Any], one_key: Callable[[Any], Any], one: Callable[[Any], Any]
    ) -> dict[Any, Any]:
        if not isinstance(items, kind) or len(items) > ITEMS_MAX:
            raise BadValueError(f"a map of at most {ITEMS_MAX} entries", items)
        converted = {}
        for number, item in items.items():
            try:
                converted[one_key(number)] = one(item)
            except BadValueError as error:
                error.rethrow_under(f"[{number!r:.40}]")
        return converted

    def read(value: Any) -> dict[Any, Any]:
        return convert(value, dict, key.read, of.read)

    def write(value: Any) -> dict[Any, Any]:
        return convert(value, Mapping, key.write, of.write)

    return FieldType(read, write)


def record(make: type[Any], keys: Mapping[str, FieldType], rule: Rule | None = None) -> FieldType:
    """A map with fixed keys, others ignored. A dataclass in messages, whose fields come in the order of `keys`."""
    fields = [field.name for field in dataclasses.fields(make)]
    rows = tuple(zip(keys, fields, keys.values(), strict=True))

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise BadValueError("a map", value)
        built = make(*_values((key, value.get(key, _MISSING), of.read) for key, _, of in rows))
        _keep(rule, built)
        return built

    def write(value: Any) -> dict[str, Any]:
        if type(value) is not make:
            raise BadValueError(f"a {make.__name__}", value)
        written = _values((key, getattr(value, field), of.write) for key, field, of in rows)
        _keep(rule, value)
        return dict(zip(keys, written, strict=True))

    return FieldType(read, write)


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()  # of no type that a check admits


def _values(cells: Iterable[tuple[str, Any, Callable[[Any], Any]]]) -> list[Any]:
    values = []
    for key, value, convert in cells:
        try:
            values.append(convert(value))
        except BadValueError as error:
            error.rethrow_under(f".{key}")
    return values


def _keep(rule: Rule | None, value: Any) -> None:
    broken = rule(value) if rule is not None else None
    if broken is not None:
        key, expected = broken
        raise BadValueError(expected, None, f".{key}")
