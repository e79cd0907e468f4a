"""Migrations of QEMU's dialect made by hand, byte by byte, so that they can be wrong in one place (proto/qemu.md
sections 1 to 8). Nothing here is checked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from qemu_corpus import Streams

from multifd import elements as e
from multifd.elements import Compression, Phase
from multifd.wire.qemu_packet import serialize_handshake
from multifd.wire.qemu_stream import serialize

PAGE = 4096
UUID = bytes(16)
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
END_OF_WORLD = U64_MAX - PAGE + 1
TIMER = e.Section(Phase.FULL, e.SectionHeader(5, "timer", 0, 2), b"state")
CPU = e.Section(Phase.FULL, e.SectionHeader(6, "cpu", 1, 12), b"registers")
DEVICES = (TIMER, CPU)
MARK, EOS = struct.pack(">Q", 0x200), struct.pack(">Q", 0x10)


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def str8(name: bytes) -> bytes:
    return bytes((len(name),)) + name


# -- main --------------------------------------------------------------------------------------------------------------


def configuration(machine: bytes = b"pc-q35-10.0", subsections: bytes = b"", *, length: int | None = None) -> bytes:
    """File header and CONFIGURATION."""
    return b"QEVM\0\0\0\3\7" + u32(len(machine) if length is None else length) + machine + subsections


def subsection(name: bytes, fields: bytes, version: int = 1) -> bytes:
    return b"\5" + str8(b"configuration/" + name) + u32(version) + fields


def capabilities(*names: bytes) -> bytes:
    return subsection(b"capabilities", u32(len(names)) + b"".join(map(str8, names)))


def command(number: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack(">BHH", 8, number, len(payload) if length is None else length) + payload


def block_list(*blocks: tuple[bytes, int], total: int | None = None) -> bytes:
    stated = sum(length for _, length in blocks) if total is None else total
    return u64(stated | 4) + b"".join(str8(name) + u64(length) for name, length in blocks)


def header(phase: Phase, number: int, name: bytes, instance: int = 0, version: int = 4) -> bytes:
    """A section's, up to its body."""
    return bytes((phase,)) + u32(number) + str8(name) + u32(instance) + u32(version)


def footer(number: int) -> bytes:
    return b"\x7e" + u32(number)


def zero(offset: int, block: bytes | None = b"m", fill: int = 0) -> bytes:
    """A ZERO record; without a block with CONTINUE."""
    if block is None:
        return u64(offset | 0x22) + bytes((fill,))
    return u64(offset | 0x02) + str8(block) + bytes((fill,))


def described(*sections: e.Section) -> bytes:
    """The VM description that fits these sections, or all."""
    devices = [
        {
            "name": each.header.name,
            "instance_id": each.header.instance,
            "vmsd_name": "x",
            "version": each.header.version,
            "fields": [{"name": "f", "type": "buffer", "size": len(each.body)}],
        }
        for each in sections or DEVICES
    ]
    return json.dumps({"page_size": PAGE, "devices": devices}).encode()


def description(text: bytes, *, length: int | None = None) -> bytes:
    """The last element of main."""
    return b"\6" + u32(len(text) if length is None else length) + text


OPEN_RETURN_PATH = command(1)
PING = command(2, u32(1))
SWITCHOVER_START = command(11)

# -- channels ----------------------------------------------------------------------------------------------------------


def packet(
    normal: Sequence[int] = (),
    zeros: Sequence[int] = (),
    *,
    flags: int = 0,
    capacity: int = 128,
    n: int | None = None,
    z: int | None = None,
    size: int | None = None,
    block: bytes = b"m",
    payload: bytes | None = None,
    magic: int = 0x11223344,
    version: int = 1,
) -> bytes:
    """A packet of pages; what is not given is right."""
    data = bytes(len(normal) * PAGE) if payload is None else payload
    counts = (len(normal) if n is None else n, len(data) if size is None else size)
    numbers = (7, len(zeros) if z is None else z)
    fields = struct.pack(">IIIIIIQI28x256s", magic, version, flags, capacity, *counts, *numbers, block)
    return (fields + b"".join(map(u64, (*normal, *zeros)))).ljust(1344, b"\0") + data


