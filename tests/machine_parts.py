"""What is under way between two machines in a test: slots, chunks, and how far a load is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a slot of the class `device` carries."""

    device: int
    epoch: int
    index: int
    stop_copy: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """A slot under way."""

    channel: int
    sequence: int
    live: bool
    chunk: Chunk | None = None


@dataclass(slots=True)
class Load:
    """How far the destination's engine is with one device."""

    epoch: int = 1
    chunks: int = 0
    ready: bool = False
    complete: bool = False
    waiting: dict[int, Chunk] = field(default_factory=dict)
    """By index: those that came before their turn."""
