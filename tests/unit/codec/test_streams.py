"""One compression stream a channel: packets decode to what went in, and no payload takes more than its pages."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
import zstandard

from multifd.codec.streams import Decoder, Encoder, create_decoder, create_encoder
from multifd.elements import Compression
from multifd.limits import QEMU_PACKET_BYTES, QEMU_PAYLOAD_BYTES_MAX, QEMU_ZSTD_WINDOW_BYTES_MAX

TEXT = b"".join(b"page %d of a memory that is quite regular, " % n for n in range(13000))[:QEMU_PACKET_BYTES]
RANDOM = random.Random(1).randbytes(QEMU_PACKET_BYTES)
COMPRESSIONS = [Compression.ZLIB, Compression.ZSTD]


def encoder_of(compression: Compression, level: int = 1) -> Encoder:
    encoder = create_encoder(compression, level)
    assert encoder is not None
    return encoder


def decoder_of(compression: Compression) -> Decoder:
    decoder = create_decoder(compression)
    assert decoder is not None
    return decoder


def cut(memory: bytearray | bytes, pieces: int) -> list[memoryview]:
    """`memory` as so many views, the last one longer or shorter."""
    step = max(1, len(memory) // pieces)
    return [memoryview(memory)[start : start + step] for start in range(0, len(memory), step)]


def decode(decoder: Decoder, payload: bytes, length: int, pieces: int = 1) -> bytes:
    memory = bytearray(length)
    decoder.decode(memoryview(payload), cut(memory, pieces))
    return bytes(memory)


@pytest.fixture(params=COMPRESSIONS, ids=lambda each: each.name.lower())
def compression(request: pytest.FixtureRequest) -> Compression:
    each: Compression = request.param
    return each


def test_none_has_no_objects() -> None:
    """Such payload goes from and to memory itself."""
    assert create_decoder(Compression.NONE) is None
    assert create_encoder(Compression.NONE) is None


@pytest.mark.parametrize("pieces", [1, 3, 128])
def test_packets_come_back(compression: Compression, pieces: int) -> None:
    """Packet after packet of one stream, full or a page long, that shrink or not, into views that are cut otherwise."""
    encoder, decoder = encoder_of(compression), decoder_of(compression)
    for data in (TEXT, bytes(4096), RANDOM, TEXT[:4096], RANDOM[:8192], TEXT, bytes(QEMU_PACKET_BYTES)):
        payload = encoder.encode(cut(data, pieces))
        assert 0 < len(payload) <= QEMU_PAYLOAD_BYTES_MAX
        assert decode(decoder, payload, len(data), 129 - pieces) == data


def test_streams_go_on_from_packet_to_packet(compression: Compression) -> None:
    """Only the first payload begins a stream, and what stood in one packet makes the next one smaller."""
    begins = {Compression.ZLIB: b"\x78\x01", Compression.ZSTD: b"\x28\xb5\x2f\xfd"}[compression]
    encoder = encoder_of(compression)
    first, second = (encoder.encode([RANDOM[:16384]]) for _ in range(2))
    assert first.startswith(begins)
    assert not second.startswith(begins)
    assert len(second) < len(first) / 10


def test_zlib_packets_end_with_a_sync_flush() -> None:
    """As section 7 has it, and the library alone reads them."""
    encoder, library = encoder_of(Compression.ZLIB), zlib.decompressobj()
    for data in (TEXT, RANDOM, bytes(4096)):
        payload = encoder.encode(cut(data, 2))
        assert payload.endswith(b"\x00\x00\xff\xff")
        assert library.decompress(payload) == data
        assert not library.eof


def test_zstd_packets_are_one_frame() -> None:
    """The library alone reads them; the frame says no size and is not ended."""
    encoder, library = encoder_of(Compression.ZSTD), zstandard.ZstdDecompressor().decompressobj()
    for data in (TEXT, RANDOM, bytes(4096)):
        assert library.decompress(encoder.encode(cut(data, 2))) == data
        assert not library.eof


@pytest.mark.parametrize(
    ("compression", "level"),
    [(Compression.ZLIB, 0), (Compression.ZLIB, 9), (Compression.ZSTD, 0), (Compression.ZSTD, 20)],
)
def test_levels(compression: Compression, level: int) -> None:
    """What QEMU has, from end to end, can be decoded, and fits its buffers."""
    encoder, decoder = encoder_of(compression, level), decoder_of(compression)
    for data in (RANDOM[:65536], TEXT[:65536]):
        payload = encoder.encode([data])
        assert len(payload) < len(data) * 1.01 + 64
        assert decode(decoder, payload, len(data)) == data


@pytest.mark.parametrize(
    ("compression", "level"), [(Compression.ZLIB, 10), (Compression.ZSTD, 21), (Compression.ZSTD, -1)]
)
def test_other_levels_are_refused(compression: Compression, level: int) -> None:
    """QEMU has not got them either."""
    with pytest.raises(ValueError, match="levels"):
        create_encoder(compression, level)


def refused(decoder: Decoder, payload: bytes, length: int, words: str | None = None) -> None:
    """It is refused, and nothing was written."""
    memory = bytearray(b"x" * length)
    with pytest.raises(ValueError, match=words):
        decoder.decode(memoryview(payload), [memoryview(memory)])
    assert memory == b"x" * length


@pytest.mark.parametrize("data", [TEXT, RANDOM, bytes(QEMU_PACKET_BYTES)], ids=["text", "random", "zeros"])
@pytest.mark.parametrize("off", [-4096, -1, 1, 4096])
def test_other_lengths_are_refused(compression: Compression, data: bytes, off: int) -> None:
    """Longer or shorter than the pages by a byte or a page, in the first packet and in a later one."""
    encoder = encoder_of(compression)
    first, second = encoder.encode([data]), encoder.encode([data])
    refused(decoder_of(compression), first, len(data) + off, "announced")
    decoder = decoder_of(compression)
    assert decode(decoder, first, len(data)) == data
    refused(decoder, second, len(data) + off, "announced")


@pytest.mark.parametrize("missing", [6, 100, QEMU_PACKET_BYTES - 10, QEMU_PACKET_BYTES])
def test_cut_payloads_are_refused(compression: Compression, missing: int) -> None:
    """A payload without its last bytes, or with hardly any: what is missing does not come with the next packet."""
    payload = encoder_of(compression).encode([RANDOM])  # its last five bytes are zlib's flush, which adds nothing
    refused(decoder_of(compression), payload[:-missing], len(RANDOM), "announced")


def test_two_packets_in_one_are_refused(compression: Compression) -> None:
    """Its pages are there, and then come more."""
    encoder = encoder_of(compression)
    payload = encoder.encode([TEXT]) + encoder.encode([TEXT])
    refused(decoder_of(compression), payload, len(TEXT), "announced")


@pytest.mark.parametrize("payload", [b"\x00", b"GET / HTTP/1.1\r\n", bytes(4096), b"\xff" * 100])
def test_garbage_is_refused(compression: Compression, payload: bytes) -> None:
    """Also in the middle of a good stream."""
    refused(decoder_of(compression), payload, 4096)
    decoder = decoder_of(compression)
    decode(decoder, encoder_of(compression).encode([TEXT]), len(TEXT))
    refused(decoder, payload, 4096)


@pytest.mark.parametrize("tail", [b"", b"more", zlib.compress(TEXT)])
def test_zlib_stream_that_ends_is_refused(tail: bytes) -> None:
    """It goes on for as long as the channel does: no packet could follow."""
    refused(decoder_of(Compression.ZLIB), zlib.compress(TEXT) + tail, len(TEXT), "ended")


def test_zstd_frames_that_end_have_the_same_bound() -> None:
    """Many frames in a payload give no more than one."""
    payload = zstandard.compress(bytes(131072)) * 1000
    refused(decoder_of(Compression.ZSTD), payload, QEMU_PACKET_BYTES, "or more|ended")


def bomb(compression: Compression) -> bytes:
    """Two hundred MiB of zeros, in what a packet's payload may have."""
    encoder = encoder_of(compression)
    zeros = bytes(1 << 22)
    return b"".join(encoder.encode([zeros]) for _ in range(50))