def device_packet(name: bytes = b"0000:02.0/vfio", *, flags: int = 0x40, size: int = 4, data: bytes = b"data") -> bytes:
    return struct.pack(">III256sII", 0x11223344, 1, flags, name, 0, size) + data


SYNC = packet(flags=1, capacity=0, block=b"")
GOOD = packet((0, PAGE, 5 * PAGE), (2 * PAGE,)), packet((8 * PAGE,))
"""What the channels of a good migration send in its one round."""


# -- whole migrations --------------------------------------------------------------------------------------------------


def craft(
    *,
    configuration: bytes = configuration(),
    opening: bytes = OPEN_RETURN_PATH + PING,
    start: bytes = header(Phase.START, 2, b"ram"),
    blocks: bytes = block_list((b"m", 256 * PAGE), (b"rom", 2 * PAGE)),
    start_records: bytes = MARK + EOS,
    part_records: bytes = zero(3 * PAGE) + zero(4 * PAGE, None) + MARK + EOS,
    part_footer: bytes = footer(2),
    switchover: bytes = SWITCHOVER_START,
    end_records: bytes = EOS,
    sections: bytes = serialize(*DEVICES),
    end: bytes = b"\0" + description(described()),
    channels: Sequence[bytes] = GOOD,
    syncs: Sequence[int] = (1, 1),
    late: Sequence[bytes] = (b"", b""),
    handshakes: Sequence[tuple[int, bytes]] = ((0, UUID), (1, UUID)),
    **told: Any,
) -> Streams:
    """A whole migration over two channels; what is not given is right. Each channel has a SYNC, its packets, so many
    `syncs`, and what comes `late`. `told`: see `Streams`.
    """
    parts = [configuration, opening, start, blocks, start_records, footer(2)]
    parts += [b"\2" + u32(2), part_records, part_footer, switchover, b"\3" + u32(2), end_records, footer(2)]
    sent = [
        serialize_handshake(e.Handshake(uuid, number)) + SYNC + packets + SYNC * count + after
        for (number, uuid), packets, count, after in zip(handshakes, channels, syncs, late, strict=True)
    ]
    return Streams(b"".join((*parts, sections, end)), tuple(sent), **told)


def conf(machine: bytes = b"pc-q35-10.0", subsections: bytes = b"", *, length: int | None = None) -> Streams:
    return craft(configuration=configuration(machine, subsections, length=length))


def opening(data: bytes) -> Streams:
    """This follows OPEN_RETURN_PATH."""
    return craft(opening=OPEN_RETURN_PATH + data)


def part(records: bytes) -> Streams:
    return craft(part_records=records)


def blocks(*some: tuple[bytes, int], total: int | None = None) -> Streams:
    return craft(blocks=block_list(*some, total=total))


def devices(sections: bytes) -> Streams:
    return craft(sections=sections)


def end(text: bytes, *, length: int | None = None) -> Streams:
    """With this VM description."""
    return craft(end=b"\0" + description(text, length=length))


def named(name: bytes) -> Streams:
    """A VM description in which the timer is called so."""
    return end(described().replace(b"timer", name))


def one(data: bytes, **told: Any) -> Streams:
    """This is all that the first channel has, in the one round."""
    return craft(channels=(data, GOOD[1]), **told)


def zlib_packet(payload: bytes, **fields: Any) -> Streams:
    """A page by zlib."""
    data = packet((0,), flags=Compression.ZLIB, payload=payload, **fields)
    return craft(channels=(data, b""), compression=Compression.ZLIB)


def zstd_packet(payload: bytes) -> Streams:
    """A page by zstd."""
    data = packet((0,), flags=Compression.ZSTD, payload=payload)
    return craft(channels=(data, b""), compression=Compression.ZSTD)
