"""The mailbox between the loop and the workers: bounded, in order, told once, and nobody waits on a closed one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from multifd.engine.mailbox import Closed, Mailbox

WAIT_S = 5.0


def test_items_come_out_in_order_and_all_at_once() -> None:
    """Whoever takes gets everything that is there; then nothing is."""
    mailbox: Mailbox[int] = Mailbox(10)
    for item in range(4):
        mailbox.put(item)
    assert (len(mailbox), mailbox.room) == (4, 6)
    assert mailbox.take() == [0, 1, 2, 3]
    assert mailbox.take_now() == []
    mailbox.put_now(5)
    assert mailbox.take_now() == [5]


def test_a_full_mailbox_makes_the_worker_wait() -> None:
    """However fast one side puts, never more than its bound is in it, and nothing is lost or turned round."""
    mailbox: Mailbox[int] = Mailbox(3)
    taken: list[int] = []

    def put_all() -> None:
        for item in range(500):
            mailbox.put(item)

    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(put_all)
        while len(taken) < 500:
            batch = mailbox.take()
            assert 1 <= len(batch) <= 3
            taken += batch
        putting.result(WAIT_S)
    assert taken == list(range(500))


def test_put_now_may_go_beyond_the_bound() -> None:
    """The loop never waits: what it adds is bounded by others. There is then no room, and not less than none."""
    mailbox: Mailbox[int] = Mailbox(1)
    mailbox.put_now(1)
    mailbox.put_now(2)
    assert mailbox.room == 0
    assert mailbox.take() == [1, 2]


def test_several_workers_put_and_nothing_is_lost() -> None:
    """Each one's own items keep their order."""
    mailbox: Mailbox[tuple[int, int]] = Mailbox(4)
    taken: list[tuple[int, int]] = []

    def put_all(worker: int) -> None:
        for number in range(100):
            mailbox.put((worker, number))

    with ThreadPoolExecutor(3) as pool:
        putting = [pool.submit(put_all, worker) for worker in range(3)]
        while len(taken) < 300:
            taken += mailbox.take()
        for each in putting:
            each.result(WAIT_S)
    for worker in range(3):
        assert [number for who, number in taken if who == worker] == list(range(100))


def test_notify_is_called_when_it_stops_being_empty() -> None:
    """Once for any number of items; again after it was emptied."""
    told: list[int] = []
    mailbox: Mailbox[int] = Mailbox(10, lambda: told.append(len(mailbox)))
    mailbox.put(1)
    mailbox.put(2)
    mailbox.put_now(3)
    assert told == [1]
    mailbox.take_now()
    mailbox.put_now(4)
    mailbox.put_now(5)
    assert told == [1, 1]


def test_what_is_in_a_closed_mailbox_can_still_be_taken() -> None:
    """But nothing can be put; and when it is empty, taking says that it is closed."""
    mailbox: Mailbox[int] = Mailbox(10)
    mailbox.put(1)
    mailbox.close()
    for put in (mailbox.put, mailbox.put_now):
        with pytest.raises(Closed):
            put(2)
    assert mailbox.take() == [1]
    with pytest.raises(Closed):
        mailbox.take()
    assert mailbox.take_now() == []


def test_close_can_drop_what_is_in_it() -> None:
    """Then there is nothing left to take."""
    mailbox: Mailbox[int] = Mailbox(10)
    mailbox.put(1)
    mailbox.close(drop=True)
    with pytest.raises(Closed):
        mailbox.take()


@pytest.mark.parametrize("full", [True, False], ids=["putting", "taking"])
def test_close_wakes_whoever_waits(full: bool) -> None:
    """A worker that waits for room, or for something to do, ends."""
    mailbox: Mailbox[int] = Mailbox(1)
    if full:
        mailbox.put_now(1)
    began = threading.Event()

    def wait(action: Callable[[], object]) -> bool:
        began.set()
        try:
            action()
        except Closed:
            return True
        return False

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(wait, (lambda: mailbox.put(2)) if full else mailbox.take) for _ in range(2)]
        assert began.wait(WAIT_S)
        mailbox.close()
        assert [each.result(WAIT_S) for each in waiting] == [True, True]
