"""What the demo's workload does to its memory: fill it, then write to random pages at a rate. Pure; told the time."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from multifd.limits import MIB

PAGE_BYTES = 4096
WORDS_PER_PAGE = PAGE_BYTES // 8
STAMP_WORD = 1  # word 0 of page 0 is the counter; this one is written in every chosen page
BATCH_S = 0.001  # how long it may be deaf
CATCH_UP_S = 0.010  # what it could not write for longer than this it never writes: a burst would only shift the rate
TILE_BYTES = 64 * MIB  # random bytes that are used again and again, told apart by a stamp in each page
STRIPE_BYTES = (
    4 * MIB
)  # half random, a quarter zero, a quarter text: repeats so that every part of memory has all three
TEXT = b"The owner keeps writing while its memory moves. Only when the other side says that it is ready does it stop. "

Words = npt.NDArray[np.uint64]


def fill(words: Words, *, seed: int = 0) -> None:
    """Fill memory (whole pages, as 64-bit words): half of it incompressible, a quarter zero, a quarter text."""
    memory = words.view(np.uint8)
    tile = np.frombuffer(np.random.default_rng(seed).bytes(min(TILE_BYTES, memory.size)), dtype=np.uint8)
    text = np.frombuffer((TEXT * (STRIPE_BYTES // 4 // len(TEXT) + 1))[: STRIPE_BYTES // 4], dtype=np.uint8)
    for start in range(0, memory.size, STRIPE_BYTES):
        stripe = memory[start : start + STRIPE_BYTES]
        half, quarter = stripe.size // 2, stripe.size // 4
        source = start // 2 % max(tile.size - half, 1)
        stripe[:half] = tile[source : source + half]
        stripe[half + quarter :] = text[: stripe.size - half - quarter]
    pages = words.reshape(-1, WORDS_PER_PAGE)
    stamped = np.flatnonzero(pages[:, STAMP_WORD])
    pages[stamped, STAMP_WORD] = stamped.astype(np.uint64)
    words[0] = 0


class Writer:
    """Writes to random pages at a rate. Told the time; keeps its counter in page 0 of the memory."""

    def __init__(self, words: Words, pages_per_s: float, *, seed: int = 1) -> None:
        self._words = words
        self._pages = len(words) // WORDS_PER_PAGE
        self._random = np.random.default_rng(seed)
        self._full_rate = pages_per_s
        self._rate = pages_per_s
        self._paid_until = 0.0
        self._batch_max = 64.0  # pages; learned from how long a batch takes
        self._runs_since: float | None = None
        self._ran_s = 0.0
        self.written = 0

    @property
    def counter(self) -> int:
        """Writes since the memory was filled, by whichever process."""
        return int(self._words[0])

    @property
    def running(self) -> bool:
        """Whether it writes."""
        return self._runs_since is not None

    def ran_s(self, now: float) -> float:
        """How long it has been running, in all."""
        return self._ran_s + (now - self._runs_since if self._runs_since is not None else 0.0)

    def run(self, now: float) -> None:
        """Go on."""
        if self._runs_since is None:
            self._runs_since = self._paid_until = now

    def stop(self, now: float) -> None:
        """Stand still."""
        self._ran_s = self.ran_s(now)
        self._runs_since = None

    def throttle(self, level: float) -> None:
        """Write at `1 - level` of the asked rate."""
        self._rate = self._full_rate * (1 - min(max(level, 0.0), 1.0))

    def due_at(self) -> float | None:
        """When the next batch is due; None while it stands still or has nothing to write."""
        if not self.running or not self._rate:
            return None
        return self._paid_until + max(BATCH_S, 1 / self._rate)

    def write(self, now: float) -> None:
        """Write what is due at `now`, but no more than about a millisecond's work."""
        if not self._rate:
            return
        # What does not fit stays due, and what was due for longer than CATCH_UP_S is forgotten.
        behind = min(now - self._paid_until, max(CATCH_UP_S, 2 / self._rate))
        count = min(int(behind * self._rate), int(self._batch_max))
        self._paid_until = now - behind + count / self._rate
        if count <= 0:
            return
        began = time.perf_counter()
        chosen = self._random.integers(0, self._pages, count)
        counter = self.counter
        self._words[chosen * WORDS_PER_PAGE + STAMP_WORD] = np.arange(counter + 1, counter + count + 1, dtype=np.uint64)
        self._words[0] = counter + count
        self.written += count
        took = max(time.perf_counter() - began, 1e-6)
        self._batch_max = max(16.0, 0.5 * self._batch_max + 0.5 * count * BATCH_S / took)
