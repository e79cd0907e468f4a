"""The file header and CONFIGURATION, which a main stream of QEMU's begins with, both ways (proto/qemu.md section 2)."""

from __future__ import annotations

import re
from collections.abc import Generator

from multifd.elements import Configuration
from multifd.errors import LocalProtocolError
from multifd.limits import (
    QEMU_CAPABILITIES_MAX,
    QEMU_MACHINE_BYTES_MAX,
    QEMU_PAGE_BITS_MAX,
    QEMU_PAGE_BITS_MIN,
)
from multifd.wire.qemu_incoming import Incoming, serialize_name

MAGIC = b"QEVM"
VERSION = 3

_CONFIGURATION = 0x07
_SUBSECTION = 0x05
_SUBSECTIONS = ("configuration/target-page-bits", "configuration/capabilities", "configuration/uuid")
_UUID_BYTES = 16
_MACHINE = re.compile(r"[!-~]+")


def read_configuration(incoming: Incoming) -> Generator[None, None, Configuration]:
    """Header, machine type and subsections: up to a byte that begins none. Raises `RemoteProtocolError`."""
    magic = yield from incoming.take(4, "the file header")
    if magic != MAGIC:
        raise incoming.refuse("file header", f"magic {MAGIC.hex(' ')}", magic.hex(" "))
    version = yield from incoming.number(4, "the file header")
    if version != VERSION:
        raise incoming.refuse("file header", f"version {VERSION}", version)
    incoming.element = incoming.offset
    kind = yield from incoming.number(1, "the configuration")
    if kind != _CONFIGURATION:
        raise incoming.refuse("element", f"the configuration ({_CONFIGURATION}) first", kind)
    length = yield from incoming.number(4, "the configuration")
    if not 0 < length <= QEMU_MACHINE_BYTES_MAX:
        raise incoming.refuse("configuration", f"a machine type of 1..{QEMU_MACHINE_BYTES_MAX} bytes", length)
    raw = yield from incoming.take(length, "the machine type")
    machine = raw.decode("latin-1")
    if not _MACHINE.fullmatch(machine):
        raise incoming.refuse("configuration", "a machine type in printable ASCII", raw)
    return (yield from _subsections(incoming, machine))


def _subsections(incoming: Incoming, machine: str) -> Generator[None, None, Configuration]:
    page_bits, capabilities, uuid = None, None, None
    allowed: tuple[str, ...] = _SUBSECTIONS
    while True:
        yield from incoming.wait(1, "what follows the configuration")
        incoming.element = incoming.offset
        if incoming.data[incoming.at] != _SUBSECTION:
            return Configuration(machine, page_bits, capabilities, uuid)
        incoming.at += 1
        name = yield from incoming.name("configuration's subsection")
        if name not in allowed:
            expected = f"one of {', '.join(_SUBSECTIONS)}, each once and in this order"
            raise incoming.refuse("configuration's subsection", expected, name)
        allowed = allowed[allowed.index(name) + 1 :]
        version = yield from incoming.number(4, name)
        if version != 1:
            raise incoming.refuse(name, "version 1", version)
        if name == _SUBSECTIONS[0]:
            page_bits = yield from incoming.number(4, name)
            if not QEMU_PAGE_BITS_MIN <= page_bits <= QEMU_PAGE_BITS_MAX:
                raise incoming.refuse(name, f"{QEMU_PAGE_BITS_MIN}..{QEMU_PAGE_BITS_MAX}", page_bits)
        elif name == _SUBSECTIONS[1]:
            capabilities = yield from _capabilities(incoming, name)
        else:
            uuid = yield from incoming.take(_UUID_BYTES, name)


def _capabilities(incoming: Incoming, what: str) -> Generator[None, None, tuple[str, ...]]:
    count = yield from incoming.number(4, what)
    if count > QEMU_CAPABILITIES_MAX:
        raise incoming.refuse(what, f"at most {QEMU_CAPABILITIES_MAX}", count)
    names = []
    for _ in range(count):
        names.append((yield from incoming.name(what)))
    return tuple(names)


def serialize_configuration(configuration: Configuration) -> bytes:
    """The bytes that a stream begins with. Raises `LocalProtocolError`."""
    machine, page_bits, uuid = configuration.machine, configuration.page_bits, configuration.uuid
    if not _MACHINE.fullmatch(machine) or len(machine) > QEMU_MACHINE_BYTES_MAX:
        expected = f"1..{QEMU_MACHINE_BYTES_MAX} bytes of printable ASCII"
        raise LocalProtocolError("configuration.machine", expected, machine)
    if page_bits is not None and not QEMU_PAGE_BITS_MIN <= page_bits <= QEMU_PAGE_BITS_MAX:
        raise LocalProtocolError("configuration.page_bits", f"{QEMU_PAGE_BITS_MIN}..{QEMU_PAGE_BITS_MAX}", page_bits)
    if uuid is not None and len(uuid) != _UUID_BYTES:
        raise LocalProtocolError("configuration.uuid", f"{_UUID_BYTES} bytes", uuid)
    parts = [MAGIC, _u32(VERSION), bytes((_CONFIGURATION,)), _u32(len(machine)), machine.encode()]
    if page_bits is not None:
        parts += [_subsection(0), _u32(page_bits)]
    if configuration.capabilities is not None:
        parts += [_subsection(1), _u32(len(configuration.capabilities))]
        parts += map(serialize_name, configuration.capabilities)
    if uuid is not None:
        parts += [_subsection(2), uuid]
    return b"".join(parts)


def _subsection(index: int) -> bytes:
    return bytes((_SUBSECTION,)) + serialize_name(_SUBSECTIONS[index]) + _u32(1)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")
