"""The scheduler: shares follow weights, nothing is saved up by the idle, and the bandwidth limit holds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from multifd.errors import LocalProtocolError
from multifd.session.scheduler import BURST_S, EMPTY_COST_BYTES, QUANTUM_BYTES, Scheduler

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Piece:
    length: int
    number: int = 0


def endless(length: int) -> Iterator[Piece]:
    return (Piece(length, number) for number in count())


def make(weights: dict[str, int], bandwidth_limit: int | None = None) -> Scheduler:
    scheduler = Scheduler(bandwidth_limit=bandwidth_limit)
    for name, weight in weights.items():
        scheduler.add_flow(name, weight)
    return scheduler


def draw(scheduler: Scheduler, pieces: int, now: float = 0.0) -> list[tuple[str, Piece]]:
    drawn = []
    for _ in range(pieces):
        found = scheduler.next_work(now)
        assert found is not None
        name, piece = found
        assert isinstance(piece, Piece)
        drawn.append((name, piece))
    return drawn


def bytes_by_flow(drawn: list[tuple[str, Piece]]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for name, piece in drawn:
        totals[name] += piece.length
    return totals


def test_nothing_to_do() -> None:
    """Without work there is None, and nothing to wake for."""
    scheduler = make({"ram": 1}, bandwidth_limit=1)
    assert scheduler.next_work(0.0) is None
    assert scheduler.wake_at is None
    assert not scheduler.has_work("ram")
    scheduler.put("ram", iter([]))
    assert not scheduler.has_work("ram")
    assert scheduler.next_work(0.0) is None


def test_one_flow_in_order_over_several_puts() -> None:
    """First put, first drawn; an empty iterator between is skipped."""
    scheduler = make({"ram": 1})
    scheduler.put("ram", iter([Piece(1, 1), Piece(1, 2)]))
    scheduler.put("ram", iter([]))
    scheduler.put("ram", iter([Piece(1, 3)]))
    assert [piece.number for _, piece in draw(scheduler, 3)] == [1, 2, 3]
    assert scheduler.next_work(0.0) is None


def test_draws_lazily() -> None:
    """No more than one piece ahead is taken from an iterator."""
    taken = []

    def sweep() -> Iterator[Piece]:
        for number in range(10):
            taken.append(number)
            yield Piece(MIB, number)

    scheduler = make({"ram": 1})
    scheduler.put("ram", sweep())
    assert taken == []
    draw(scheduler, 3)
    assert len(taken) <= 4


@pytest.mark.parametrize(("lengths", "weights"), [((4 * MIB, MIB), (1, 1)), ((64 * KIB, 4 * MIB), (3, 1))])
def test_shares_follow_weights_whatever_the_piece_size(lengths: tuple[int, int], weights: tuple[int, int]) -> None:
    """Bytes are shared by weight although one flow's pieces are much larger than the other's."""
    scheduler = make({"a": weights[0], "b": weights[1]})
    scheduler.put("a", endless(lengths[0]))
    scheduler.put("b", endless(lengths[1]))
    totals = bytes_by_flow(draw(scheduler, 4000))
    assert totals["a"] / totals["b"] == pytest.approx(weights[0] / weights[1], rel=0.05)


def test_small_flow_is_not_held_up_by_a_large_one() -> None:
    """A device chunk put while RAM sends waits for one turn of RAM, not for its sweep."""
    scheduler = make({"ram": 1, "gpu": 1})
    scheduler.put("ram", endless(4 * MIB))
    draw(scheduler, 5)
    scheduler.put("gpu", iter([Piece(4 * KIB)]))
    assert "gpu" in [name for name, _ in draw(scheduler, 2)]


def test_idle_flow_saves_nothing_up() -> None:
    """After a long idle time a flow gets its share from now on, not what it missed."""
    scheduler = make({"ram": 1, "late": 1})
    scheduler.put("ram", endless(MIB))
    scheduler.put("late", iter([Piece(MIB)]))
    draw(scheduler, 500)
    scheduler.put("late", endless(MIB))
    totals = bytes_by_flow(draw(scheduler, 20))
    assert abs(totals["late"] - totals["ram"]) <= 2 * MIB


def test_short_visits_save_nothing_up() -> None:
    """A flow that came many times with one small piece has no more than its share when it comes with much."""
    scheduler = make({"ram": 1, "visitor": 8})
    scheduler.put("ram", endless(QUANTUM_BYTES))
    for _ in range(50):
        scheduler.put("visitor", iter([Piece(1)]))
        assert "visitor" in [name for name, _ in draw(scheduler, 3)]
    scheduler.put("visitor", endless(QUANTUM_BYTES))
    assert [name for name, _ in draw(scheduler, 36)].count("ram") >= 3


def test_running_dry_takes_nobodys_turn() -> None:
    """A flow that runs dry in its turn does not cost the flow after it a turn."""
    scheduler = make({"visitor": 1, "a": 1, "b": 1})
    scheduler.put("visitor", iter([Piece(1)]))
    scheduler.put("a", endless(QUANTUM_BYTES))
    scheduler.put("b", endless(QUANTUM_BYTES))
    assert [name for name, _ in draw(scheduler, 5)] == ["visitor", "a", "b", "a", "b"]


def test_empty_work_costs_something() -> None:
    """A flow of zero ranges does not starve another: it gets a quantum's worth at a time."""
    scheduler = make({"zero": 1, "ram": 1})
    scheduler.put("zero", endless(0))
    scheduler.put("ram", endless(QUANTUM_BYTES))
    names = [name for name, _ in draw(scheduler, 2 * QUANTUM_BYTES // EMPTY_COST_BYTES)]
    assert names.count("ram") == 1


def test_huge_piece_does_not_take_a_turn_per_quantum() -> None:
    """Pieces of any length come at once: rounds in which nobody can send are skipped, and shares still hold."""
    scheduler = make({"a": 1, "b": 2})
    scheduler.put("a", iter([Piece(1 << 60, number) for number in range(4)]))
    scheduler.put("b", iter([Piece(1 << 60, number) for number in range(8)]))
    names = [name for name, _ in draw(scheduler, 12)]
    assert names[:6].count("a") == 2
    assert scheduler.next_work(0.0) is None


def test_push_front_goes_first() -> None:
    """A piece that is sent again goes before what was drawn ahead, also on a flow that was idle."""
    scheduler = make({"ram": 1})
    scheduler.put("ram", iter([Piece(1, 1), Piece(1, 2)]))
    assert scheduler.has_work("ram")
    scheduler.push_front("ram", Piece(1, 9))
    assert [piece.number for _, piece in draw(scheduler, 3)] == [9, 1, 2]
    scheduler.push_front("ram", Piece(1, 8))
    assert scheduler.has_work("ram")
    assert draw(scheduler, 1)[0][1].number == 8


def test_bandwidth_limit_holds_over_time() -> None:
    """Following `wake_at`, bytes over time come to the limit, for small and for large pieces."""
    limit = 10 * MIB
    scheduler = make({"ram": 1, "gpu": 1}, bandwidth_limit=limit)
    scheduler.put("ram", endless(4 * MIB))
    scheduler.put("gpu", endless(64 * KIB))
    now = 0.0
    sent = 0
    while now < 20.0:
        found = scheduler.next_work(now)
        if found is None:
            assert scheduler.wake_at is not None
            assert scheduler.wake_at > now
            now = scheduler.wake_at
        else:
            assert scheduler.wake_at is None
            sent += found[1].length
    assert sent / now == pytest.approx(limit, rel=0.03)


def test_bandwidth_limit_makes_only_a_short_idle_time_good() -> None:
    """After an hour of idling no more than the burst goes out at once."""
    limit = MIB
    scheduler = make({"ram": 1}, bandwidth_limit=limit)
    scheduler.put("ram", endless(KIB))
    now = 3600.0
    sent = 0
    while scheduler.next_work(now) is not None:
        sent += KIB
    assert sent <= BURST_S * limit + 2 * KIB


def test_limited_work_is_not_lost() -> None:
    """Being told to wait takes nothing out of the queue."""
    scheduler = make({"ram": 1}, bandwidth_limit=1000)
    scheduler.put("ram", iter([Piece(1000, 1), Piece(1000, 2)]))
    draw(scheduler, 1)
    for now in (0.1, 0.5, 0.9):
        assert scheduler.next_work(now) is None
        assert scheduler.wake_at == pytest.approx(1.0 - BURST_S)
    assert draw(scheduler, 1, now=1.0)[0][1].number == 2


def test_refuses_misuse() -> None:
    """Unknown and double flows, weights and limits below 1 are this side's faults."""
    scheduler = make({"ram": 1})
    with pytest.raises(LocalProtocolError):
        scheduler.add_flow("ram", 1)
    with pytest.raises(LocalProtocolError):
        scheduler.add_flow("zero", 0)
    with pytest.raises(LocalProtocolError):
        scheduler.put("nobody", iter([]))
    with pytest.raises(LocalProtocolError):
        Scheduler(bandwidth_limit=0)
