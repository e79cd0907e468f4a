"""Codecs: what goes in comes out, what does not shrink stays plain, and no payload takes more than its length."""

import os
import random
import tracemalloc

import lz4.block
import pytest
import zstandard

from multifd.codec import CODECS, create
from multifd.codec.interface import Codec
from multifd.limits import SLOT_BYTES_MAX, ZSTD_BLOCKS_FOLLOWED_MAX

TEXT = b"".join(b"page %d of a memory that is quite regular, " % n for n in range(2000))


def made(name: str) -> Codec:
    codec = create(name)
    assert codec is not None
    return codec


def cut(memory: bytearray, pieces: int) -> list[memoryview]:
    """`memory` as so many views, the last one longer or shorter."""
    step = max(1, len(memory) // pieces)
    starts = range(0, len(memory), step)
    return [memoryview(memory)[start : start + step] for start in starts]


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return made(request.param)


@pytest.mark.parametrize("pieces", [1, 2, 7, 128])
def test_round_trip(codec: Codec, pieces: int) -> None:
    """Buffers, one or many, decode into buffers that are cut otherwise."""
    encoded = codec.encode(cut(bytearray(TEXT), pieces), len(TEXT))
    assert encoded is not None
    assert len(encoded) < len(TEXT)
    memory = bytearray(len(TEXT))
    codec.decode(memoryview(encoded), cut(memory, 129 - pieces), len(TEXT))
    assert memory == TEXT


def test_one_object_serves_slot_after_slot(codec: Codec) -> None:
    """Nothing is kept between slots, not even after an error."""
    for length in (len(TEXT), 1000, 70000):
        encoded = codec.encode([TEXT[:length]], length)
        assert encoded is not None
        memory = bytearray(length)
        with pytest.raises(ValueError, match=r"zstd|lz4"):
            codec.decode(memoryview(encoded)[:-1], [memoryview(memory)], length)
        codec.decode(memoryview(encoded), [memoryview(memory)], length)
        assert memory == TEXT[:length]


@pytest.mark.parametrize("data", [b"", b"a", os.urandom(4096)], ids=["empty", "a byte", "random"])
def test_what_does_not_shrink_travels_plain(codec: Codec, data: bytes) -> None:
    """None in place of an encoding that is not smaller."""
    assert codec.encode([data], len(data)) is None


def test_equal_length_is_not_smaller(codec: Codec) -> None:
    """An encoding that takes exactly the length does not shrink; one byte less does."""
    encoded = codec.encode([TEXT], len(TEXT))
    assert encoded is not None
    assert codec.encode([TEXT], len(encoded)) is None
    assert codec.encode([TEXT], len(encoded) + 1) == encoded


def test_encodes_a_copy(codec: Codec) -> None:
    """What is written to the buffers after `encode` does not show in what it returned."""
    live = bytearray(TEXT)
    encoded = codec.encode([live], len(live))
    assert encoded is not None
    kept = bytes(encoded)
    live[:] = bytes(len(live))
    assert encoded == kept
    memory = bytearray(len(TEXT))
    codec.decode(memoryview(encoded), [memoryview(memory)], len(TEXT))
    assert memory == TEXT


def test_refuses_any_other_length(codec: Codec) -> None:
    """More or fewer bytes than were announced are an error, and nothing is written beside the buffer."""
    encoded = codec.encode([TEXT], len(TEXT))
    assert encoded is not None
    for length in (1, len(TEXT) - 1, len(TEXT) + 1, SLOT_BYTES_MAX):
        memory = bytearray(length + 2)
        with pytest.raises(ValueError, match=r"zstd|lz4|decoding"):
            codec.decode(memoryview(encoded), [memoryview(memory)[1:-1]], length)
        assert memory[0] == memory[-1] == 0


def test_refuses_truncation_and_trailing_bytes(codec: Codec) -> None:
    """A payload is one encoding, whole, and nothing after it."""
    encoded = codec.encode([TEXT[:5000]], 5000)
    assert encoded is not None
    whole = bytes(encoded)
    memory = memoryview(bytearray(5000))
    for payload in (*(whole[:length] for length in range(len(whole))), whole + b"\x00", whole + whole):
        with pytest.raises(ValueError, match=r"zstd|lz4|decoding"):
            codec.decode(memoryview(payload), [memory], 5000)


def test_any_bytes_give_the_length_or_value_error(codec: Codec) -> None:
    """Random and damaged payloads never raise anything else."""
    encoded = codec.encode([TEXT[:5000]], 5000)
    assert encoded is not None
    chance = random.Random(1)
    memory = memoryview(bytearray(5000))
    for _ in range(300):
        payload = bytearray(encoded) if chance.random() < 0.7 else bytearray(chance.randbytes(chance.randrange(60)))
        for _ in range(chance.randrange(4)):
            if payload:
                payload[chance.randrange(len(payload))] = chance.randrange(256)
        try:
            codec.decode(memoryview(payload), [memory], 5000)
        except ValueError:
            continue


def frames() -> list[tuple[bytes, bytes]]:
    """zstd frames and what is in them: one block and many, runs, with a checksum, without a size, more blocks than are
    followed.
    """
    contents = [TEXT, bytes(300_000), b"x" * 300_000, os.urandom(200_000) + TEXT]
    made_by = [
        zstandard.ZstdCompressor(level=level, write_checksum=checked, write_content_size=sized)
        for level in (1, 3)
        for checked in (True, False)
        for sized in (True, False)
    ]
    found = [(compressor.compress(content), content) for compressor in made_by for content in contents]
    many = zstandard.ZstdCompressor(level=1).compressobj(size=len(TEXT))
    pieces = [TEXT[start : start + 200] for start in range(0, len(TEXT), 200)]
    assert len(pieces) > ZSTD_BLOCKS_FOLLOWED_MAX
    blocks = [many.compress(piece) + many.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces]
    return [*found, (b"".join(blocks) + many.flush(), TEXT)]


@pytest.mark.parametrize(("frame", "content"), frames())
def test_zstd_frames_of_any_form_are_whole_or_refused(frame: bytes, content: bytes) -> None:
    """In place or not, a frame gives its content; cut short or followed by anything it is refused."""
    zstd = made("zstd")
    for pieces in (1, 3):
        memory = bytearray(len(content))
        zstd.decode(memoryview(frame), cut(memory, pieces), len(content))
        assert memory == content
    memory = bytearray(len(content))
    for wrong in (frame[:-1], frame[:-4], frame[: len(frame) // 2], frame + b"\x00", frame + frame):
        with pytest.raises(ValueError, match=r"zstd|decoding"):
            zstd.decode(memoryview(wrong), [memoryview(memory)], len(content))


def test_zstd_in_place_agrees_with_the_library() -> None:
    """Of damaged frames the same are taken in place as at once, with the same content."""
    chance = random.Random(2)
    zstd, library = made("zstd"), zstandard.ZstdDecompressor(max_window_size=1 << 23)
    for frame, content in frames():
        for _ in range(40):
            damaged = bytearray(frame)
            for _ in range(chance.randrange(1, 3)):
                damaged[chance.randrange(min(len(damaged), chance.choice((16, len(damaged)))))] ^= chance.randrange(256)
            memory = bytearray(len(content))
            try:
                zstd.decode(memoryview(damaged), [memoryview(memory)], len(content))
            except ValueError:
                continue
            assert memory == library.decompress(damaged, max_output_size=len(content), allow_extra_data=False)


def bombs() -> list[bytes]:
    """zstd payloads that would take gigabytes: by what the header says, by what is in them, by their window."""
    claims = bytes.fromhex("28b52ffd" + "e0") + (1 << 40).to_bytes(8, "little") + bytes.fromhex("010000")
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(64 << 20))
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return [claims, unsized, stream.compress(TEXT) + stream.flush()]


@pytest.mark.parametrize("bomb", bombs(), ids=["claims a tebibyte", "holds 64 MiB", "wants a window of 128 MiB"])
def test_zstd_bombs_take_no_memory(bomb: bytes) -> None:
    """Memory is bounded by the announced length, whatever a frame claims or holds."""
    zstd = made("zstd")
    memory = memoryview(bytearray(len(TEXT)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="zstd"):
            zstd.decode(memoryview(bomb), [memory], len(TEXT))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(TEXT)
    finally:
        tracemalloc.stop()


def test_reads_what_other_encoders_write() -> None:
    """zstd at other levels, with a checksum or without a size, and lz4's slow mode decode as well."""
    zstd_payloads = [
        zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=sized).compress(TEXT)
        for level in (-5, 3, 12)
        for sized in (True, False)
    ]
    payloads = [("zstd", payload) for payload in zstd_payloads]
    payloads.append(("lz4", lz4.block.compress(TEXT, mode="high_compression", store_size=False)))
    payloads.append(("lz4", lz4.block.compress(TEXT, store_size=False)))
    for name, payload in payloads:
        memory = bytearray(len(TEXT))
        made(name).decode(memoryview(payload), [memoryview(memory)], len(TEXT))
        assert memory == TEXT


def test_names_and_numbers() -> None:
    """Numbers are the specification's; `none` has no object; an unknown name is an error that lists the known ones."""
    assert {name: codec.number for name, codec in CODECS.items()} == {"zstd": 2, "lz4": 3}
    assert create("none") is None
    with pytest.raises(ValueError, match=r"'gzip'.*none, zstd, lz4"):
        create("gzip")
    assert create("zstd") is not create("zstd")


def test_levels_of_zstd() -> None:
    """`zstd:LEVEL` is zstd on the wire; a higher level is smaller, and what is no level is an error."""
    payloads = [made(name).encode([TEXT], len(TEXT)) for name in ("zstd", "zstd:1", "zstd:9")]
    assert payloads[0] == payloads[1]
    assert len(payloads[2] or b"") < len(payloads[1] or b"")
    assert made("zstd:9").number == made("zstd").number
    for wrong in ("zstd:", "zstd:0", "zstd:10", "zstd:-1", "zstd:1x", "none:1", "auto"):
        with pytest.raises(ValueError, match="there is no"):
            create(wrong)


@pytest.mark.parametrize("length", [1, 7, 8, 4096, 70000])
@pytest.mark.parametrize("pieces", [1, 3])
def test_zeros_but_for_one_byte_are_not_zeros(codec: Codec, length: int, pieces: int) -> None:
    """Zeros have a short way of their own, which nothing else takes, wherever the byte is that is not zero."""
    for place in (None, 0, length // 2, length - 1, length // 3):
        memory = bytearray(length)
        if place is not None:
            memory[place] = 1
        encoded = codec.encode(cut(memory, pieces), length)
        if encoded is not None:
            decoded = bytearray(length)
            codec.decode(memoryview(encoded), [memoryview(decoded)], length)
            assert decoded == memory
