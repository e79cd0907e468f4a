"""Compression of QEMU's dialect: one stream for all payload of a channel, flushed at the end of each packet
(proto/qemu.md section 7). An object belongs to one channel's thread; its calls release the GIL.

Both libraries fill memory of their own, which is then copied into place: the copy takes a fraction of the decoding.
zlib knows no other way. zstd could write into place, but where its output just fits, python-zstandard neither hands out
nor reports what it still holds inside.
"""

from __future__ import annotations

import abc
import zlib
from collections.abc import Sequence
from typing import IO, cast

import zstandard

from multifd.codec.interface import scatter
from multifd.elements import Compression
from multifd.limits import QEMU_ZSTD_WINDOW_BYTES_MAX
from multifd.slot import Buffer

LEVEL = 1
"""QEMU's default for both."""
_ZLIB_LEVEL_MAX = 9
_ZSTD_LEVEL_MAX = 20  # of QEMU's parameter; higher ones ask more of a decoder than `QEMU_ZSTD_WINDOW_BYTES_MAX`


class Decoder(abc.ABC):
    """Decodes the packets of one channel, in their order."""

    @abc.abstractmethod
    def decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        """Decode a packet's `payload` into `targets`.

        Raises `ValueError` if it does not fill them exactly, or is not used up by that. `targets` are then as they
        were, and the decoder is of no more use. Takes no more memory than `targets` have, and the library's window.
        """


class Encoder(abc.ABC):
    """Encodes the packets of one channel, in their order."""

    @abc.abstractmethod
    def encode(self, views: Sequence[Buffer]) -> bytes:
        """A packet's payload: `views` in their order. Nobody may write to them during the call.

        Of bytes that don't shrink it is longer than they are, by less than one part in a hundred (and 64 bytes).
        """


def create_decoder(compression: Compression) -> Decoder | None:
    """A decoder for one channel; None for `NONE`."""
    return {Compression.NONE: lambda: None, Compression.ZLIB: ZlibDecoder, Compression.ZSTD: ZstdDecoder}[compression]()


def create_encoder(compression: Compression, level: int = LEVEL) -> Encoder | None:
    """An encoder for one channel; None for `NONE`. Raises `ValueError` for a level that QEMU has not either."""
    if compression is Compression.NONE:
        return None
    return ZlibEncoder(level) if compression is Compression.ZLIB else ZstdEncoder(level)


class ZlibDecoder(Decoder):
    """One zlib stream (RFC 1950), never finished."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        """See `Decoder.decode`."""
        length = sum(map(len, targets))
        try:
            # room for one byte more: with room left zlib takes all input, the flush's last bytes too
            decoded = self._stream.decompress(payload, length + 1)
        except zlib.error as error:
            raise ValueError(f"not zlib: {error}") from None
        if self._stream.eof:
            raise ValueError("the zlib stream ended")
        _check_length(len(decoded), length)
        scatter(decoded, targets, length)


class ZlibEncoder(Encoder):
    """One zlib stream with a sync flush after each packet."""

    def __init__(self, level: int = LEVEL) -> None:
        _check_level(level, _ZLIB_LEVEL_MAX)
        self._stream = zlib.compressobj(level)

    def encode(self, views: Sequence[Buffer]) -> bytes:
        """See `Encoder.encode`."""
        parts = [self._stream.compress(view) for view in views]
        return b"".join((*parts, self._stream.flush(zlib.Z_SYNC_FLUSH)))


class _PayloadUsedUpError(Exception):
    pass


class _Payload:
    """What the zstd reader reads: one payload at a time. It asks for more when it has used that up, and would take an
    empty answer for the end of the frame: so it gets an exception, which leaves it as it was.
    """

    def __init__(self) -> None:
        self.payload: memoryview | None = None

    def read(self, _size: int) -> memoryview:
        """All of the payload, the first time."""
        payload, self.payload = self.payload, None
        if payload is None:
            raise _PayloadUsedUpError
        return payload


class ZstdDecoder(Decoder):
    """One Zstandard frame (RFC 8878), which nobody ends; like QEMU it would take another one after it."""

    def __init__(self) -> None:
        self._source = _Payload()
        decompressor = zstandard.ZstdDecompressor(max_window_size=QEMU_ZSTD_WINDOW_BYTES_MAX)
        self._stream = decompressor.stream_reader(cast("IO[bytes]", self._source))  # it uses `read` alone
        self._decoded = memoryview(bytearray(1))

    def decode(self, payload: memoryview, targets: Sequence[memoryview]) -> None:
        """See `Decoder.decode`."""
        length = sum(map(len, targets))
        if len(self._decoded) <= length:
            self._decoded = memoryview(bytearray(length + 1))
        self._source.payload = payload
        try:
            produced = self._read(length + 1)
        except zstandard.ZstdError as error:
            raise ValueError(f"not zstd: {error}") from None
        _check_length(produced, length)
        position = 0
        for target in targets:
            target[:] = self._decoded[position : position + len(target)]
            position += len(target)

    def _read(self, most: int) -> int:
        """Decode until the payload is used up, but no more than `most` bytes; how many there were.

        With room left, what was not produced is not in the payload: neither reader nor library hold anything back.
        """
        produced = 0
        try:
            while produced < most:
                count = self._stream.readinto1(self._decoded[produced:most])
                if not count:
                    raise ValueError("the zstd stream ended")
                produced += count
        except _PayloadUsedUpError:
            pass
        return produced


class ZstdEncoder(Encoder):
    """One Zstandard frame with a block flush after each packet."""

    def __init__(self, level: int = LEVEL) -> None:
        _check_level(level, _ZSTD_LEVEL_MAX)
        self._stream = zstandard.ZstdCompressor(level=level).compressobj()

    def encode(self, views: Sequence[Buffer]) -> bytes:
        """See `Encoder.encode`."""
        parts = [self._stream.compress(view) for view in views]
        return b"".join((*parts, self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)))


def _check_level(level: int, most: int) -> None:
    if not 0 <= level <= most:
        raise ValueError(f"levels are 0..{most}, not {level}")


def _check_length(decoded: int, length: int) -> None:
    if decoded != length:
        more = " or more" if decoded > length else ""
        raise ValueError(f"{length} bytes were announced, decoding gave {decoded}{more}")
