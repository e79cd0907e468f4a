"""Codec `auto`: which encoding the next slot of a channel gets. Pure arithmetic: no clock, no threads, no protocol; one
object a channel, which its thread asks before each slot and tells after it what the slot took.

**What is minimised.** A channel's thread encodes and then sends, and the socket's buffer lets the two overlap. In
steady state a byte of state therefore takes, in this channel,

    max(link x fraction, contention x (encode + copy x fraction))        seconds,

whichever side is the slower one. `fraction` is what is left of a byte, `encode` and `copy` are processor seconds a byte
(of state; of what is sent, into the socket), `link` is how long the link takes for a byte of this channel while it is
the link that is waited for, and `contention` how much longer than its processor time encoding takes because others run:
at least channels / processors, since all channels may come to encode.

**What is known of data.** A sample of the slot, a few pieces compressed by zstd, says which of `CLASSES` it belongs to.
For each class and encoding there are averages of what real slots took and gave. Until the first one there is a guess,
on the hopeful side: what could be best is tried once, and what was tried is known.

**What is known of the link.** While a good part of the time goes by in `send`, bytes over time is the link's rate. If
not, the link is at least as fast as that. How much faster can't be seen while encoding is the bottleneck, so now and
then a slot is sent plain (*a probe*). If the link takes it in less time than encoding would, plain it is, until the
socket's buffer is full and the truth is seen. What a probe may cost is bounded: the first one by a large share of the
time before it, since at the start a fast link must be noticed soon, each next one by half of that, down to
`PROBE_SHARE`.

**What keeps it steady.** A class changes its encoding only for a gain of `GAIN`; among equals the one that takes less
of the processors wins; averages forget slowly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import zstandard

from multifd.codec import NONE
from multifd.limits import KIB, MIB
from multifd.slot import Buffer

SAMPLE_PIECES = 8
SAMPLE_PIECE_BYTES = KIB
SAMPLED_BYTES_MIN = 4 * SAMPLE_PIECES * SAMPLE_PIECE_BYTES  # of a smaller slot it would be too large a part
CLASSES = (0.02, 0.15, 0.35, 0.55, 0.75, 0.93)
"""Upper bounds of the sample's fraction; a last class, what does not shrink, is above."""

SAMPLE_S = 40e-6  # what a sample takes, about: zstd at 0.2 GB/s
SAMPLE_SHARE = 0.02  # of a slot's time; where sending is quicker than that allows, one slot in SAMPLE_PAUSE is sampled
SAMPLE_PAUSE = 16

# Seconds a byte of one channel, 125 MB/s: what shrinks is encoded, but quickly, so that the socket's buffers soon fill.
LINK_AT_FIRST = 8e-9
LINK_WORST = 400e-9  # for what a probe may cost where little is known: 1 Gbit/s over 50 channels
COPY_AT_FIRST = 0.1e-9  # processor seconds a byte into a socket; loopback takes more
COPIED_BYTES_MIN = 64 * KIB  # less says what a call takes, some 10 µs, and not what bytes do
WAITING_SHARE = 0.25  # of the time in `send`, beyond copying: then it is the link that sets the pace
MEMORY_BYTES = 4 * MIB  # of state over which the pace is averaged: a few slots, more than a socket's buffer hides
UNHINDERED_BYTES = MIB  # sent without waiting, before it counts: socket buffers take so much from anybody
LEARNING = 0.2  # weight of a new slot of 1 MiB in averages
HOPE = 0.01  # a link that is not waited for is taken to be faster by so much with each MiB that is sent
GAIN = 0.05
PROCESSOR_WEIGHT = 0.03  # of processor time beside the time that is minimised: what decides among equals
PROBE_SHARE_AT_FIRST = 1 / 3
PROBE_SHARE = 0.02
PROBE_SLOTS = 3  # the first ones fill buffers, or wait for a destination that is still decoding; the last one counts
PROBE_BROKEN_OFF = 1.5  # times what encoding takes: a slot that takes as long says enough
PROBE_GAIN = 1.1  # a link of no cost at all has to promise as much


