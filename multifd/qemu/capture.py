"""A captured migration: a folder with what went over each connection, as in `proto/vectors/qemu/`.

`main.bin` (source to destination), `channel0.bin`, `channel1.bin`, ... and `return-path.bin` (destination to source),
each as it is or compressed with zstd (`.bin.zst`). No return path, or an empty one: the source did not ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import zstandard

from multifd.elements import DevicePacket, Handshake, Packet
from multifd.errors import RemoteProtocolError, StorageError
from multifd.limits import MIB, QEMU_CHANNELS_MAX, QEMU_ZSTD_WINDOW_BYTES_MAX
from multifd.qemu.report import ChannelTally
from multifd.wire.qemu_channel import ChannelReader

MAIN = "main"
RETURN_PATH = "return-path"
_PIECE_BYTES = MIB


class Capture:
    """A folder of captured streams. Raises `StorageError` for a folder that is none, or a file that can't be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.channels = 0
        if self._find(MAIN) is None:
            raise StorageError(f'"{directory}" is no capture: it has no main.bin or main.bin.zst')
        while self.channels < QEMU_CHANNELS_MAX and self._find(f"channel{self.channels}") is not None:
            self.channels += 1

    @staticmethod
    def is_capture(directory: Path) -> bool:
        """Whether there is a main stream in it."""
        return any((directory / f"{MAIN}.bin{suffix}").is_file() for suffix in ("", ".zst"))

    def stream(self, name: str, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
        """The bytes of one stream (`main`, `channel3`, `return-path`) in pieces; none if it is not there."""
        path = self._find(name)
        if path is None:
            return
        try:
            with path.open("rb") as file:
                if path.suffix == ".zst":
                    decompressor = zstandard.ZstdDecompressor(max_window_size=QEMU_ZSTD_WINDOW_BYTES_MAX)
                    with decompressor.stream_reader(file, read_across_frames=True) as reader:
                        while piece := reader.read(piece_bytes):
                            yield piece
                else:
                    while piece := file.read(piece_bytes):
                        yield piece
        except (OSError, zstandard.ZstdError) as error:
            raise StorageError(f'can\'t read "{path}": {error}') from error

    def _find(self, name: str) -> Path | None:
        for suffix in (".bin", ".bin.zst"):
            path = self.directory / f"{name}{suffix}"
            if path.is_file():
                return path
        return None


class CapturedChannel:
    """One channel of a capture, read up to its next SYNC at a time."""

    def __init__(self, number: int, pieces: Iterator[bytes], reader: ChannelReader) -> None:
        self.number = number
        self.reader = reader
        self.tally = ChannelTally()
        self.device_packets = 0
        self._items = self._read(pieces)

    def handshake(self) -> Handshake:
        """The first thing on it. Raises `RemoteProtocolError`."""
        item = next(self._items, None)
        if not isinstance(item, Handshake):
            raise RemoteProtocolError(f"channel {self.number} at 0", "a handshake")
        return item

    def packets(self) -> Iterator[Packet]:
        """What is left of it, in order. Raises `RemoteProtocolError`."""
        for item in self._items:
            assert not isinstance(item, Handshake)
            self._count(item)
            yield item

    def _read(self, pieces: Iterator[bytes]) -> Iterator[Handshake | Packet]:
        for piece in pieces:
            yield from self.reader.feed(piece)
        self.reader.end()

    def _count(self, packet: Packet) -> None:
        self.tally.packets += 1
        self.tally.wire_bytes = self.reader.offset
        if isinstance(packet, DevicePacket):
            self.device_packets += 1
            return
        self.tally.normal_pages += len(packet.normal)
        self.tally.zero_pages += len(packet.zero)
        self.tally.syncs += packet.sync
        self.tally.payload_bytes += packet.payload_bytes
