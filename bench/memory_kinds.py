"""Memory of several kinds, as benches of codecs need it: zero, text-like, binary, random, and a mixture of all."""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from multifd.limits import KIB

PAGE_BYTES = 4 * KIB
RUN_PAGES_MAX = 64  # of one kind in the mixture
WORDS = 2000  # that text is made of
SEED = 2026


def zero(size: int) -> bytes:
    """Nothing but zeros."""
    return bytes(size)


def text(size: int) -> bytes:
    """Random words of 2 to 9 letters."""
    chance = random.Random(SEED)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randrange(2, 10))) for _ in range(WORDS)]
    made = bytearray()
    while len(made) < size:
        made += " ".join(chance.choices(words, k=10_000)).encode() + b" "
    return bytes(made[:size])


def binary(size: int) -> bytes:
    """Programs and libraries: the interpreter's and numpy's own."""
    libraries = [Path(sys.executable).resolve(), *sorted(Path(np.__file__).parents[1].rglob("*.so*"))]
    made = bytearray()
    for path in cycle(libraries):
        made += path.read_bytes()
        if len(made) >= size:
            return bytes(made[:size])
    raise AssertionError("a cycle does not end")


def noise(size: int) -> bytes:
    """Random bytes."""
    return np.random.Generator(np.random.SFC64(SEED)).bytes(size)


def mixed(size: int) -> bytes:
    """A quarter of each of the others, in shuffled runs of 1 to 64 pages."""
    chance = random.Random(SEED)
    sources = [source(size) for source in (zero, text, binary, noise)]
    made = bytearray()
    while len(made) < size:
        run = PAGE_BYTES * chance.randrange(1, RUN_PAGES_MAX + 1)
        made += chance.choice(sources)[len(made) : len(made) + run]
    return bytes(made[:size])


KINDS = {"zero": zero, "text": text, "binary": binary, "random": noise, "mixed": mixed}


def slots(kind: str, *, count: int, slot_bytes: int) -> Iterator[memoryview]:
    """`count` slots of memory of one kind."""
    memory = memoryview(KINDS[kind](count * slot_bytes))
    return (memory[start : start + slot_bytes] for start in range(0, len(memory), slot_bytes))