@dataclass(frozen=True, slots=True)
class Guess:
    """What an encoding takes before anybody has tried, on the hopeful side, as measured on one processor of 2026.

    Processor seconds a byte: `base`, and `more` times how far the data is from both zeros and noise. `fraction`: what
    is left of a byte by what is left of a byte of the sample, where that is little.
    """

    base: float
    more: float
    fraction: float


GUESSES = {
    "lz4": Guess(0.15e-9, 1.0e-9, 1.0),
    "zstd": Guess(0.03e-9, 2.0e-9, 0.8),  # zeros are told apart without encoding
    "zstd:3": Guess(0.03e-9, 4.0e-9, 0.75),
}
"""All encodings but plain that are considered, by their names as codecs."""


class Took(NamedTuple):  # made for every slot: a frozen dataclass takes four times as long
    """What one slot took. Bytes and seconds; the processor seconds are the thread's own."""

    length: int
    wire_length: int
    busy_s: float
    """From asking for a choice until the slot was in the socket."""
    encode_s: float = 0.0
    encode_processor_s: float = 0.0
    send_s: float = 0.0
    send_processor_s: float = 0.0


class _Cost:
    """Of one encoding and class, a byte of state: processor seconds, and what is left of it. Guessed until tried."""

    def __init__(self, guess: Guess, fraction: float) -> None:
        """`fraction`: of a sample."""
        self.processor = guess.base + guess.more * 4 * fraction * (1 - fraction)
        self.fraction = fraction * (guess.fraction + (1 - guess.fraction) * fraction)  # what does not shrink won't
        self.is_tried = False
        self._guessed = (self.processor, self.fraction)

    def learn(self, processor: float, fraction: float, weight: float) -> tuple[float, float]:
        """Returns what was found by what was guessed at first."""
        if not self.is_tried:
            self.processor, self.fraction, self.is_tried = processor, fraction, True
        self.processor += weight * (processor - self.processor)
        self.fraction += weight * (fraction - self.fraction)
        return self.processor / self._guessed[0], self.fraction / self._guessed[1]


class _Costs:
    """Of all encodings and classes. What was found of an encoding in one class corrects its guesses for the others;
    what is left of a class by one encoding, the guesses for what others leave.
    """

    def __init__(self, encodings: Sequence[str]) -> None:
        middles = _middles((0.0, *CLASSES, 1.0))
        self._costs = {
            (name, class_): _Cost(GUESSES[name], middle) for name in encodings for class_, middle in enumerate(middles)
        }
        self._slowness: dict[str, float] = {}
        """Of encodings that were tried. For others, where one is quicker than guessed, as much is hoped."""
        self._hardness = [1.0] * len(middles)

    def processor(self, name: str, class_: int) -> float:
        """Processor seconds a byte of state."""
        if name == NONE:
            return 0.0
        cost = self._costs[name, class_]
        if cost.is_tried:
            return cost.processor
        return cost.processor * self._slowness.get(name, min([1.0, *self._slowness.values()]))

    def fraction(self, name: str, class_: int) -> float:
        """What is left of a byte of state."""
        if name == NONE:
            return 1.0
        cost = self._costs[name, class_]
        return cost.fraction if cost.is_tried else min(1.0, cost.fraction * self._hardness[class_])

    def learn(self, name: str, class_: int, took: Took) -> None:
        """A slot was encoded."""
        self._slowness[name], self._hardness[class_] = self._costs[name, class_].learn(
            took.encode_processor_s / took.length, took.wire_length / took.length, _weight(took.length)
        )


