"""The workload writes at the asked rate, is never deaf for long, and keeps its count in the memory it writes to."""

import numpy as np
import pytest

from multifd.cli.page_writer import BATCH_S, PAGE_BYTES, STRIPE_BYTES, WORDS_PER_PAGE, Words, Writer, fill
from multifd.limits import MIB


def memory(pages: int) -> Words:
    return np.zeros(pages * WORDS_PER_PAGE, dtype=np.uint64)


def run(writer: Writer, seconds: float, step: float = 0.001, start: float = 50.0) -> float:
    writer.run(start)
    steps = round(seconds / step)
    for index in range(1, steps + 1):
        writer.write(start + index * step)
    return start + steps * step


def test_memory_is_half_random_a_quarter_zero_a_quarter_text() -> None:
    """In every stripe, with pages that can be told apart."""
    words = memory(2 * STRIPE_BYTES // PAGE_BYTES)
    fill(words)
    zero = words.reshape(-1, WORDS_PER_PAGE).max(axis=1) == 0
    assert zero.mean() == pytest.approx(0.25)
    assert zero[: len(zero) // 2].mean() == pytest.approx(0.25)
    others = words.reshape(-1, WORDS_PER_PAGE)[~zero]
    assert len(np.unique(others, axis=0)) == len(others)


@pytest.mark.parametrize("pages", [1, 3, STRIPE_BYTES // PAGE_BYTES + 1])
def test_memory_of_any_number_of_pages_can_be_filled(pages: int) -> None:
    """No stripe needs to be whole."""
    words = memory(pages)
    fill(words)
    assert words.any()
    assert words[0] == 0


def test_it_writes_at_the_asked_rate() -> None:
    """25600 pages a second are 100 MiB/s."""
    writer = Writer(memory(1024), 100 * MIB / PAGE_BYTES)
    run(writer, 0.5)
    assert writer.written == pytest.approx(12800, rel=0.01)
    assert writer.counter == writer.written


def test_a_slow_rate_is_kept_too() -> None:
    """Less than a page a batch."""
    writer = Writer(memory(16), 100.0)
    run(writer, 0.5)
    assert writer.written == pytest.approx(50, abs=1)


def test_throttling_slows_it_and_zero_is_full_speed_again() -> None:
    """Level 0.75 leaves a quarter; level 1 leaves nothing."""
    writer = Writer(memory(1024), 10000.0)
    writer.throttle(0.75)
    run(writer, 0.2)
    assert writer.written == pytest.approx(500, rel=0.03)
    writer.throttle(1.0)
    assert writer.due_at() is None
    writer.throttle(0.0)
    assert writer.due_at() is not None


def test_what_was_missed_for_long_is_not_caught_up_with() -> None:
    """A second of silence is no burst of a second."""
    writer = Writer(memory(1024), 10000.0)
    end = run(writer, 0.1)
    before = writer.written
    for index in range(100):
        writer.write(end + 1 + index * 1e-6)
    assert writer.written - before <= 110


def test_no_batch_is_long() -> None:
    """At any rate, a batch is what fits about a millisecond."""
    writer = Writer(memory(4096), 1e9)
    writer.run(0.0)
    for index in range(1, 40):
        before = writer.written
        writer.write(index * 0.01)
    assert (writer.written - before) < 1e9 * BATCH_S


def test_a_stopped_writer_is_never_due_and_knows_how_long_it_ran() -> None:
    """Stop, wait, run: the pause does not count."""
    writer = Writer(memory(16), 1000.0)
    assert writer.due_at() is None
    writer.run(1.0)
    assert writer.due_at() == pytest.approx(1.001)
    writer.stop(3.0)
    assert writer.due_at() is None
    assert writer.ran_s(9.0) == 2.0
    writer.run(10.0)
    assert writer.ran_s(11.0) == 3.0


def test_a_writer_on_a_copy_counts_on() -> None:
    """The counter is in the memory."""
    words = memory(16)
    run(Writer(words, 1000.0), 0.1)
    copy = words.copy()
    writer = Writer(copy, 1000.0)
    assert writer.counter == int(words[0]) > 0
    run(writer, 0.1)
    assert writer.counter > int(words[0])
