"""Waits end at their time, those for silence when nothing has moved for it."""

from __future__ import annotations

from multifd.session.qemu_waits import Waits


def test_the_first_deadline_counts() -> None:
    """Of several waits the first to end is told, in words made only then; one that is over is not waited for."""
    waits = Waits()
    assert waits.wake_at is None
    assert waits.poll_expired(1e9) is None
    waits.begin("a", 5.0, lambda: "bread", 100.0)
    waits.begin("b", 3.0, lambda: "butter", 100.0)
    assert waits.wake_at == 103.0
    assert waits.poll_expired(102.9) is None
    error = waits.poll_expired(103.0)
    assert error is not None
    assert (error.waited_for, str(error)) == ("butter", "gave up after 3 s waiting for butter")
    waits.end("b")
    waits.end("never begun")
    assert waits.wake_at == 105.0
    waits.clear()
    assert waits.wake_at is None


def test_only_silence_is_renewed() -> None:
    """What moves puts off waits for silence and no others."""
    waits = Waits()
    waits.begin("silence", 5.0, lambda: "a word", 100.0, silence=True)
    waits.begin("deed", 6.0, lambda: "a deed", 100.0)
    waits.renew(104.0)
    assert waits.wake_at == 106.0
    waits.end("deed")
    assert waits.wake_at == 109.0