def test_bombs_take_no_memory(compression: Compression) -> None:
    """Decoding stops where the pages end, whatever the payload would give."""
    payload = bomb(compression)
    assert len(payload) < QEMU_PAYLOAD_BYTES_MAX
    decoder = decoder_of(compression)
    tracemalloc.start()
    try:
        refused(decoder, payload, QEMU_PACKET_BYTES, "or more")
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * QEMU_PACKET_BYTES


@pytest.mark.parametrize(("bits", "taken"), [(25, True), (26, False)])
def test_zstd_windows_have_a_bound(bits: int, taken: bool) -> None:
    """A frame that asks for more memory than level 20 does is refused before it gets it."""
    assert QEMU_ZSTD_WINDOW_BYTES_MAX == 1 << 25
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=bits)
    library = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    payload = library.compress(TEXT) + library.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    if taken:
        assert decode(decoder_of(Compression.ZSTD), payload, len(TEXT)) == TEXT
    else:
        refused(decoder_of(Compression.ZSTD), payload, len(TEXT), "not zstd")


def test_payload_may_be_overwritten_between_packets(compression: Compression) -> None:
    """A channel has one buffer for all payloads: nothing of the last one is looked at again."""
    encoder, decoder = encoder_of(compression), decoder_of(compression)
    buffer = memoryview(bytearray(QEMU_PAYLOAD_BYTES_MAX))
    for data in (TEXT, RANDOM, TEXT):
        payload: Sequence[int] = encoder.encode([data])
        buffer[: len(payload)] = bytes(payload)
        memory = bytearray(len(data))
        decoder.decode(buffer[: len(payload)], [memoryview(memory)])
        assert memory == data
        buffer[:] = bytes(len(buffer))
