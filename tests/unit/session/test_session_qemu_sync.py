"""The barrier of marks and SYNC packets: the k-th of each belong together, in both dialects."""

from __future__ import annotations

import pytest

from multifd.elements import Phase, SyncDialect
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.session.qemu_sync import SyncBarrier


def met(barrier: SyncBarrier, channels: int) -> None:
    """All channels deliver their SYNC, and everybody goes on."""
    for channel in range(channels):
        barrier.handle_synced(channel, 0)
    assert barrier.poll_release()


def test_main_waits_for_channels() -> None:
    """A mark blocks main until the last channel is there; then all go on, once."""
    barrier = SyncBarrier(2)
    barrier.handle_sync_mark(0)
    barrier.handle_synced(1, 0)
    assert barrier.blocked
    assert not barrier.poll_release()
    assert barrier.missing == [0]
    barrier.handle_synced(0, 0)
    assert barrier.poll_release()
    assert not barrier.blocked
    assert not barrier.poll_release()
    assert barrier.marks == 1


def test_channels_wait_for_main() -> None:
    """Channels that are ahead stay stopped until main has come to its mark, which then holds nobody up."""
    barrier = SyncBarrier(2)
    barrier.handle_synced(0, 0)
    barrier.handle_synced(1, 0)
    assert not barrier.blocked
    assert not barrier.poll_release()
    barrier.handle_sync_mark(0)
    assert barrier.poll_release()


def test_a_mark_in_start_is_per_round() -> None:
    """With a mark in START the ends of sections are none."""
    barrier = SyncBarrier(1)
    barrier.handle_sync_mark(0)
    met(barrier, 1)
    barrier.handle_ram_ends(Phase.START)
    barrier.handle_ram_ends(Phase.PART)
    assert not barrier.blocked
    assert barrier.dialect is SyncDialect.PER_ROUND


def test_no_mark_in_start_is_per_section() -> None:
    """Without a mark in START the end of each section is one, and a mark as such is an error that names its place."""
    barrier = SyncBarrier(1)
    assert barrier.dialect is None
    for phase in (Phase.START, Phase.PART, Phase.END):
        barrier.handle_ram_ends(phase)
        assert barrier.blocked
        met(barrier, 1)
    assert barrier.dialect is SyncDialect.PER_SECTION
    assert barrier.marks == 3
    with pytest.raises(RemoteProtocolError, match="main at 77: ram record 0x200"):
        barrier.handle_sync_mark(77)


@pytest.mark.parametrize("early", [True, False])
def test_one_surplus_sync_is_let_pass(early: bool) -> None:
    """At main's end each channel may have one SYNC more, whether it was there before or comes after; not two."""
    barrier = SyncBarrier(2)
    barrier.handle_sync_mark(0)
    met(barrier, 2)
    if early:
        barrier.handle_synced(1, 0)
    barrier.finish()
    if not early:
        barrier.handle_synced(1, 0)
    barrier.handle_synced(0, 0)
    with pytest.raises(RemoteProtocolError, match="channel 1 at 99: SYNC"):
        barrier.handle_synced(1, 99)


def test_calls_that_cant_be_are_ours() -> None:
    """A worker that reads on although it stopped, an unknown channel, and a mark too many are faults of this side."""
    barrier = SyncBarrier(2)
    barrier.handle_synced(0, 0)
    for channel in (0, 2, -1):
        with pytest.raises(LocalProtocolError):
            barrier.handle_synced(channel, 0)
    with pytest.raises(LocalProtocolError, match="START first"):
        barrier.handle_ram_ends(Phase.PART)
    barrier.handle_sync_mark(0)
    with pytest.raises(LocalProtocolError, match="sync mark"):
        barrier.handle_sync_mark(0)
    with pytest.raises(LocalProtocolError, match="end of main"):
        barrier.finish()
    barrier.handle_synced(1, 0)
    assert barrier.poll_release()
    barrier.finish()
    with pytest.raises(LocalProtocolError, match="sync mark"):
        barrier.handle_sync_mark(0)
