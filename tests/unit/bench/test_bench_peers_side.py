"""A side of a peer's run: what it is given, and what it reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bench.peers.side import Side, Task, take_part

TASK = Task(size=100_000, channels=2, congestion="reno")


def side(length: int, channels: int) -> Side:
    memory = memoryview(bytes(range(length)))
    return Side(sends=True, memory=memory, channels=channels, congestion="reno", exchange=str)


def test_pieces_of_all_channels_are_all_of_the_memory() -> None:
    """Channels take turns, the last piece is what is left, and nothing comes twice."""
    made = side(10, 2)
    shares = [[bytes(piece) for piece in made.pieces(3, channel, 2)] for channel in range(2)]
    assert shares == [[b"\x00\x01\x02", b"\x06\x07\x08"], [b"\x03\x04\x05", b"\x09"]]
    assert b"".join(made.pieces(4)) == bytes(range(10))


def test_a_side_meets_the_other_around_its_transfer() -> None:
    """It connects, meets the other, moves, and meets it again before it closes; the source's memory is filled."""
    log: list[str] = []

    @contextlib.contextmanager
    def connect(given: Side) -> Iterator[Callable[[], None]]:
        log.append(f"connect {len(given.memory)} {given.channels}")
        yield lambda: log.append("move")
        log.append("close")

    def exchange(mine: str) -> str:
        log.append(mine)
        return mine

    sent, received = (take_part(TASK, connect, exchange, sends=sends) for sends in (True, False))
    assert log == ["connect 100000 2", "ready", "move", "done", "close"] * 2
    assert sent.ended >= sent.began
    assert sent.digest != received.digest
