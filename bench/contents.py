"""What is in the memory that is moved: works by name. The same bytes for the same seed, made piece by piece, so that
both sides can make them, and a file as well as memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from bench import memory_kinds
from bench.memory_kinds import PAGE_BYTES
from bench.scenario import MEMORY, RAM, ZEROS
from multifd.limits import MIB

PIECE_BYTES = 32 * MIB  # as fast as larger ones, and small beside what is measured
IMAGE_BYTES = 256 * MIB
"""Text and mixtures are made this long and then repeated: a multiple of a piece, and more than any codec remembers."""
SEED = 2026

Pieces = Iterator[npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Work:
    """Memory of one kind. `make`: its pieces, for a size and a source of chance."""

    words: str
    make: Callable[[int, np.random.Generator], Pieces]
    zero_detection: bool = True
    """Whether the source looks for zero pages, as it has to with a guest's RAM."""


def pieces(work: str, size: int, seed: int = SEED) -> Pieces:
    """Contents of `size` bytes, in pieces of `PIECE_BYTES`. Each is valid until the next is asked for."""
    return WORKS[work].make(size, np.random.Generator(np.random.SFC64(seed)))


def _lengths(size: int) -> Iterator[int]:
    return (min(PIECE_BYTES, size - start) for start in range(0, size, PIECE_BYTES))


def _random(size: int, chance: np.random.Generator) -> Pieces:
    return (np.frombuffer(chance.bytes(length), dtype=np.uint8) for length in _lengths(size))


def _zeros(size: int, chance: np.random.Generator) -> Pieces:
    return _sparse(size, chance, share=0)


def _sparse(size: int, chance: np.random.Generator, *, share: float) -> Pieces:
    """Random bytes in this share of each piece's whole pages, wherever chance has it; zeros in all others."""
    for length in _lengths(size):
        piece = np.zeros(length, dtype=np.uint8)
        whole = length // PAGE_BYTES
        pages = piece[: whole * PAGE_BYTES].reshape(whole, PAGE_BYTES)
        chosen = chance.choice(whole, round(share * whole), replace=False)
        pages[chosen] = np.frombuffer(chance.bytes(chosen.size * PAGE_BYTES), dtype=np.uint8).reshape(-1, PAGE_BYTES)
        yield piece


def _repeated(size: int, _chance: np.random.Generator, *, kind: str) -> Pieces:
    image = np.frombuffer(memory_kinds.KINDS[kind](min(size, IMAGE_BYTES)), dtype=np.uint8)
    for number, length in enumerate(_lengths(size)):
        start = number * PIECE_BYTES % IMAGE_BYTES
        yield image[start : start + length]


WORKS: dict[str, Work] = {
    MEMORY: Work("random bytes", _random, zero_detection=False),
    RAM: Work("random bytes", _random),
    ZEROS: Work("zeros", _zeros),
    "sparse-1": Work("zeros, but for random bytes in 1 % of its pages of 4 KiB", partial(_sparse, share=0.01)),
    "sparse-10": Work("zeros, but for random bytes in 10 % of its pages of 4 KiB", partial(_sparse, share=0.1)),
    "text": Work("text of random words, 256 MiB repeated", partial(_repeated, kind="text")),
    "mixed": Work("runs of zeros, text, programs and random bytes, 256 MiB repeated", partial(_repeated, kind="mixed")),
}
GUEST_WORKS = tuple(name for name, work in WORKS.items() if work.zero_detection)
"""What a guest's RAM can hold: a QEMU always looks for zeros."""
