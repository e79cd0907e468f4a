"""Migrations that are wrong in one place, made by hand, with what the destination's error must say: the place, and the
rule that is broken. `qemu_corpus` has those that are made by rule from captures.
"""

from __future__ import annotations

import struct
import zlib

import zstandard
from qemu_corpus import Streams
from qemu_crafted import (
    CPU,
    END_OF_WORLD,
    EOS,
    GOOD,
    MARK,
    OPEN_RETURN_PATH,
    PAGE,
    PING,
    SWITCHOVER_START,
    SYNC,
    TIMER,
    U32_MAX,
    U64_MAX,
    UUID,
    block_list,
    blocks,
    capabilities,
    command,
    conf,
    configuration,
    craft,
    described,
    device_packet,
    devices,
    end,
    footer,
    header,
    named,
    one,
    opening,
    packet,
    part,
    subsection,
    u32,
    u64,
    zero,
    zlib_packet,
    zstd_packet,
)

from multifd import elements as e
from multifd import limits
from multifd.elements import Compression, Phase
from multifd.wire.qemu_stream import serialize

Table = dict[str, tuple[Streams, str]]


def deflated(*pieces: bytes, finish: bool = False) -> bytes:
    stream = zlib.compressobj(1)
    return b"".join(map(stream.compress, pieces)) + stream.flush(zlib.Z_FINISH if finish else zlib.Z_SYNC_FLUSH)


def zstandard_of(*pieces: bytes, window_log: int = 19) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return b"".join(map(stream.compress, pieces)) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


ALL_BYTES = bytes(range(256)) * 16
BOMB = [bytes(limits.MIB)] * 200
"""In less than a MiB, whichever way."""
SKIPPABLE = struct.pack("<II", 0x184D2A50, 1000) + bytes(1000)
PAGE_BITS = b"target-page-bits"
BEGUN = header(Phase.START, 9, b"dirty-bitmap") + footer(9)
CROWD = b"".join(header(Phase.FULL, 100 + n, b"nic", n) + footer(100 + n) for n in range(limits.QEMU_SECTIONS_MAX))
MANY = [(b"%04d" % number, PAGE) for number in range(limits.QEMU_RAM_BLOCKS_MAX + 1)]
FALSE_END = e.Section(Phase.FULL, TIMER.header, b"st" + footer(5) + header(Phase.FULL, 9, b"x") + b"ate")

