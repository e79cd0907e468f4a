"""What of main a relay lets go on: all while the guest runs, whole sections after that, the end when it is time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu_machines import state_of

from multifd import elements as e
from multifd.elements import CommandNumber, Phase
from multifd.errors import RemoteProtocolError
from multifd.qemu.relay_gate import MainGate
from multifd.wire.qemu_serialize import serialize

STATE = state_of()
LIVE: tuple[e.StreamElement, ...] = (
    STATE.configuration,
    e.Command(CommandNumber.OPEN_RETURN_PATH),
    *STATE.early,
    e.RamBegins(Phase.START, STATE.ram),
    e.BlockList(STATE.blocks),
    e.SyncMark(),
    e.RamEnds(Phase.START),
    e.RamBegins(Phase.PART, STATE.ram),
    e.RamEnds(Phase.PART),
)
STOPPED: tuple[e.StreamElement, ...] = (
    e.Command(CommandNumber.SWITCHOVER_START),
    e.RamBegins(Phase.END, STATE.ram),
    e.RamEnds(Phase.END),
)
END: tuple[e.StreamElement, ...] = (e.EndOfState(), e.Description(STATE.description or b""))
BODY = serialize(*LIVE, *STOPPED, *STATE.sections)
STREAM = BODY + serialize(*END)


def elements(gate: MainGate, data: bytes) -> list[e.StreamElement]:
    return list(gate.feed(data))


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_nothing_is_changed_and_the_end_waits(cuts: list[int]) -> None:
    """However the stream is cut: the far end gets the same bytes, never more than came, and `00` only by `last`."""
    gate = MainGate()
    passed = b""
    edges = [0, *sorted(cuts), len(STREAM)]
    for begin, end in itertools.pairwise(edges):
        elements(gate, STREAM[begin:end])
        passed += gate.take()
        assert STREAM.startswith(passed)
        assert len(passed) <= min(end, len(BODY))
        assert (gate.came_bytes, gate.passed_bytes) == (end, len(passed))
    assert gate.whole
    assert passed == BODY
    assert passed + gate.last() == STREAM
    gate.end()


def test_while_the_guest_runs_nothing_waits() -> None:
    """Every byte goes on when it comes: parts of elements, and a footer that lags."""
    gate = MainGate()
    live = serialize(*LIVE)
    for at in range(len(live)):
        elements(gate, live[at : at + 1])
        assert gate.take() == live[at : at + 1]


@given(st.integers(1, 40))
def test_a_mark_waits(size: int) -> None:
    """Until it is let go the far end does not have all of it; everything before it goes on."""
    old = tuple(each for each in LIVE if not isinstance(each, e.SyncMark))
    for stream, kind in ((LIVE, e.SyncMark), (old, e.RamEnds)):
        data = serialize(*stream)
        at = [len(serialize(*stream[: count + 1])) for count, each in enumerate(stream) if isinstance(each, kind)]
        ends = [end - 5 * (kind is e.RamEnds) for end in at]  # a footer follows
        gate = MainGate()
        passed = b""
        for begin in range(0, len(data), size):
            for element in gate.feed(data[begin : begin + size]):
                if isinstance(element, kind):
                    passed += gate.take_before_mark()
                    end = ends.pop(0)
                    assert end - 8 <= len(passed) < end
            passed += gate.take()
        assert not ends
        assert passed == data


def test_a_section_goes_on_when_it_is_whole() -> None:
    """The far end never has a byte that could be the end of the stream before its time."""
    gate = MainGate()
    elements(gate, serialize(*LIVE, *STOPPED))
    gate.take()
    section = serialize(STATE.sections[0])
    elements(gate, section + b"\0")
    assert gate.take() in (b"", serialize(*LIVE, *STOPPED)[-5:])  # the footer of ram, at most
    assert not gate.whole


def test_without_a_description_the_end_is_one_byte() -> None:
    """A machine with suppress-vmdesc=on."""
    gate = MainGate(description=False)
    elements(gate, BODY + b"\0")
    assert gate.take() == BODY
    assert gate.whole
    assert gate.last() == b"\0"


def test_a_stream_that_breaks_a_rule_goes_no_further() -> None:
    """What was before it has gone on."""
    gate = MainGate()
    with pytest.raises(RemoteProtocolError):
        elements(gate, serialize(*LIVE) + b"\x55" * 9)
    gate = MainGate()
    elements(gate, STREAM)
    with pytest.raises(RemoteProtocolError):
        elements(gate, b"more")
    with pytest.raises(RemoteProtocolError, match="end of the stream"):
        MainGate().end()