class _Link:
    """How fast a channel's socket takes bytes."""

    def __init__(self) -> None:
        self.seconds_per_byte = LINK_AT_FIRST
        self.copy = COPY_AT_FIRST
        self.unhindered_bytes = 0
        self.is_waited_for = False
        self._busy_s = self._waited_s = self._bytes = 0.0  # of about the last `MEMORY_BYTES`

    def learn(self, took: Took, contention: float) -> None:
        """A slot was sent."""
        weight = _weight(took.length)
        if took.wire_length >= COPIED_BYTES_MIN:
            self.copy += weight * (took.send_processor_s / took.wire_length - self.copy)
        kept = max(0.0, 1 - took.length / MEMORY_BYTES)
        waited_s = max(0.0, took.send_s - contention * self.copy * took.wire_length)
        self._busy_s = kept * self._busy_s + took.busy_s
        self._waited_s = kept * self._waited_s + waited_s
        self._bytes = kept * self._bytes + took.wire_length
        if not self._bytes or not self._busy_s:
            return
        pace = self._busy_s / self._bytes
        self.is_waited_for = self._waited_s > WAITING_SHARE * self._busy_s
        self.unhindered_bytes = 0 if self.is_waited_for else self.unhindered_bytes + took.wire_length
        known = self.seconds_per_byte * (1 - HOPE * took.wire_length / MIB)
        self.seconds_per_byte = pace if self.is_waited_for else min(pace, known)

    def handle_probe(self, seconds_per_byte: float) -> None:
        """A probe has ended: what was known from slots before it counts no more."""
        self.seconds_per_byte = min(self.seconds_per_byte, seconds_per_byte)
        self._busy_s = self._waited_s = self._bytes = 0.0


class AutoChoice:
    """Chooses for one channel. In turn for each slot: `wants_sample`, `choose`, `learn`."""

    def __init__(self, codecs: Sequence[str], *, contention: float) -> None:
        """`codecs`: names that both sides have. `contention`: channels / processors."""
        self.encodings = (NONE, *(name for name in GUESSES if name.partition(":")[0] in codecs))
        self._least_contention = max(1.0, contention)
        self._contention = self._least_contention
        self._link = _Link()
        self._costs = _Costs(self.encodings[1:])
        self._chosen = [NONE] * (len(CLASSES) + 1)
        """Class → its encoding now."""
        self._class = len(CLASSES)
        """Of the slot that is under way."""
        self._encoding = NONE
        self._is_sampled = False
        self._usual = 0.0
        """Seconds a byte that the last slot that was best encoded was expected to take."""
        self._unsampled = 0
        self._probes = _Probes()

    def wants_sample(self, length: int) -> bool:
        """Whether `choose` should be given a sample of the next slot: not where that would take more than it saves."""
        if length < SAMPLED_BYTES_MIN or len(self.encodings) == 1:
            return False
        usual = self._link.seconds_per_byte if self._encoding == NONE else self._usual
        if length * usual * SAMPLE_SHARE > SAMPLE_S or self._unsampled >= SAMPLE_PAUSE - 1:
            self._unsampled = 0
            return True
        self._unsampled += 1
        return False

    def choose(self, length: int, fraction: float | None) -> str:
        """The encoding of the next slot, one of `encodings`. `fraction` of a sample, or None to go by the last one."""
        self._is_sampled = fraction is not None
        if fraction is not None:
            self._class = sum(fraction > bound for bound in CLASSES)
        best = self._chosen[self._class]
        if self._is_sampled or length < SAMPLED_BYTES_MIN or best != NONE:  # plain slots have no time for arithmetic
            best = self._chosen[self._class] = self._best(self._class)
        if best != NONE:
            usual = self._usual = self._seconds_per_byte(best, self._class)
            self._probes.handle_encoding(self._class)
            if self._probes.is_due(self._probe_cost_s(usual, length), self._probe_share(usual)):
                self._probes.begin(self._class, usual)
        self._encoding = NONE if self._probes.slots_left else best
        return self._encoding

    def learn(self, took: Took) -> None:
        """The slot that was chosen for is in the socket."""
        if not took.length:
            return
        if self._encoding != NONE and self._is_sampled:
            self._costs.learn(self._encoding, self._class, took)
            found = took.encode_s / took.encode_processor_s if took.encode_processor_s else self._least_contention
            self._contention += _weight(took.length) * (max(found, self._least_contention) - self._contention)
        was_probing = self._probes.slots_left
        self._probes.learn(self._class, took)
        if not was_probing:
            self._link.learn(took, self._contention)
        elif not self._probes.slots_left:
            self._link.handle_probe(took.send_s / took.wire_length)

    def _best(self, class_: int) -> str:
        scores = {name: self._score(name, class_) for name in self.encodings}
        best = min(scores, key=lambda name: scores[name])
        chosen = self._chosen[class_]
        is_easier = self._processor(best, class_) < self._processor(chosen, class_)
        return best if is_easier or scores[best] < (1 - GAIN) * scores[chosen] else chosen

    def _score(self, name: str, class_: int) -> float:
        return self._seconds_per_byte(name, class_) + PROCESSOR_WEIGHT * self._processor(name, class_)

    def _seconds_per_byte(self, name: str, class_: int) -> float:
        """What a byte of state takes in this channel."""
        return max(self._link.seconds_per_byte * self._costs.fraction(name, class_), self._processor(name, class_))

    def _processor(self, name: str, class_: int) -> float:
        copy = self._link.copy * self._costs.fraction(name, class_)
        return self._contention * (self._costs.processor(name, class_) + copy)

    def _probe_cost_s(self, usual: float, length: int) -> float:
        """What a probe costs at most, by all that is known, where encoding takes `usual` seconds a byte."""
        return PROBE_SLOTS * length * max(0.0, min(self._link.seconds_per_byte, LINK_WORST) - usual)

    def _probe_share(self, usual: float) -> float:
        """The share of the time that probes may take now; 0 if nothing is to be gained by them."""
        if usual < PROBE_GAIN * self._contention * self._link.copy:
            return 0.0
        if self._link.unhindered_bytes < UNHINDERED_BYTES:
            return PROBE_SHARE
        return max(PROBE_SHARE, PROBE_SHARE_AT_FIRST * 0.5**self._probes.begun)