HEADER: Table = {
    "another version": (craft(configuration=b"QEVM\0\0\0\2"), "main at 0: file header: expected version 3, got 2"),
    "no configuration": (craft(configuration=b"QEVM\0\0\0\3"), r"main at 8: element: .* configuration \(7\) first"),
    "a machine of no bytes": (conf(b""), r"main at 8: configuration: .* 1\.\.128 bytes, got 0"),
    "a machine of 129 bytes": (conf(b"x" * 129), r"main at 8: configuration: .* 1\.\.128 bytes, got 129"),
    "a machine of 4 GiB": (conf(length=U32_MAX), r"1\.\.128 bytes, got 4294967295"),
    "a machine with an escape": (conf(b"\x1b[2J"), "printable ASCII"),
    "pages of 512 bytes": (conf(subsections=subsection(PAGE_BITS, u32(9))), r"main at 24: .*expected 10\.\.16, got 9"),
    "pages of 128 KiB": (conf(subsections=subsection(PAGE_BITS, u32(17))), r"main at 24: .* 10\.\.16, got 17"),
    "65 capabilities": (conf(subsections=capabilities(*[b"x"] * 65)), "capabilities: expected at most 64, got 65"),
    "4 billion capabilities": (conf(subsections=subsection(b"capabilities", b"\xff" * 4)), "at most 64, got 4294967"),
    "a capability of no bytes": (conf(subsections=capabilities(b"")), "capabilities: expected 1 to 255 bytes"),
    "a subsection twice": (conf(subsections=capabilities() * 2), "each once and in this order"),
    "a subsection of version 2": (conf(subsections=subsection(b"uuid", UUID, 2)), "uuid: expected version 1, got 2"),
    "a new subsection": (conf(subsections=subsection(b"new", b"")), "in this order, got 'configuration/new'"),
    "capability mapped-ram": (conf(subsections=capabilities(b"mapped-ram")), "mapped-ram is for files"),
    "capability x-ignore-shared": (conf(subsections=capabilities(b"x-ignore-shared")), "main memory would not be sent"),
    "a new capability": (conf(subsections=capabilities(b"new")), "'new' is on at the source and unknown"),
    "another machine's UUID": (conf(subsections=subsection(b"uuid", b"x" * 16)), "is it the right machine"),
}
COMMANDS: Table = {
    "command 0": (opening(command(0)), r"main at 29: command: expected a number of 1\.\.11, got 0"),
    "command 12": (opening(command(12)), r"main at 29: command: expected a number of 1\.\.11, got 12"),
    "command 65535": (opening(command(65535)), "got 65535"),
    "postcopy": (opening(command(4)), "turn postcopy-ram off at the source, got 'POSTCOPY_LISTEN'"),
    "a package of 4 GiB": (opening(command(7, b"\xff" * 4)), "turn postcopy-ram off at the source, got 'PACKAGED'"),
    "COLO": (opening(command(8)), "turn x-colo off"),
    "a PING of 64 KiB": (opening(command(2, length=65535)), "command PING: expected a length of 4, got 65535"),
    "a PING without a return path": (craft(opening=PING), "main at 33: PING: expected OPEN_RETURN_PATH before it"),
    "no return path": (craft(opening=b""), "set capability return-path at the source"),
    "huge pages": (opening(command(3, u64(PAGE | 1 << 21) + u64(PAGE))), "no block with huge pages while postcopy-ram"),
    "a switchover before START": (opening(SWITCHOVER_START), "SWITCHOVER_START in state setup: expected it in live"),
    "two switchovers": (craft(switchover=SWITCHOVER_START * 2), "SWITCHOVER_START in state switchover"),
    "a type that is none": (opening(b"\x09"), "main at 29: element: expected the type of a section .*, got 9"),
    "the end before RAM": (opening(b"\0"), "main at 29: end of state: expected the END of ram before it"),
}
SECTIONS: Table = {
    "a number of 25 bits": (
        craft(start=header(Phase.START, 1 << 24, b"ram")),
        "a number and a version of at most 1677",
    ),
    "RAM of version 3": (craft(start=header(Phase.START, 2, b"ram", 0, 3)), "one section ram, live, instance 0, vers"),
    "RAM of instance 1": (craft(start=header(Phase.START, 2, b"ram", 1)), "main at 38: section: expected one section"),
    "RAM at once": (craft(start=header(Phase.FULL, 2, b"ram")), "one section ram, live"),
    "RAM twice": (devices(header(Phase.START, 9, b"ram") + EOS), "each START of a device once"),
    "a section of no name": (craft(start=header(Phase.START, 2, b"")), "section's name: expected 1 to 255 bytes"),
    "a name that is no text": (craft(start=header(Phase.START, 2, b"r\xff")), "section's name: .* bytes of UTF-8"),
    "a PART of nothing": (craft(switchover=b"\2\0\0\0\x63"), "PART of a section that has begun with START .* got 99"),
    "a device twice": (devices(serialize(TIMER, TIMER)), "a number that is not in use, as 5 is by timer"),
    "a device with two numbers": (devices(serialize(TIMER) + header(Phase.FULL, 8, b"timer")), "FULL of a device once"),
    "4097 devices": (devices(CROWD), "at most 4096 sections"),
    "a device that does not end": (opening(BEGUN), "end of state: expected an END of dirty-bitmap 0 before it"),
    "another footer": (craft(part_footer=footer(3)), "expected the footer of section 2, got '7e 00 00 00 03'"),
    "no footer": (craft(part_footer=b""), "expected the footer of section 2"),
    "a device too few": (devices(serialize(TIMER)), "cpu 1 with 9 bytes of the VM description did not come"),
    "a device too many": (end(described(TIMER)), "section 2 is cpu 1 .* the VM description does not have"),
    "a device that is longer": (end(described().replace(b'"size": 9', b'"size": 8')), "says cpu 1 with 8 bytes"),
    "a false end": (devices(serialize(FALSE_END, CPU)), "section 9|VM description"),
}
RECORDS: Table = {
    "xbzrle": (part(u64(0x40)), "main at 111: ram record: expected no record of xbzrle"),
    "rdma": (part(u64(0x80)), "main at 111: ram record: expected no record of rdma"),
    "compress": (part(u64(0x100)), "main at 111: ram record: expected no record of compress"),
    "no flags": (part(u64(0)), "one of ZERO, MEM_SIZE, PAGE"),
    "all flags": (part(u64(U64_MAX)), "ram record: expected no record of"),
    "ZERO and PAGE": (part(u64(0x0A) + b"\1m\0"), "one of ZERO, MEM_SIZE, PAGE"),
    "CONTINUE of nothing": (part(zero(0, None)), "a block's name, as no record before it has one"),
    "a ZERO that is not zero": (part(zero(0, fill=1)), "fill value 0 in a ZERO record, got 1"),
    "a ZERO at the block's end": (part(zero(256 * PAGE)), "within block m of 1048576 bytes, got '0x100000'"),
    "a ZERO at the end of the world": (part(zero(END_OF_WORLD)), "an offset within block m"),
    "a ZERO in a run at the block's end": (part(zero(0) + zero(256 * PAGE, None)), "an offset within block m"),
    "a PAGE at the block's end": (part(u64(2 * PAGE | 8) + b"\3rom" + bytes(PAGE)), "an offset within block rom of 81"),
    "a block that there is not": (part(zero(0, b"n")), "a block of the block list, got b'n'"),
    "a block of no name": (part(zero(0, b"")), "a block of the block list"),
    "pages in START": (craft(start_records=zero(0) + MARK + EOS), "ZeroRecords in state start: expected it in"),
    "pages before the blocks": (craft(blocks=zero(0)), "a block of the block list"),
    "another dialect": (craft(start_records=EOS), "ram record 0x200: expected none, since START had none"),
    "a word that is none": (craft(end_records=u64(2**62)), "main at .*: ram record: expected one of"),
}
BLOCKS: Table = {
    "no list": (craft(blocks=b"", start_records=EOS), "the block list before the end of START"),
    "two lists": (craft(start_records=block_list((b"n", PAGE))), "block list: expected one, in START"),
    "a list in PART": (part(block_list((b"n", PAGE))), "main at 111: block list: expected one, in START"),
    "no blocks": (blocks(), r"main at 55: block list: expected a total of 1\.\..* bytes, got 0"),
    "too much RAM": (blocks((b"m", limits.QEMU_RAM_BYTES_MAX + PAGE)), "block list: expected a total of 1"),
    "RAM of 2**64 bytes": (blocks((b"m", PAGE), total=END_OF_WORLD), "block list: expected a total of 1"),
    "an empty block": (blocks((b"m", PAGE), (b"n", 0), total=2 * PAGE), "length of n: .* 4096 that are left .* got 0"),
    "half a page": (blocks((b"m", 2048), total=PAGE), "main at 63: block list, length of m: expected whole pages"),
    "a block beyond the total": (blocks((b"m", 2 * PAGE), total=PAGE), "within the 4096 that are left .* got 8192"),
    "a block beyond all": (blocks((b"m", END_OF_WORLD), total=PAGE), "within the 4096 that are left of the total"),
    "a block twice": (blocks((b"m", PAGE), (b"m", PAGE)), "block list: expected every name once, got 'm'"),
    "4097 blocks": (blocks(*MANY), "block list: expected at most 4096 blocks"),
}
ENDS: Table = {
    "no VM description": (craft(end=b"\0\x08"), "main at 2.*: the footer of section 6|VM description"),
    "a description of no bytes": (end(b""), "footer of section 6|VM description: expected a length of 1"),
    "a description of 4 GiB": (end(b"{", length=U32_MAX), "VM description: expected a length of 1.*, got 4294967295"),
    "no JSON": (end(b"{]"), "main at 243: VM description: expected JSON in UTF-8"),
    "no UTF-8": (end(b'{"devices": "\xff"}'), "main at 257: VM description: expected JSON in UTF-8"),
    "a name with an escape": (named(b"\\u001b[2J"), r"VM description devices\[0\]\.name: .* got '\\x1b\[2J'"),
    "a name with half a character": (named(b"\\ud800"), r"VM description devices\[0\]\.name: .* got '\\ud800'"),
    "a name of a MiB": (named(b"x" * limits.MIB), r"devices\[0\]\.name: expected 1 to 255 bytes"),
    "something behind it": (craft(end=b"\0" + end(described()).main[-9:]), "footer of section 6|VM description"),
}
PACKETS: Table = {
    "another magic": (one(packet(magic=0x11223345)), "channel 0 at 1408: packet.magic: .*, got '0x11223345'"),
    "another version": (one(packet(version=2)), "channel 0 at 1408: packet.version: expected 1, got 2"),
    "a flag that nobody knows": (one(packet((0,), flags=0x80)), "channel 0 at 1408: packet.flags: .* got '0x80'"),
    "the highest flag": (one(packet((0,), flags=1 << 31)), "packet.flags: .* got '0x80000000'"),
    "two compressions": (one(packet((0,), flags=0x06)), "packet.flags: .* got '0x6'"),
    "zlib where there is none": (one(packet((0,), flags=2)), "packet.compression: expected none, .* got 'zlib'"),
    "none where there is zlib": (craft(compression=Compression.ZLIB), "compression: expected zlib, .* got 'none'"),
    "qpl": (
        one(packet((0,), flags=0x08)),
        "packet.compression: expected none, as this side is set; both ends need the same, got 'qpl'",
    ),
    "129 pages of capacity": (one(packet((0,), capacity=129)), "packet.pages_alloc: expected at most 128, got 129"),
    "all capacity": (one(packet((0,), capacity=U32_MAX)), "packet.pages_alloc: expected at most 128"),
    "pages beyond capacity": (one(packet((0,), capacity=1, n=2)), "packet.normal_pages: .* pages_alloc, 1, got 2"),
    "4 billion pages": (one(packet((0,), n=U32_MAX)), "packet.normal_pages: expected at most"),
    "zero pages beyond capacity": (one(packet((0,), capacity=4, z=4)), "packet.zero_pages: expected at most 3"),
    "4 billion zero pages": (one(packet((0,), z=U32_MAX)), "packet.zero_pages: expected at most 127"),
    "no payload": (one(packet((0,), size=0)), "packet.payload_bytes: expected 4096, of 1 pages, got 0"),
    "a payload of 4 GiB": (one(packet((0,), size=U32_MAX)), "packet.payload_bytes: expected 4096"),
    "a block that there is not": (one(packet((0,), block=b"n")), "packet.block: expected one of the block list"),
    "a block of no name": (one(packet((0,), block=b"")), "packet.block: expected a name"),
    "a name without an end": (one(packet((0,), block=b"m" * 256)), r"packet.block: .* 1\.\.255 bytes, then NUL"),
    "a name with something behind": (one(packet((0,), block=b"m\0n")), "packet.block: expected a name"),
    "a name that is no text": (one(packet((0,), block=b"\xff")), "packet.block: expected a name"),
    "half a page": (one(packet((2048,))), "packet.offsets: expected multiples of 4096 below 2"),
    "a page at the block's end": (one(packet((256 * PAGE,))), "packet.offsets: expected a page within the block"),
    "the last page at the block's end": (one(packet((0, 256 * PAGE))), "packet.offsets: expected a page within"),
    "a zero page at the block's end": (one(packet((0,), (256 * PAGE,))), "packet.offsets: expected a page within"),
    "a page at 2**63": (one(packet((1 << 63,))), r"packet.offsets: expected multiples of 4096 below 2\*\*63"),
    "a page at the end of the world": (one(packet((END_OF_WORLD,))), "packet.offsets: expected multiples of 4096"),
    "SYNC with device state": (one(device_packet(flags=0x41)), "packet.flags: expected DEVICE_STATE alone"),
    "device state with zlib": (one(device_packet(flags=0x42)), "packet.flags: expected DEVICE_STATE alone"),
    "device state": (one(device_packet()), "channel 0 at 1688: device .* set x-migration-multifd-transfer=off"),
    "device state of no bytes": (one(device_packet(size=0)), r"packet.payload_bytes: expected 1\.\.16777216, got 0"),
    "device state of 4 GiB": (one(device_packet(size=U32_MAX)), r"packet.payload_bytes: expected 1\.\.16777216"),
    "device state of nobody": (one(device_packet(b"")), "packet.name: expected a name"),
    "pages after the last mark": (craft(late=(packet((0,)), b"")), "channel 0 at .*: packet: expected no pages"),
    "two SYNCs too many": (craft(syncs=(3, 1)), "channel 0 at .*: SYNC: .* each SYNC but one"),
    "garbage in the end": (craft(late=(b"\xff" * 400, b"")), "channel 0 at .*: packet.magic"),
}
PAYLOADS: Table = {
    "zlib that is none": (zlib_packet(b"\xff" * 100), "channel 0 at 1408: packet.payload: .* got 'not zlib"),
    "zlib that ends": (zlib_packet(deflated(bytes(PAGE), finish=True)), "the zlib stream ended"),
    "zlib with a dictionary": (zlib_packet(b"\x78\xbb\0\0\0\1"), "packet.payload: .* got 'not zlib"),
    "zlib of too little": (zlib_packet(deflated(bytes(PAGE - 1))), "4096 bytes were announced, decoding gave 4095"),
    "zlib of a byte too much": (zlib_packet(deflated(bytes(PAGE + 1))), "decoding gave 4097 or more"),
    "zlib that is cut": (zlib_packet(deflated(ALL_BYTES)[:30]), "4096 bytes were announced"),
    "a bomb of zlib": (zlib_packet(deflated(*BOMB)), "4096 bytes .* decoding gave 4097 or more"),
    "zlib of no bytes": (zlib_packet(b""), r"packet.payload_bytes: expected 1\.\.1048576, got 0"),
    "zlib of more than a MiB": (zlib_packet(b"", size=limits.MIB + 1), r"expected 1\.\.1048576, got 1048577"),
    "zstd that is none": (zstd_packet(b"\xff" * 100), "channel 0 at 1408: packet.payload: .* got 'not zstd"),
    "zstd of too little": (zstd_packet(zstandard_of(bytes(PAGE - 1))), "announced, decoding gave 4095"),
    "zstd of a byte too much": (zstd_packet(zstandard_of(bytes(PAGE + 1))), "decoding gave 4097 or more"),
    "zstd that is cut": (zstd_packet(zstandard_of(ALL_BYTES)[:20]), "4096 bytes were announced"),
    "a bomb of zstd": (zstd_packet(zstandard_of(*BOMB)), "4096 bytes .* decoding gave 4097 or more"),
    "a window of 128 MiB": (zstd_packet(zstandard_of(bytes(PAGE), window_log=27)), "not zstd: .*memory"),
    "zstd to be skipped": (zstd_packet(SKIPPABLE * 9), "4096 bytes were announced, decoding gave 0"),
}
HOSTILE: Table = {
    f"{table}: {name}": row
    for table, rows in (
        ("header", HEADER),
        ("command", COMMANDS),
        ("section", SECTIONS),
        ("record", RECORDS),
        ("block", BLOCKS),
        ("end", ENDS),
        ("packet", PACKETS),
        ("payload", PAYLOADS),
    )
    for name, row in rows.items()
}

