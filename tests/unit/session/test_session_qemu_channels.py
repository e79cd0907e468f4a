"""The roll of channels: each number once, one UUID, and words for what did not come."""

from __future__ import annotations

import pytest

from multifd.elements import Handshake
from multifd.errors import RemoteProtocolError
from multifd.session.qemu_channels import ChannelRoll

UUID, OTHER = bytes(range(16)), bytes(16)


def test_channels_come_in_any_order() -> None:
    """Numbers are taken from handshakes; the roll is complete with the last."""
    roll = ChannelRoll(3, None)
    assert roll.missing() == "all channels: 0 of 3 channels came; is multifd on at the source, and multifd-channels 3?"
    for channel in (2, 0, 1):
        assert not roll.complete
        roll.handle_handshake(Handshake(UUID, channel))
    assert roll.complete
    assert roll.uuid == UUID
    assert roll.missing() == "the source's main connection"


@pytest.mark.parametrize(
    ("handshake", "words"),
    [
        (Handshake(UUID, 2), "channel: expected a channel below 2; multifd-channels must be the same"),
        (Handshake(UUID, 0), "channel: expected each channel once, got 0"),
        (Handshake(OTHER, 1), "uuid"),
    ],
)
def test_what_cant_be_is_turned_away(handshake: Handshake, words: str) -> None:
    """A number out of range or twice, or another machine's UUID, is refused, remembered, and changes nothing."""
    roll = ChannelRoll(2, None)
    roll.handle_handshake(Handshake(UUID, 0))
    with pytest.raises(RemoteProtocolError, match=words):
        roll.handle_handshake(handshake)
    assert roll.there == {0}
    assert words.split(":", maxsplit=1)[0] in roll.dropped
    roll.handle_handshake(Handshake(UUID, 1))
    assert roll.complete


def test_early_ones_give_way() -> None:
    """Those that contradict a later one: the same number, or all of another machine; never for one that can't be."""
    roll = ChannelRoll(3, None)
    for handshake, forgotten, there in (
        (Handshake(OTHER, 0), set(), {0}),
        (Handshake(OTHER, 1), set(), {0, 1}),
        (Handshake(OTHER, 1), {1}, {0, 1}),
        (Handshake(UUID, 2), {0, 1}, {2}),
        (Handshake(UUID, 0), set(), {0, 2}),
    ):
        assert roll.handle_handshake(handshake, early=True) == forgotten
        assert roll.there == there
    with pytest.raises(RemoteProtocolError, match="below 3"):
        roll.handle_handshake(Handshake(OTHER, 3))
    assert roll.handle_handshake(Handshake(UUID, 2)) == {2}
    with pytest.raises(RemoteProtocolError, match="once"):
        roll.handle_handshake(Handshake(UUID, 2))
    with pytest.raises(RemoteProtocolError, match="uuid"):
        roll.handle_handshake(Handshake(OTHER, 1))
    assert (roll.there, roll.uuid) == ({0, 2}, UUID)
    roll.settle()
    with pytest.raises(RemoteProtocolError, match="once"):
        roll.handle_handshake(Handshake(UUID, 0))


@pytest.mark.parametrize("from_main", [False, True])
def test_nobody_gives_way_to_another_machine_than_the_expected(from_main: bool) -> None:
    """Whether it was known from the first or main has said it."""
    roll = ChannelRoll(2, None if from_main else UUID)
    roll.handle_handshake(Handshake(UUID, 0), early=True)
    if from_main:
        roll.expect(UUID)
    with pytest.raises(RemoteProtocolError, match="uuid"):
        roll.handle_handshake(Handshake(OTHER, 1))
    assert (roll.there, roll.uuid) == ({0}, UUID)


def test_an_expected_uuid_counts_from_the_first() -> None:
    """Who knows the machine's UUID takes no channel of another."""
    roll = ChannelRoll(1, UUID)
    with pytest.raises(RemoteProtocolError, match="uuid"):
        roll.handle_handshake(Handshake(OTHER, 0))
