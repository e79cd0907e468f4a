"""The return path: three messages both ways, and nothing else."""

from __future__ import annotations

import tracemalloc

import pytest

from multifd.elements import Pong, ReturnMessage, Shut, SwitchoverAck
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.wire.qemu_return import ReturnReader, serialize_return

FRAMES: list[tuple[ReturnMessage, str]] = [
    (Shut(0), "0001 0004 00000000"),
    (Shut(1), "0001 0004 00000001"),
    (Pong(0xFFFFFFFF), "0002 0004 ffffffff"),
    (SwitchoverAck(), "0007 0000"),
]
ALL = b"".join(bytes.fromhex(frame) for _message, frame in FRAMES)


@pytest.mark.parametrize(("message", "frame"), FRAMES)
def test_frames_both_ways(message: ReturnMessage, frame: str) -> None:
    """Each frame stands as section 9 has it."""
    assert serialize_return(message) == bytes.fromhex(frame)
    assert list(ReturnReader().feed(bytes.fromhex(frame))) == [message]


@pytest.mark.parametrize("step", [1, 3, 5, len(ALL)])
def test_cut_anywhere(step: int) -> None:
    """The same messages come, however the bytes do."""
    reader = ReturnReader()
    messages = [message for at in range(0, len(ALL), step) for message in reader.feed(memoryview(ALL)[at : at + step])]
    assert messages == [message for message, _frame in FRAMES]
    assert reader.offset == len(ALL)
    reader.end()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("0000 0000", "frame.type"),
        ("0008 0000", "frame.type"),
        ("ffff 0200", "frame.type"),
        ("0003 0010", "REQ_PAGES_ID of postcopy"),
        ("0004 000c", "REQ_PAGES of postcopy"),
        ("0005 0003", "RECV_BITMAP of postcopy"),
        ("0006 0004", "RESUME_ACK of postcopy"),
        ("0001 0003", "frame.length"),
        ("0001 0000", "frame.length"),
        ("0002 0008", "frame.length"),
        ("0002 ffff", "frame.length"),
        ("0007 0001", "frame.length"),
    ],
)
def test_anything_else_is_refused(header: str, words: str) -> None:
    """As soon as type and length are there, after what came before, and from then on at every call."""
    reader = ReturnReader()
    messages = reader.feed(ALL + bytes.fromhex(header))
    assert [next(messages) for _ in FRAMES] == [message for message, _frame in FRAMES]
    with pytest.raises(RemoteProtocolError, match=f"return path at {len(ALL)}: .*{words}"):
        next(messages)
    for attempt in (lambda: list(reader.feed(ALL)), reader.end):
        with pytest.raises(RemoteProtocolError, match=words):
            attempt()


@pytest.mark.parametrize("length", [1, 3, 4, 7])
def test_end_inside_a_frame(length: int) -> None:
    """A return path ends between frames."""
    reader = ReturnReader()
    assert list(reader.feed(ALL[:length])) == []
    with pytest.raises(RemoteProtocolError, match="return path at 0: frame"):
        reader.end()


@pytest.mark.parametrize("message", [Shut(-1), Pong(1 << 32)])
def test_values_have_32_bits(message: ReturnMessage) -> None:
    """Nothing else is written."""
    with pytest.raises(LocalProtocolError):
        serialize_return(message)


def test_frames_that_passed_are_forgotten() -> None:
    """A destination that acknowledges for ever takes no memory, cut inside a frame or not."""
    reader = ReturnReader()
    acks = serialize_return(SwitchoverAck()) * 1000
    list(reader.feed(acks[:1]))
    tracemalloc.start()
    try:
        for _ in range(30):
            assert sum(1 for _ in reader.feed(acks[1:] + acks[:1])) == 1000
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(acks)
