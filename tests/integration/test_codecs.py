"""Which codecs a session uses: what the source asks for, of what the destination has."""

from __future__ import annotations

import asyncio

import pytest

import multifd
from multifd.errors import Code, RefusedError
from multifd.stats import Outcome

SIZE = 4 << 20
TEXT = b"".join(b"%d is a number that is written out, with words around it\n" % n for n in range(80_000))[:SIZE]


async def migrate(codec: str, codecs: tuple[str, ...]) -> tuple[multifd.Report, multifd.Report]:
    """Text from one memory to another, which is compared."""
    here, there = bytearray(TEXT), bytearray(SIZE)
    listener = await multifd.listen("tcp://127.0.0.1:0")
    source = multifd.Source(
        str(listener.address),
        blocks=[multifd.BufferBlock("text", here, tracker="none")],
        options=multifd.SourceOptions(codec=codec, channels=2, slot_bytes=64 << 10),
    )
    destination = multifd.Destination(
        listener,
        blocks=[multifd.BufferBlock("text", there)],
        options=multifd.DestinationOptions(codecs=codecs),
    )
    receiving = asyncio.create_task(destination.run())
    try:
        reports = await source.run(), await receiving
    finally:
        receiving.cancel()  # a source that is refused at HELLO is nobody that it has seen
        await asyncio.gather(receiving, return_exceptions=True)
        await listener.close()
    assert there == here
    return reports


@pytest.mark.parametrize(
    ("codecs", "sent", "received"),
    [
        (("zstd", "lz4"), ["none", "lz4", "zstd", "zstd:3"], ["none", "zstd", "lz4"]),
        (("lz4",), ["none", "lz4"], ["none", "lz4"]),
        ((), ["none"], ["none"]),
    ],
)
async def test_auto_uses_what_the_destination_has(
    codecs: tuple[str, ...], sent: list[str], received: list[str]
) -> None:
    """Nothing else is used, and both reports say what could have been, and what was."""
    here, there = await migrate("auto", codecs)
    assert (here.outcome, here.codec, there.codec) == (Outcome.COMPLETED, "auto", "auto")
    assert (list(here.codecs), list(there.codecs)) == (sent, received)
    assert sum(tally.bytes for tally in here.codecs.values()) == SIZE
    assert sum(tally.wire_bytes for tally in here.codecs.values()) == here.bytes_sent == there.bytes_sent


async def test_a_level_is_the_source_s_own() -> None:
    """The destination is told of zstd, and knows nothing of levels."""
    here, there = await migrate("zstd:3", ("zstd",))
    assert (here.codec, there.codec) == ("zstd:3", "zstd")
    assert here.codecs["zstd:3"] == there.codecs["zstd"]
    assert here.codecs["zstd:3"].slots == SIZE >> 16


async def test_a_codec_that_the_destination_lacks_is_refused() -> None:
    """A source that asks for one codec gets that or nothing."""
    with pytest.raises(multifd.MigrationRefusedError, match="zstd") as refused:
        await migrate("zstd:3", ("lz4",))
    assert isinstance(refused.value.__cause__, RefusedError)
    assert refused.value.__cause__.refusals[0].code is Code.FEATURE
