"""A connection, plain and under TLS, on both loops: bytes, backlog, losses, ends, and the way to a thread."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import tls_directories
import uvloop
from connection_pair import Pair, connected

from multifd import limits
from multifd.engine.tls_socket import TlsDataSocket
from multifd.engine.transport import DataSocket
from multifd.errors import LocalProtocolError, TransportError

WAIT_S = 5.0
BLOCKED = 8 * limits.MIB
"""More than both sockets' buffers take while nobody reads."""
PATTERN = bytes(range(256)) * (BLOCKED // 256)

Scenario = Callable[[Pair], Awaitable[None]]


@pytest.fixture(params=["plain", "tls"])
def secure(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tls")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest, secure: bool) -> Callable[[Scenario], None]:
    """Runs a scenario with a pair, on either loop."""

    async def bounded(scenario: Scenario) -> None:
        tls = (tls_directories.client(), tls_directories.server()) if secure else (None, None)
        async with asyncio.timeout(WAIT_S), connected(*tls) as pair:
            await scenario(pair)

    return lambda scenario: request.param(bounded(scenario))


Play = Callable[[Scenario], None]


# -- bytes


def test_bytes_arrive_in_order_both_ways(play: Play) -> None:
    """More than the sockets hold, in both directions at a time, the backlog counted until it has left."""

    async def scenario(pair: Pair) -> None:
        for each in pair:
            each.write(PATTERN)
            each.write(b"the end")
            assert 0 < each.backlog < len(PATTERN)
        got = await asyncio.gather(*(each.read_exactly(len(PATTERN) + 7) for each in pair))
        assert got == [PATTERN + b"the end"] * 2
        for each in pair:
            await each.drain(0)
            assert each.backlog == 0

    play(scenario)


def test_many_small_writes_that_wait_arrive_whole(play: Play) -> None:
    """They grow the backlog while TLS wants the piece again that it was given first."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(PATTERN)
        for number in range(10_000):
            ours.write(struct.pack("<I", number))
        await theirs.read_exactly(len(PATTERN))
        got = await theirs.read_exactly(40_000)
        assert got == struct.pack("<10000I", *range(10_000))

    play(scenario)


def test_a_read_takes_what_was_asked_for_and_leaves_the_rest(play: Play) -> None:
    """One byte at a time too, when TLS has decrypted more already and the socket has nothing to say."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(b"abcdef")
        assert [await theirs.read(1) for _ in range(6)] == [b"a", b"b", b"c", b"d", b"e", b"f"]

    play(scenario)


def test_a_read_that_is_cancelled_loses_nothing(play: Play) -> None:
    """What comes later is the next read's."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        reading = asyncio.create_task(theirs.read(100))
        await asyncio.sleep(0)
        reading.cancel()
        ours.write(b"here")
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await theirs.read(100) == b"here"

    play(scenario)


def test_a_flood_leaves_others_their_turn(play: Play) -> None:
    """A reader that is always given something does not keep the loop for itself."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(PATTERN)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        left, reads = len(PATTERN), 0
        while left:
            left -= len(await theirs.read(64 * limits.KIB))
            reads += 1
        assert turns >= len(PATTERN) // (64 * limits.KIB)
        other.cancel()

    play(scenario)


def test_two_readers_are_a_mistake(play: Play) -> None:
    """The second one is told."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        reading = asyncio.create_task(theirs.read(1))
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError, match="one reader"):
            await theirs.read(1)
        ours.write(b"x")
        assert await reading == b"x"

    play(scenario)


def test_drain_waits_until_little_is_left(play: Play) -> None:
    """Not for the last byte, unless it is asked for."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(PATTERN)
        draining = asyncio.create_task(ours.drain(BLOCKED // 4))
        await asyncio.sleep(0)
        assert not draining.done()
        reading = asyncio.create_task(theirs.read_exactly(len(PATTERN)))
        await draining
        assert ours.backlog <= BLOCKED // 4
        await reading

    play(scenario)


# -- ends


def test_an_end_is_no_bytes(play: Play) -> None:
    """After all that was written; what is exactly to be read is missing then."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(b"last")
        closing = asyncio.create_task(ours.close())
        assert await theirs.read(100) == b"last"
        assert await theirs.read(100) == b""
        theirs.name = "channel 3"
        with pytest.raises(TransportError, match="channel 3 ended after 0 of 5 bytes"):
            await theirs.read_exactly(5)
        theirs.abort()
        await closing

    play(scenario)


def test_closing_sends_what_is_left_first(play: Play) -> None:
    """All of a backlog, if the peer reads."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(PATTERN)
        assert ours.backlog
        closing = asyncio.create_task(ours.close())
        assert await theirs.read_exactly(len(PATTERN)) == PATTERN
        assert await theirs.read(1) == b""
        await theirs.close()
        await closing

    play(scenario)


def test_closing_waits_for_the_peer_but_not_for_ever(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that neither reads nor closes is left after `LAST_WORDS_S`."""
    monkeypatch.setattr(limits, "LAST_WORDS_S", 0.02)

    async def scenario(pair: Pair) -> None:
        ours, _ = pair
        ours.write(PATTERN)
        await ours.close()
        assert ours.is_closed

    play(scenario)


def test_what_is_closed_here_is_told_to_who_reads_and_who_writes(play: Play) -> None:
    """The reader finds the end, the writer an error; closing again is nothing."""

    async def scenario(pair: Pair) -> None:
        ours, _ = pair
        reading = asyncio.create_task(ours.read(100))
        await asyncio.sleep(0)
        ours.abort()
        assert await reading == b""
        assert await ours.read(100) == b""
        with pytest.raises(TransportError, match="was closed"):
            ours.write(b"x")
        ours.abort()

    play(scenario)


def test_closing_ends_a_read_that_waits(play: Play) -> None:
    """And then waits for the peer itself, which may still have something to say."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        reading = asyncio.create_task(ours.read(100))
        await asyncio.sleep(0)
        closing = asyncio.create_task(ours.close())
        assert await reading == b""
        assert not closing.done()
        assert await theirs.read(100) == b""
        theirs.write(b"unheard")
        await theirs.close()
        await closing

    play(scenario)


def test_what_is_closed_is_not_drained(play: Play) -> None:
    """Nobody is told that what was lost has left."""

    async def scenario(pair: Pair) -> None:
        ours, _ = pair
        ours.write(PATTERN)
        draining = asyncio.create_task(ours.drain(0))
        await asyncio.sleep(0)
        ours.abort()
        with pytest.raises(TransportError, match="was closed"):
            await draining

    play(scenario)


def test_a_reset_is_an_error_for_all(play: Play) -> None:
    """Who reads, who writes afterwards, and who waits until all has left."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(PATTERN)
        draining = asyncio.create_task(ours.drain(0))
        await asyncio.sleep(0)
        theirs._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.abort()
        with pytest.raises(TransportError, match="the connection was lost: "):
            await draining
        with pytest.raises(TransportError, match="the connection was lost: "):
            ours.write(b"x")
        assert ours.backlog == 0

    play(scenario)


def test_last_words_are_read_after_a_write_that_failed(play: Play) -> None:
    """The write that finds the loss does not raise: the reader comes first to what the peer said before it went."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        theirs.write(b"it is over, because")
        theirs.abort()
        error: TransportError | None = None
        while error is None:  # until the peer's reset is here
            try:
                ours.write(b"x")
            except TransportError as raised:
                error = raised
            else:
                await asyncio.sleep(0)
        assert await ours.read(100) == b"it is over, because"

    play(scenario)


def test_a_reader_hears_of_a_loss_that_only_the_writer_found(play: Play) -> None:
    """However the two directions went: it does not wait for ever."""

    async def scenario(pair: Pair) -> None:
        ours, _ = pair
        reading = asyncio.create_task(ours.read(1))
        await asyncio.sleep(0)
        ours._lose(OSError("found by a write"))
        with pytest.raises(TransportError, match="found by a write"):
            await reading

    play(scenario)


# -- to a thread


def test_a_connection_goes_to_a_thread_between_two_bytes(play: Play, secure: bool) -> None:
    """What was read before is gone, what follows is the worker's, though TLS had decrypted it already."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(b"preamble" + b"slot")
        assert await theirs.read_exactly(8) == b"preamble"
        sender, receiver = ours.detach(), theirs.detach()
        assert isinstance(receiver, TlsDataSocket if secure else DataSocket)
        assert receiver.security.startswith("TLS 1." if secure else "plain")
        got = bytearray(4 + BLOCKED)

        def receive() -> bool:
            return receiver.receive([memoryview(got)[:100], memoryview(got)[100:]])

        assert (await asyncio.gather(asyncio.to_thread(receive), asyncio.to_thread(sender.send, [PATTERN])))[0]
        assert bytes(got) == b"slot" + PATTERN
        for each in (sender, receiver):
            each.close()

    play(scenario)


def test_what_is_under_way_is_not_handed_over(play: Play) -> None:
    """Bytes that are still to be sent, or somebody who reads."""

    async def scenario(pair: Pair) -> None:
        ours, theirs = pair
        ours.write(PATTERN)
        with pytest.raises(LocalProtocolError, match="detach"):
            ours.detach()
        reading = asyncio.create_task(ours.read(1))
        await theirs.read_exactly(len(PATTERN))
        await ours.drain(0)
        with pytest.raises(LocalProtocolError, match="detach"):
            ours.detach()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        ours.detach().close()

    play(scenario)
