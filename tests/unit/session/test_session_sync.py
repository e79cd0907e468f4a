"""The barrier: rounds of a class follow each other one by one, and no class waits for another."""

import pytest

from multifd import limits
from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.messages import Sync, SyncDone
from multifd.session.sync import DestinationBarrier, SourceBarrier


def test_source_rounds_count_from_one_and_wait_for_done() -> None:
    """begin, sent, done; then the next round, with the next number."""
    barrier = SourceBarrier()
    assert barrier.is_done("ram")
    assert barrier.round_of("ram") == 0
    assert barrier.begin("ram") == 1
    assert not barrier.is_done("ram")
    assert barrier.sent("ram", (3, 4)) == Sync("ram", 1, (3, 4))
    assert not barrier.is_done("ram")
    barrier.handle_done(SyncDone("ram", 1))
    assert barrier.is_done("ram")
    assert barrier.begin("ram") == 2
    assert barrier.round_of("ram") == 2


def test_source_classes_do_not_wait_for_each_other() -> None:
    """A round under way in one class does not hold up another's."""
    barrier = SourceBarrier()
    barrier.begin("ram")
    assert barrier.begin("acme/log") == 1
    barrier.sent("acme/log", (0, 1))
    barrier.handle_done(SyncDone("acme/log", 1))
    assert barrier.begin("acme/log") == 2
    assert not barrier.is_done("ram")


def test_source_refuses_misuse() -> None:
    """A second round at once, SYNC without a round, SYNC twice, and counts that fall are this side's faults."""
    barrier = SourceBarrier()
    with pytest.raises(LocalProtocolError):
        barrier.sent("ram", (1,))
    barrier.begin("ram")
    with pytest.raises(LocalProtocolError, match="round 1"):
        barrier.begin("ram")
    barrier.sent("ram", (5,))
    with pytest.raises(LocalProtocolError):
        barrier.sent("ram", (6,))
    with pytest.raises(LocalProtocolError):
        barrier.begin("ram")
    barrier.begin("other")
    with pytest.raises(LocalProtocolError, match="counts"):
        barrier.sent("other", (4,))
    with pytest.raises(LocalProtocolError, match="counts"):
        barrier.sent("other", (5, 1))
    assert barrier.sent("other", (5,)).counts == (5,)


def test_source_refuses_answers_that_answer_nothing() -> None:
    """SYNC_DONE of an unknown class, before SYNC, of a wrong round and for a second time are the peer's faults."""
    barrier = SourceBarrier()
    with pytest.raises(RemoteProtocolError, match="class"):
        barrier.handle_done(SyncDone("ram", 1))
    barrier.begin("ram")
    with pytest.raises(RemoteProtocolError, match="outstanding"):
        barrier.handle_done(SyncDone("ram", 1))
    barrier.sent("ram", (1,))
    for wrong in (0, 2):
        with pytest.raises(RemoteProtocolError, match="round"):
            barrier.handle_done(SyncDone("ram", wrong))
    assert not barrier.is_done("ram")
    barrier.handle_done(SyncDone("ram", 1))
    with pytest.raises(RemoteProtocolError, match="outstanding"):
        barrier.handle_done(SyncDone("ram", 1))


def test_source_classes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than ITEMS_MAX classes."""
    monkeypatch.setattr(limits, "ITEMS_MAX", 2)
    barrier = SourceBarrier()
    barrier.begin("a")
    barrier.begin("b")
    with pytest.raises(LocalProtocolError, match="at most 2"):
        barrier.begin("c")


def test_destination_answers_when_every_channel_has_settled() -> None:
    """SYNC_DONE is due when no channel is short, and once."""
    barrier = DestinationBarrier(2, None)
    barrier.handle_sync(Sync("ram", 1, (3, 4)))
    assert barrier.poll_done([3, 3]) == []
    assert barrier.poll_done([2, 9]) == []
    assert barrier.poll_done([3, 4]) == [SyncDone("ram", 1)]
    assert barrier.poll_done([3, 4]) == []
    barrier.handle_sync(Sync("ram", 2, (3, 4)))
    assert barrier.poll_done([9, 9]) == [SyncDone("ram", 2)]


def test_destination_classes_do_not_wait_for_each_other() -> None:
    """The later SYNC of one class may be settled while another's is not, and the other way round."""
    barrier = DestinationBarrier(1, frozenset({"ram", "log"}))
    barrier.handle_sync(Sync("ram", 1, (3,)))
    barrier.handle_sync(Sync("log", 1, (5,)))
    assert barrier.poll_done([4]) == [SyncDone("ram", 1)]
    assert barrier.poll_done([5]) == [SyncDone("log", 1)]


@pytest.mark.parametrize(
    ("sync", "names"),
    [
        (Sync("nobody", 1, (9, 9)), "class"),
        (Sync("ram", 2, (9, 9)), "wait"),  # round 1 is outstanding
        (Sync("log", 2, (9, 9)), "round"),
        (Sync("log", 0, (9, 9)), "round"),
        (Sync("log", 1, (9,)), "counts"),
        (Sync("log", 1, (9, 9, 9)), "counts"),
        (Sync("log", 1, (9, 3)), "counts"),  # below ram's
    ],
)
def test_destination_refuses_impossible_syncs(sync: Sync, names: str) -> None:
    """Each rule has an error that names what is wrong, and the outstanding SYNC is as it was."""
    barrier = DestinationBarrier(2, frozenset({"ram", "log"}))
    barrier.handle_sync(Sync("ram", 1, (3, 4)))
    with pytest.raises(RemoteProtocolError, match=names):
        barrier.handle_sync(sync)
    assert barrier.poll_done([3, 4]) == [SyncDone("ram", 1)]


def test_destination_refuses_a_round_that_is_over() -> None:
    """The same SYNC again after its SYNC_DONE is not the next round."""
    barrier = DestinationBarrier(1, None)
    barrier.handle_sync(Sync("ram", 1, (0,)))
    assert barrier.poll_done([0]) == [SyncDone("ram", 1)]
    with pytest.raises(RemoteProtocolError, match="round"):
        barrier.handle_sync(Sync("ram", 1, (0,)))


def test_destination_classes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer can't make it remember more than ITEMS_MAX classes."""
    monkeypatch.setattr(limits, "ITEMS_MAX", 2)
    barrier = DestinationBarrier(1, None)
    for name in ("a", "b"):
        barrier.handle_sync(Sync(name, 1, (0,)))
    with pytest.raises(RemoteProtocolError, match="at most 2"):
        barrier.handle_sync(Sync("c", 1, (0,)))


def test_poll_needs_a_count_for_each_channel() -> None:
    """A wrong number of settled counts is this side's fault."""
    with pytest.raises(LocalProtocolError):
        DestinationBarrier(2, None).poll_done([1])
