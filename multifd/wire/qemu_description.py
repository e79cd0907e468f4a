"""What VMDESCRIPTION says of sections: which there are, in which order, how long their bodies are (proto/qemu.md
section 8).

It describes every section of a device but those of live ones, and is what the ends that were found by looking for
footers are held against.
"""

from __future__ import annotations

import json
from typing import Any

from multifd.elements import DescribedSection
from multifd.errors import RemoteProtocolError
from multifd.limits import (
    QEMU_DESCRIPTION_BYTES_MAX,
    QEMU_DESCRIPTION_ITEMS_MAX,
    QEMU_DESCRIPTION_NESTING_MAX,
    QEMU_SECTION_BYTES_MAX,
)
from multifd.wire.qemu_incoming import NAME_BYTES_MAX, decode_name

_U32_MAX = 2**32 - 1
_SUBSECTION_BYTES = 1 + 1 + 4  # type, length of the name, version


def described_sections(text: bytes) -> tuple[DescribedSection, ...]:
    """One for each FULL section, in the order of the stream. Raises `RemoteProtocolError`."""
    devices = _get(_parse(text), "devices", list, "")
    return tuple(_section(entry, f"devices[{index}]") for index, entry in enumerate(devices))


def _parse(text: bytes) -> object:
    """The JSON. Its size and the number of its parts are checked before memory is taken for them."""
    if len(text) > QEMU_DESCRIPTION_BYTES_MAX:
        raise _wrong("", f"at most {QEMU_DESCRIPTION_BYTES_MAX} bytes", len(text))
    if sum(map(text.count, (b"{", b"[", b","))) > QEMU_DESCRIPTION_ITEMS_MAX:
        raise _wrong("", f"at most {QEMU_DESCRIPTION_ITEMS_MAX} objects, arrays and members", None)
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:  # of ValueErrors: not JSON, not UTF-8, a number of 5000 digits
        raise _wrong("", "JSON in UTF-8, of few levels", str(error)) from None


def _section(entry: object, where: str) -> DescribedSection:
    """An entry of `devices`. Old devices have one `size` in place of fields."""
    name = _name(entry, "name", where)
    where = f"{where} ({name:.100})"
    instance = _get(entry, "instance_id", int, where)
    if not 0 <= instance <= _U32_MAX:
        raise _wrong(f"{where}.instance_id", f"0..{_U32_MAX}", instance)
    if isinstance(entry, dict) and "fields" not in entry:
        length = _size(entry, where)
    else:
        length = _described_bytes(entry, where, 1)
    if length > QEMU_SECTION_BYTES_MAX:
        raise _wrong(where, f"a body of at most {QEMU_SECTION_BYTES_MAX} bytes", length)
    return DescribedSection(name, instance, length)


def _described_bytes(entry: object, where: str, level: int) -> int:
    """Of fields and subsections. A field's size includes what is nested in it; that of an array is an element's."""
    if level > QEMU_DESCRIPTION_NESTING_MAX:
        raise _wrong(where, f"at most {QEMU_DESCRIPTION_NESTING_MAX} levels of subsections", None)
    length = 0
    for field in _get(entry, "fields", list, where):
        length += _size(field, where) * _count(field, where)
    subsections = _get(entry, "subsections", list, where) if isinstance(entry, dict) and "subsections" in entry else []
    for subsection in subsections:
        name = _name(subsection, "vmsd_name", where)
        length += _SUBSECTION_BYTES + len(name.encode())
        length += _described_bytes(subsection, f"{where}, {name:.100}", level + 1)
    return length


def _name(entry: object, key: str, where: str) -> str:
    """A name that could stand on the wire: errors show it."""
    name: str = _get(entry, key, str, where)
    raw = name.encode(errors="replace")
    if len(raw) > NAME_BYTES_MAX or decode_name(raw) != name:
        raise _wrong(f"{where}.{key}", f"1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters", name)
    return name


def _size(entry: object, where: str) -> int:
    return _natural(_get(entry, "size", int, where), f"{where}.size")


def _count(field: dict[str, Any], where: str) -> int:
    return _natural(_get(field, "array_len", int, where), f"{where}.array_len") if "array_len" in field else 1


def _natural(number: int, where: str) -> int:
    if not 0 <= number <= QEMU_SECTION_BYTES_MAX:
        raise _wrong(where, f"0..{QEMU_SECTION_BYTES_MAX}", number)
    return number


def _get(entry: object, key: str, kind: type, where: str) -> Any:
    """A member of an object, of exactly this type."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:
        raise _wrong(f"{where}.{key}", f"an object with {key}, of type {kind.__name__}", value)
    return value


def _wrong(where: str, expected: str, got: object) -> RemoteProtocolError:
    return RemoteProtocolError(f"main: VM description {where}".rstrip(), expected, got)
