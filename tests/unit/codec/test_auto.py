"""Codec `auto` decides for what is quickest, comes back quickly, tries cheaply, and does not go to and fro."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd.codec import NONE
from multifd.codec.auto import SAMPLE_PIECE_BYTES, SAMPLE_PIECES, AutoChoice, Sampler, Took
from multifd.limits import MIB

TEXT = {"lz4": (3.6e-9, 0.67), "zstd": (5.5e-9, 0.39), "zstd:3": (10e-9, 0.36)}
"""Encoding → processor seconds a byte, and what is left of it."""
NOISE = {"lz4": (0.2e-9, 1.0), "zstd": (0.4e-9, 1.0), "zstd:3": (0.4e-9, 1.0)}
COPY_S = 0.2e-9
CALL_S = 10e-6
"""Of the processor: for each byte into the socket, and for each call."""
BUFFER_BYTES = MIB


class Line:
    """One channel and a link of its own: time goes on by what is sent."""

    def __init__(self, bytes_per_s: float, codecs: Sequence[str] = ("zstd", "lz4")) -> None:
        self.bytes_per_s = bytes_per_s
        self.choice = AutoChoice(codecs, contention=0.5)
        self.now = 0.0
        self._through_at = 0.0
        """When the link has all that was sent."""

    def send(self, data: dict[str, tuple[float, float]], fraction: float, length: int = MIB) -> str:
        """One slot; the encoding that was chosen."""
        sampled = self.choice.wants_sample(length)
        name = self.choice.choose(length, fraction if sampled else None)
        processor, left = data.get(name, (0.0, 1.0))
        began, size = self.now, int(length * left)
        sending = began + length * processor
        self._through_at = max(self._through_at, sending) + size / self.bytes_per_s
        copy_s = CALL_S + size * COPY_S
        copied = sending + copy_s
        self.now = max(copied, self._through_at - BUFFER_BYTES / self.bytes_per_s)
        self.choice.learn(
            Took(
                length, size, self.now - began, sending - began, sending - began, self.now - sending, copy_s
            )
        )  # fmt: skip
        return name

    def run(self, data: dict[str, tuple[float, float]], fraction: float, slots: int) -> Counter[str]:
        """Many slots; how often each encoding was chosen."""
        return Counter(self.send(data, fraction) for _ in range(slots))


@pytest.mark.parametrize(
    ("bytes_per_s", "best"),
    [(3e6, "zstd:3"), (30e6, "zstd:3"), (90e6, "zstd"), (260e6, NONE), (1e9, NONE), (20e9, NONE)],
)
def test_text_gets_what_is_quickest_on_the_link(bytes_per_s: float, best: str) -> None:
    """The slower the link, the more it is worth to make data small; on a fast link nothing is."""
    line = Line(bytes_per_s)
    line.run(TEXT, 0.5, 60)
    assert line.run(TEXT, 0.5, 100)[best] >= 90


@pytest.mark.parametrize("bytes_per_s", [3e6, 125e6, 1e9, 20e9])
def test_noise_travels_plain_almost_at_once(bytes_per_s: float) -> None:
    """What does not shrink in a sample is hardly ever encoded, whatever the link."""
    assert Line(bytes_per_s).run(NOISE, 1.0, 200)[NONE] >= 195


def test_returns_to_plain_when_the_data_becomes_noise() -> None:
    """The first slot whose sample does not shrink travels plain, or one that is tried once."""
    line = Line(12e6)
    line.run(TEXT, 0.5, 50)
    assert line.run(NOISE, 1.0, 20)[NONE] >= 19
    assert line.run(TEXT, 0.5, 20)[NONE] <= 1


def test_follows_a_link_that_becomes_slow_and_fast_again() -> None:
    """A link that changes is noticed from what sending takes, and a faster one by probes."""
    line = Line(20e9)
    line.run(TEXT, 0.5, 200)
    line.bytes_per_s = 12e6
    line.run(TEXT, 0.5, 20)
    assert line.run(TEXT, 0.5, 50)[NONE] <= 3
    line.bytes_per_s = 20e9
    line.run(TEXT, 0.5, 400)
    assert line.run(TEXT, 0.5, 50)[NONE] >= 45


def test_does_not_go_to_and_fro() -> None:
    """Where two encodings are nearly alike it stays with one but for probes."""
    line = Line(1 / 7.9e-9)  # plain takes 7.9 ns a byte here, zstd 5.6, and lz4 about 5.3
    line.run(TEXT, 0.5, 100)
    names = [line.send(TEXT, 0.5) for _ in range(500)]
    changes = sum(one != other for one, other in itertools.pairwise(names))
    assert changes <= 20


def test_probes_cost_little() -> None:
    """On a link where encoding is right, and is what is waited for, few slots are sent plain to see."""
    line = Line(150e6)
    line.run(TEXT, 0.5, 100)
    assert line.run(TEXT, 0.5, 1000)[NONE] <= 40


def test_uses_only_what_both_sides_have() -> None:
    """Without zstd it is lz4 or plain, without both plain, and nothing is sampled for that."""
    only_lz4 = Line(12e6, ("lz4",))
    assert only_lz4.choice.encodings == (NONE, "lz4")
    assert only_lz4.run(TEXT, 0.5, 100)["lz4"] >= 95
    neither = Line(12e6, ())
    assert not neither.choice.wants_sample(MIB)
    assert neither.run(TEXT, 0.5, 10) == {NONE: 10}


def test_what_a_call_takes_is_not_what_bytes_take() -> None:
    """Slots that shrink to nearly nothing teach what calls take; text after them is not encoded to save that."""
    line = Line(20e9)
    line.run(dict.fromkeys(TEXT, (0.1e-9, 60 / MIB)), 0.01, 2000)
    line.run(TEXT, 0.5, 50)
    assert line.run(TEXT, 0.5, 50)[NONE] >= 45


def test_small_slots_are_not_sampled() -> None:
    """A slot that is hardly larger than a sample goes the way of the one before it."""
    assert not AutoChoice(("zstd",), contention=1.0).wants_sample(SAMPLE_PIECES * SAMPLE_PIECE_BYTES)


@settings(deadline=None, max_examples=30)
@given(
    link=st.floats(6.0, 10.5).map(lambda exponent: 10**exponent),
    speed=st.floats(0.2, 5.0),
    fraction=st.floats(0.15, 1.0),  # of less a socket's buffer hides many slots
)
def test_never_far_from_the_best(link: float, speed: float, fraction: float) -> None:
    """On any link, on any processor and with any data it is not much slower than the best fixed choice."""
    around = 4 * fraction * (1 - fraction)
    data = {
        name: ((base + more * around) * 1e-9 / speed, min(1.0, fraction * (factor + (1 - factor) * fraction)))
        for name, (base, more, factor) in {
            "lz4": (0.2, 3.0, 1.3), "zstd": (0.3, 5.0, 0.9), "zstd:3": (0.4, 9.0, 0.85),
        }.items()
    }  # fmt: skip
    line = Line(link)
    line.run(data, fraction, 100)
    began = line.now
    line.run(data, fraction, 200)
    took = (line.now - began) / 200 / MIB
    best = min(max(processor + COPY_S * left, left / link) for processor, left in [*data.values(), (0.0, 1.0)])
    assert took <= 1.15 * best


def test_a_sample_tells_what_shrinks() -> None:
    """Zeros, text and noise are told apart, in one buffer or in many."""
    sampler = Sampler()
    text = b"".join(b"line %d of some text that is quite regular\n" % n for n in range(9000))
    for buffers in ([text], [text[at : at + 4096] for at in range(0, len(text), 4096)]):
        assert 0.05 < sampler.fraction(buffers, len(text)) < 0.6
    assert sampler.fraction([bytes(MIB)], MIB) < 0.02
    assert sampler.fraction([bytearray(os.urandom(MIB))], MIB) > 0.93