_STOPPED = "more of the stream after the guest was stopped"
SILENT: Table = {
    "a SYNC too few": (craft(syncs=(1, 0)), "gave up after 60 s waiting for SYNC on channel 1 at mark 2 of main"),
    "no SYNCs": (craft(syncs=(0, 0)), "SYNC on channel 0, 1 at mark 2 of main"),
    "half a packet": (craft(syncs=(0, 1), channels=(GOOD[0][:-1], SYNC)), "SYNC on channel 0 at mark 2 of main"),
    "half a header": (craft(syncs=(0, 1), channels=(GOOD[0][:300], SYNC)), "SYNC on channel 0 at mark 2 of main"),
    "channel 2 of 2": (craft(handshakes=((0, UUID), (2, UUID))), "1 of 2 channels came; is multifd on"),
    "a channel twice": (craft(handshakes=((0, UUID), (0, UUID))), "1 of 2 channels came"),
    "another machine's channel": (craft(handshakes=((0, UUID), (1, b"x" * 16))), "1 of 2 channels came"),
    "another magic": (craft(configuration=b"QEVN"), "the source's main connection"),
    "no VM description": (craft(end=b"\0"), f"{_STOPPED}; a machine with suppress-vmdesc=on sends no VM description"),
    "half a VM description": (craft(end=b"\0\6\0\0\1\0{"), _STOPPED),
    "no end": (craft(end=b""), _STOPPED),
}
"""Of sources that say nothing more in the end, and close nothing."""

assert OPEN_RETURN_PATH in configuration() + craft().main
