"""How a channel's sender encodes payload and sends it: always by one codec, or as `AutoChoice` says for each slot. All
of it is *worker*; the clocks that the choice needs are read here.
"""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from multifd.codec import AUTO, CODECS, NONE, create
from multifd.codec.auto import AutoChoice, Sampler, Took
from multifd.codec.interface import Codec
from multifd.engine.transport import DataSocket
from multifd.slot import Buffer
from multifd.wire.slots import CODEC_NONE


class Payload(NamedTuple):
    """A slot's payload as it goes to the wire."""

    encoding: str
    """What made it, `none` if it is the state itself."""
    codec: int
    buffers: Sequence[Buffer]
    length: int


class PayloadEncoder(abc.ABC):
    """One channel's. For each slot `encode`, then `send`."""

    encodings: tuple[str, ...]
    """All that it may come to."""

    @abc.abstractmethod
    def encode(self, buffers: Sequence[Buffer], length: int) -> Payload:
        """`length` bytes, not none. The payload is good until the next call."""

    def send(self, connection: DataSocket, parts: Sequence[Buffer]) -> None:
        """Send the slot that was encoded last. Raises `OSError`."""
        connection.send(parts)


def payload_encoder(name: str, *, codecs: Sequence[str], channels: int) -> PayloadEncoder:
    """For one of `channels` channels. `name` as in the options; `codecs`: those that the destination admits."""
    if name == AUTO:
        return AutoEncoder(codecs, contention=channels / len(os.sched_getaffinity(0)))
    return PlainEncoder() if name == NONE else FixedEncoder(name)


class PlainEncoder(PayloadEncoder):
    """Payload is the state itself."""

    encodings = (NONE,)

    def encode(self, buffers: Sequence[Buffer], length: int) -> Payload:
        """See `PayloadEncoder.encode`."""
        return Payload(NONE, CODEC_NONE, buffers, length)


class FixedEncoder(PayloadEncoder):
    """Always the same codec; what does not shrink travels plain."""

    def __init__(self, name: str) -> None:
        self._codec = create(name)
        self._name = name
        self.encodings = (NONE, name)

    def encode(self, buffers: Sequence[Buffer], length: int) -> Payload:
        """See `PayloadEncoder.encode`."""
        return _encoded(self._name, self._codec, buffers, length)


class AutoEncoder(PayloadEncoder):
    """Whatever is quickest, slot by slot."""

    def __init__(self, codecs: Sequence[str], *, contention: float) -> None:
        """See `AutoChoice`."""
        self._choice = AutoChoice([name for name in codecs if name in CODECS], contention=contention)
        self.encodings = self._choice.encodings
        self._codecs = {name: create(name) for name in self.encodings}
        self._sampler = Sampler()
        self._under_way: Took | None = None

    def encode(self, buffers: Sequence[Buffer], length: int) -> Payload:
        """See `PayloadEncoder.encode`."""
        began = time.perf_counter()
        fraction = self._sampler.fraction(buffers, length) if self._choice.wants_sample(length) else None
        name = self._choice.choose(length, fraction)
        encoding, processor = time.perf_counter(), time.thread_time()
        payload = _encoded(name, self._codecs[name], buffers, length)
        processor_s, ended = time.thread_time() - processor, time.perf_counter()
        self._under_way = Took(length, payload.length, ended - began, ended - encoding, processor_s)
        return payload

    def send(self, connection: DataSocket, parts: Sequence[Buffer]) -> None:
        """See `PayloadEncoder.send`. A slot without payload teaches nothing."""
        took, self._under_way = self._under_way, None
        began, processor = time.perf_counter(), time.thread_time()
        connection.send(parts)
        if took is not None:
            send_s, processor_s = time.perf_counter() - began, time.thread_time() - processor
            self._choice.learn(took._replace(busy_s=took.busy_s + send_s, send_s=send_s, send_processor_s=processor_s))


def _encoded(name: str, codec: Codec | None, buffers: Sequence[Buffer], length: int) -> Payload:
    encoded = codec.encode(buffers, length) if codec is not None else None
    if codec is None or encoded is None:
        return Payload(NONE, CODEC_NONE, buffers, length)
    return Payload(name, codec.number, (encoded,), len(encoded))
