"""A source's channels on a link, simulated: what choosing encodings comes to, without a socket, a thread or a clock.

Each channel encodes and sends slot after slot; the link is first in, first out for all of them; a socket's buffers hold
`buffer_bytes` a channel; the destination takes each channel's slots in order and decodes them. All channels share each
side's processors: where there are more channels than processors everything takes longer by as much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from multifd.codec import NONE
from multifd.codec.auto import Took
from multifd.limits import KIB


class Encoded(NamedTuple):
    """One slot in one encoding. Processor seconds."""

    encode_s: float
    decode_s: float
    wire_length: int


@dataclass(frozen=True)
class SimulatedSlot:
    """One slot: its length, what a sample of it says and takes, and every encoding but plain by name."""

    length: int
    fraction: float
    sample_s: float
    encodings: Mapping[str, Encoded]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Two hosts and what is between them. Bytes and seconds; copying is all that a byte takes on its way into or out of
    a socket, its checksum included (docs/BENCHMARKS.md: 0.3 to 0.4 s/GB for both).
    """

    link_bytes_per_s: float
    channels: int
    processors: int = 2
    buffer_bytes: int = 1024 * KIB
    send_copy_s: float = 0.18e-9
    receive_copy_s: float = 0.18e-9

    @property
    def contention(self) -> float:
        """How much longer than its processor time everything takes."""
        return max(1.0, self.channels / self.processors)


class Chooser(Protocol):
    """Decides for one channel, as `AutoChoice`."""

    def wants_sample(self, length: int) -> bool: ...

    def choose(self, length: int, fraction: float | None) -> str: ...

    def learn(self, took: Took) -> None: ...


class Fixed:
    """Always the same encoding."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wants_sample(self, _length: int) -> bool:
        return False

    def choose(self, _length: int, _fraction: float | None) -> str:
        return self._name

    def learn(self, took: Took) -> None:
        pass


class _Link:
    """Both directions of time on the wire: when the bytes that were handed over last are through."""

    def __init__(self, bytes_per_s: float) -> None:
        self.seconds_per_byte = 1 / bytes_per_s
        self._free_at = 0.0

    def carry(self, size: int, now: float) -> tuple[float, float]:
        """From when until when `size` bytes that are handed over now are on their way."""
        begin = max(self._free_at, now)
        self._free_at = begin + size * self.seconds_per_byte
        return begin, self._free_at


class _Channel:
    """Both ends of a channel."""

    def __init__(self, setting: Setting, link: _Link, chooser: Chooser) -> None:
        self.now = 0.0
        self.taken_at = 0.0
        """When the destination is done with all of it so far."""
        self._setting = setting
        self._link = link
        self._chooser = chooser
        self._under_way: deque[tuple[float, int]] = deque()
        """Until when, and how many bytes: in the buffers of both sides' sockets."""

    def send(self, slot: SimulatedSlot) -> str:
        """Encode and send one slot, from `now` on. Returns the encoding."""
        setting, began = self._setting, self.now
        sampled = self._chooser.wants_sample(slot.length)
        name = self._chooser.choose(slot.length, slot.fraction if sampled else None)
        encoded = Encoded(0.0, 0.0, slot.length) if name == NONE else slot.encodings[name]
        encode_s = encoded.encode_s * setting.contention
        size = min(encoded.wire_length, slot.length)
        sending = began + sampled * slot.sample_s * setting.contention + encode_s
        copied = sending + size * setting.send_copy_s * setting.contention
        decode_s = encoded.decode_s if size < slot.length else 0.0
        self.now = max(copied, self._until_it_fits(size, decode_s, sending))
        self._chooser.learn(
            Took(
                slot.length, size, self.now - began, encode_s, encoded.encode_s, self.now - sending,
                size * setting.send_copy_s,
            )
        )  # fmt: skip
        return name

    def _until_it_fits(self, size: int, decode_s: float, now: float) -> float:
        """Hand bytes over; when all of them are in the sockets' buffers, or through."""
        setting = self._setting
        begin, through = self._link.carry(size, now)
        taking = max(begin, self.taken_at)
        copy_s = setting.receive_copy_s * setting.contention
        received = max(through, taking + size * copy_s)
        self.taken_at = received + decode_s * setting.contention
        waiting = sum(bytes_ for _, bytes_ in self._under_way)
        until = now
        while self._under_way and waiting + size > setting.buffer_bytes:
            until, left = self._under_way.popleft()
            waiting -= left
        if size > setting.buffer_bytes:
            until = max(until, taking + (size - setting.buffer_bytes) * max(self._link.seconds_per_byte, copy_s))
        while self._under_way and self._under_way[0][0] <= now:
            self._under_way.popleft()
        self._under_way.append((received, size))
        return until


@dataclass(frozen=True)
class Simulated:
    """What a run came to."""

    seconds: float
    chosen: Mapping[str, int]
    """Encoding → slots."""


def simulate(setting: Setting, slots: Iterable[SimulatedSlot], choosers: Sequence[Chooser]) -> Simulated:
    """Send all of `slots`, each over the channel that is free first. `choosers`: one a channel."""
    link = _Link(setting.link_bytes_per_s)
    channels = [_Channel(setting, link, chooser) for chooser in choosers]
    chosen: dict[str, int] = {}
    for slot in slots:
        name = min(channels, key=lambda channel: channel.now).send(slot)
        chosen[name] = chosen.get(name, 0) + 1
    return Simulated(max(channel.taken_at for channel in channels), chosen)
