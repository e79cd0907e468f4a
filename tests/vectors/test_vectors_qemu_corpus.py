"""Whatever is done to the streams of a QEMU, a destination completes or ends with a typed error that names the place.

What is done, and which changes are harmless and why, is in `qemu_corpus` (by rule, from the captures) and in
`qemu_hostile` (by hand, with the words that the error must have). MULTIFD_CORPUS=all takes all of it and many more
random changes: an hour.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from qemu_corpus import ANY, CAPTURES, FAMILIES, Row, Streams, random_changes, rows, thin, whole
from qemu_crafted import UUID, craft
from qemu_hostile import HOSTILE, SILENT
from qemu_offline import TYPED, Ending, Offline

from multifd import elements as e
from multifd import limits
from multifd.errors import DeadlineError, RemoteProtocolError
from multifd.qemu.capture import Capture
from multifd.qemu.lint import Linter
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_states import QemuDestinationState

pytestmark = pytest.mark.slow

ALL = os.environ.get("MULTIFD_CORPUS") == "all"
SOME = CAPTURES if ALL else ("10.0-none-ignore-shared", "10.0-none-novmdesc", "7.2-zlib-running")
"""They have among them: addresses and capabilities, no VM description, ZERO records, both sync dialects, compressed
payload, packets of the old form.
"""
SLOW = "10.0-none-switchover-ack"
"""It has 1369 PARTs."""
EACH, CHANNELS, RANDOM = (3, 2, 20000) if ALL else (1, 1, 60)
TEXT_MAX = 1000
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
D = QemuDestinationState
MAY_WAIT = frozenset({D.SETUP, D.BLOCKS, D.START, D.LIVE, D.PART, D.COMPLETED, D.FAILED})
"""States without a deadline: nothing is waited for, or for a source whose guest runs, which may be told to take its
time; one that has died is noticed by its connections.
"""


def ending_of(row: Row) -> Ending:
    """Half of the sources hold their connections in the end."""
    return Offline(row.streams()).run(silent=bool(zlib.crc32(row.name.encode()) & 1))


def wrong_with(row: Row, ending: Ending) -> str:
    """What is not as it should be in how a row ended, in words."""
    error, text = ending.error, ending.text
    shuts = [reply for reply in ending.replies if isinstance(reply, e.Shut)]
    if not ending.waits and ending.state not in MAY_WAIT:
        return f"nothing was waited for with a deadline in state {ending.state.value}"
    if error is None:
        return "" if row.harmless and shuts == [e.Shut(0)] else f"it completed with {shuts}"
    if type(error) not in TYPED:
        return f"it ended with {error!r}"
    if shuts != ([e.Shut(1)] if ending.refused else []):
        return f"it failed with {shuts}: {text}"
    if CONTROL.search(text) or len(text) > TEXT_MAX:
        return f"a text that can't be shown: {text!r:.200}"
    if isinstance(error, RemoteProtocolError) and ending.where is None:
        return f"no place: {text}"
    if ending.where is not None and ending.where[0] == row.stream and ending.where[1] < row.earliest:
        return f"a place before the fault: {text}"
    return ""


class Recorded(Capture):
    """Streams as if they had been captured."""

    def __init__(self, streams: Streams) -> None:
        self.directory = Path()
        self.channels = len(streams.channels)
        self._streams = streams

    def stream(self, name: str, piece_bytes: int = 1 << 20) -> Iterator[bytes]:
        data = b"" if name == "return-path" else self._streams.get(name)
        return (data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes))


def check(some: Iterable[Row]) -> None:
    """All of them end as they should; the first few that do not are shown."""
    found = [(row.name, wrong_with(row, ending_of(row))) for row in some]
    wrong = [f"{name}: {words}" for name, words in found if words]
    assert found, "there are no rows"
    assert not wrong, f"{len(wrong)} of {len(found)}:\n" + "\n".join(wrong[:10])


@pytest.mark.parametrize("capture", CAPTURES)
def test_captures_complete(capture: str) -> None:
    """What the rows are made of is right: each capture completes, whole and with most of its RAM left out."""
    for streams in (whole(capture), thin(capture)):
        ending = Offline(streams).run()
        assert ending.error is None
        assert ending.replies[-1] == e.Shut(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("capture", SOME)
def test_broken_by_rule(capture: str, family: str) -> None:
    """Every field at its extremes; streams cut and prolonged; elements dropped, doubled and swapped."""
    check(rows(capture, family, each=EACH, channels=CHANNELS))


@pytest.mark.parametrize("capture", [each for each in CAPTURES if ALL or each != SLOW])
def test_broken_at_random(capture: str) -> None:
    """Random changes, the same every time."""
    check(random_changes(capture, RANDOM))


@pytest.mark.parametrize("family", ["cuts", "tails", "disorder", "random"])
@pytest.mark.parametrize("capture", SOME)
def test_inspected(capture: str, family: str) -> None:
    """Who only looks at a capture is told what is wrong with it, in words that can be shown."""
    some = (
        rows(capture, family, each=EACH, channels=CHANNELS) if family in FAMILIES else random_changes(capture, RANDOM)
    )
    for row in some:
        streams = row.streams()
        linter = Linter(Recorded(streams), description=streams.description)
        linter.run()
        assert row.harmless or linter.violations, row.name
        assert not any(CONTROL.search(each.where + each.text) for each in linter.violations), row.name


def test_the_table_of_harmless_changes_is_true() -> None:
    """Of each field that stands in it some other value is taken."""
    taken = set()
    for capture in SOME:
        for row in rows(capture, "extremes", each=1, channels=1):
            if row.kind in ANY and row.kind not in taken and ending_of(row).error is None:
                taken.add(row.kind)
    assert taken == set(ANY)


def test_a_migration_made_by_hand_completes() -> None:
    """What the hostile ones are made of is right."""
    ending = Offline(craft()).run()
    assert ending.error is None
    assert ending.replies == (e.Pong(1), e.Shut(0))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    """The error names the place and the rule, at once, and the source is told SHUT 1 if it can be."""
    streams, words = HOSTILE[name]
    ending = Offline(streams).run()
    assert re.search(words, ending.text)
    row = Row(name, "", "", 0, 0, b"", harmless=False, earliest=0)
    assert not wrong_with(row, ending)


@pytest.mark.parametrize("name", SILENT)
def test_silent(name: str) -> None:
    """A source that owes something and says nothing more is given up, and the error says what it owes."""
    streams, words = SILENT[name]
    ending = Offline(streams).run(silent=True)
    assert ending.waits
    assert isinstance(ending.error, DeadlineError)
    assert re.search(words, ending.text)


@pytest.mark.parametrize("handshake", [e.Handshake(UUID, 2), e.Handshake(b"x" * 16, 1)])
def test_channels_that_are_dropped_begin_no_wait(handshake: e.Handshake) -> None:
    """A stranger's channel is as if it had not been there: the destination waits for a source as long as before."""
    session = QemuDestinationSession(DestinationRules(2, uuid=UUID), lambda _: ())
    with pytest.raises(RemoteProtocolError):
        session.handle_channel(handshake, 0.0)
    assert session.wake_at is None
    session.handle_channel(e.Handshake(UUID, 1), 5.0)
    assert session.wake_at == 5.0 + limits.QEMU_SETUP_DEADLINE_S