class _Probes:
    """When a slot may be sent plain to see whether the link has become faster, and what the last time has cost."""

    def __init__(self) -> None:
        self.begun = 0
        self._between_s = 0.0
        """Busy time since the last probe ended."""
        self._cost_s = 0.0
        """Of the last probe: what its class took more than it would have when encoded."""
        self._class: int | None = None
        """Whose slots are plain since a probe that has not ended."""
        self._usual = 0.0
        """Seconds a byte that encoding would have taken."""
        self.slots_left = 0
        """That are to be plain, whatever is best."""

    def is_due(self, cost_s: float, share: float) -> bool:
        """Whether a probe that costs so much at most is within its share of the time."""
        return not self.slots_left and self._between_s * share > max(cost_s, self._cost_s)

    def begin(self, class_: int, usual: float) -> None:
        """The next slots are sent plain."""
        self.begun += 1
        self._class, self._usual = class_, usual
        self._between_s = self._cost_s = 0.0
        self.slots_left = PROBE_SLOTS

    def handle_encoding(self, class_: int) -> None:
        """Of this class a slot is best encoded: a probe that it was plain for is over."""
        if class_ == self._class and not self.slots_left:
            self._class = None
            self._between_s = 0.0

    def learn(self, class_: int, took: Took) -> None:
        """A slot is sent."""
        self._between_s += took.busy_s
        if class_ == self._class:
            self._cost_s = max(0.0, self._cost_s + took.busy_s - self._usual * took.length)
        if self.slots_left:
            is_slow = took.send_s > PROBE_BROKEN_OFF * self._usual * took.wire_length
            self.slots_left = 0 if is_slow else self.slots_left - 1


class Sampler:
    """Looks at a few pieces of a slot. One object a channel."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1, write_content_size=False)

    def fraction(self, buffers: Sequence[Buffer], length: int) -> float:
        """What zstd leaves of a byte of a sample. `buffers` may be live: the pieces are copied."""
        sample = b"".join(_pieces(buffers, length))
        return len(self._compressor.compress(sample)) / len(sample)


def _pieces(buffers: Sequence[Buffer], length: int) -> list[Buffer]:
    """`SAMPLE_PIECES` pieces at even distances."""
    step = length // SAMPLE_PIECES
    found: list[Buffer] = []
    position = 0  # of the next piece, from where the next buffer begins
    for buffer in buffers:
        while position < len(buffer):
            found.append(buffer[position : position + SAMPLE_PIECE_BYTES])
            position += step
        position -= len(buffer)
    return found


def _weight(length: int) -> float:
    return min(LEARNING, LEARNING * length / MIB)


def _middles(bounds: Sequence[float]) -> list[float]:
    middles = [(low + high) / 2 for low, high in itertools.pairwise(bounds)]
    return [*middles[:-1], 1.0]  # what hardly shrinks in a sample isn't hoped for
