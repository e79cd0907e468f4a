"""The channels of the captured streams in proto/vectors/qemu: what is in them, RAM in the end, and the way back."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from multifd.codec.streams import create_decoder
from multifd.elements import (
    BlockList,
    Compression,
    Handshake,
    Offsets,
    Packet,
    RamBlock,
    RamEnds,
    RamPacket,
    StreamElement,
    SyncMark,
    ZeroRecords,
)
from multifd.wire.qemu_channel import ChannelReader
from multifd.wire.qemu_packet import serialize_handshake, serialize_ram_header
from multifd.wire.qemu_return import ReturnReader, serialize_return
from multifd.wire.qemu_stream import StreamReader

ROOT = Path(__file__).parents[2] / "proto/vectors/qemu"
NAMES = sorted(path.parent.name for path in ROOT.glob("*/meta.json"))
PAGE = 4096
HEADER = 1344

assert NAMES, "there are no captured streams"
pytestmark = pytest.mark.parametrize("name", NAMES)


def meta_of(name: str) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((ROOT / name / "meta.json").read_text(encoding="utf-8"))
    return meta


def stored(name: str, stream: str) -> bytes:
    data = (ROOT / name / f"{stream}.bin.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def pieces(data: bytes, seed: str | None) -> Iterator[memoryview]:
    """`data` whole, or cut at random places."""
    chance = random.Random(seed)
    at = 0
    while at < len(data):
        most = len(data) if seed is None else chance.choice((7, 276, 1344, 5000, 70000, 1 << 20))
        length = len(data) if seed is None else chance.randint(1, most)
        yield memoryview(data)[at : at + length]
        at += length


class Ram:
    """Memory of all blocks, which begins as zero."""

    def __init__(self, blocks: Sequence[RamBlock]) -> None:
        self.memory = {block.name: memoryview(bytearray(block.length)) for block in blocks}

    def pages(self, block: str, offsets: Offsets) -> list[memoryview]:
        memory = self.memory[block]
        return [memory[at : at + PAGE] for at in offsets.tolist()]

    def place(self, packet: RamPacket) -> list[memoryview]:
        return self.pages(packet.block, packet.normal)

    def clear(self, block: str, offsets: Offsets) -> None:
        for page in self.pages(block, offsets):
            page[:] = bytes(PAGE)


def channel_items(name: str, channel: int, ram: Ram, seed: str | None) -> Iterator[Handshake | Packet]:
    """All of a channel, to its end."""
    data = stored(name, f"channel{channel}")
    reader = ChannelReader(page_size=PAGE, create_decoder=create_decoder, place=ram.place)
    for piece in pieces(data, seed):
        yield from reader.feed(piece)
    reader.end()
    assert reader.offset == len(data)
    assert reader.compression in (None, Compression[meta_of(name)["multifd-compression"].upper()])


def main_elements(name: str) -> list[StreamElement]:
    return list(StreamReader(description=meta_of(name)["vmdesc"]).feed(stored(name, "main")))


def zeros_by_round(elements: Sequence[StreamElement]) -> list[list[ZeroRecords]]:
    """Zero records on main, between its sync points."""
    marks: type[StreamElement] = SyncMark if any(isinstance(each, SyncMark) for each in elements) else RamEnds
    rounds: list[list[ZeroRecords]] = [[]]
    for each in elements:
        if isinstance(each, ZeroRecords):
            rounds[-1].append(each)
        elif isinstance(each, marks):
            rounds.append([])
    return rounds


def empty_ram(elements: Sequence[StreamElement]) -> Ram:
    (blocks,) = (each.blocks for each in elements if isinstance(each, BlockList))
    return Ram(blocks)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_ram_in_the_end(name: str, cut: bool) -> None:
    """Round by round, all channels and the zero pages of main give the source's RAM; packets are as many as counted."""
    elements, meta = main_elements(name), meta_of(name)
    ram, counts = empty_ram(elements), Counter[str]()
    channels = [channel_items(name, n, ram, name if cut else None) for n in range(meta["multifd-channels"])]
    assert [next(channel) for channel in channels] == [
        Handshake(bytes.fromhex(meta.get("uuid", "").replace("-", "")) or bytes(16), n) for n in range(len(channels))
    ]
    for records in zeros_by_round(elements):
        for record in records:
            ram.clear(record.block, record.offsets)
        for channel in channels:
            for packet in channel:
                assert isinstance(packet, RamPacket)
                counts["packets"] += 1
                counts["pages"] += len(packet.normal)
                counts["zero"] += len(packet.zero)
                counts["wire"] += HEADER + packet.payload_bytes
                counts["sync_packets"] += packet.sync
                counts["sync_with_data"] += packet.sync and bool(packet.block)
                counts["empty_nosync"] += not packet.sync and not packet.block
                if packet.block:
                    ram.clear(packet.block, packet.zero)
                if packet.sync:
                    break
    counted = meta.get("stats", {})
    assert {key: counts[key] for key in counts if key in counted} == {
        key: counted[key] for key in counts if key in counted
    }
    lines = (ROOT / name / "ram.sha256").read_text(encoding="utf-8").splitlines()
    digests = {block: digest for digest, block, _length in map(str.split, lines)}
    assert {block: hashlib.sha256(ram.memory[block]).hexdigest() for block in digests} == digests


def header_again(packet: RamPacket, original: bytes, *, old: bool) -> bytes:
    """Written from the packet. Sources before 9.0 leave old offsets behind those in use, put pages into SYNC packets,
    and leave everything as it was in packets without pages: there the original is taken.
    """
    if not old:
        return serialize_ram_header(packet, PAGE)
    if packet.sync or not packet.block:
        return original
    used = 320 + 8 * len(packet.normal)
    return serialize_ram_header(packet, PAGE)[:used] + original[used:]


def test_channels_are_written_as_they_were(name: str) -> None:
    """Handshakes, headers and plain pages come back byte for byte; what encoders made is theirs."""
    meta = meta_of(name)
    ram = empty_ram(main_elements(name))
    for channel in range(meta["multifd-channels"]):
        data, at = stored(name, f"channel{channel}"), 0
        for item in channel_items(name, channel, ram, name):
            if isinstance(item, Handshake):
                written = serialize_handshake(item)
            else:
                assert isinstance(item, RamPacket)
                payload_at = at + HEADER
                written = header_again(item, data[at:payload_at], old=meta["qemu"].startswith("7."))
                if item.compression is Compression.NONE:
                    written += b"".join(ram.place(item)) if item.block else b""
                else:
                    written += data[payload_at : payload_at + item.payload_bytes]
            assert data[at : at + len(written)] == written
            at += len(written)
        assert at == len(data)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_return_path_comes_back(name: str, cut: bool) -> None:
    """Every message, whole or cut, is written as it was."""
    data, reader = stored(name, "return-path"), ReturnReader()
    messages = [message for piece in pieces(data, name if cut else None) for message in reader.feed(piece)]
    reader.end()
    assert b"".join(map(serialize_return, messages)) == data
