"""Slots from bytes, through the reader that does no I/O, in as many bytes at a time as one likes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multifd.wire.slots import HEAD_BYTES_MAX, SlotHeader, read_slot

Read = tuple[SlotHeader, bytes, bytes]


def read_from(
    data: bytes,
    *,
    codecs: Sequence[int],
    expect_sequence: int,
    place: Callable[[SlotHeader, bytes], Sequence[memoryview]],
    eager: bool,
) -> tuple[Read | None, int]:
    """The slot, or None if it needs more, and how many bytes it took. `eager`: the reader is given all that it has room
    for, else no more than it must have.
    """
    reader = read_slot(
        memoryview(bytearray(HEAD_BYTES_MAX)), codecs=frozenset(codecs), expect_sequence=expect_sequence, place=place
    )
    taken = 0
    try:
        buffers, least = next(reader)
        while True:
            room = sum(map(len, buffers)) if eager else least
            given = data[taken : taken + room]
            if len(given) < least:
                return None, taken
            fill(buffers, given)
            taken += len(given)
            buffers, least = reader.send(len(given))
    except StopIteration as end:
        header, meta, views, beyond = end.value
        return (header, meta, b"".join(views)), taken - len(beyond)


def fill(buffers: Sequence[memoryview], data: bytes) -> None:
    """Put `data` into them, in their order."""
    for each in buffers:
        part, data = data[: len(each)], data[len(each) :]
        each[: len(part)] = part
