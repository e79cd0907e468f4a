"""Somebody in between who reads everything, and passes it on slot by slot and message by message, as its rules say.

A rule is asked about each message of one type and returns what goes on in its place. Without a rule a message passes.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.remote import WAIT_S
from multifd import messages as m
from multifd.engine.transport import Address
from multifd.wire.control import ControlReader, serialize
from multifd.wire.preamble import DATA_PREAMBLE_BYTES, PREAMBLE_BYTES, DataPreamble, Role, parse_role
from multifd.wire.slots import HEADER_BYTES, SlotHeader, parse_header

_READ_BYTES = 65536


class Cut(enum.Enum):
    """What a rule can say besides messages: main is cut here."""

    AND_SERVE = "later connections are served"
    AND_REFUSE = "no later connection is"


Rule = Callable[[m.Message], Sequence[m.Message | Cut]]
SpoilRule = Callable[[SlotHeader], bool]
"""Whether a byte of this slot's payload is to be turned over."""


class Way(enum.Enum):
    """Of a message."""

    TO_DESTINATION = "to the destination"
    TO_SOURCE = "to the source"


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that came by, before any rule was asked. `at` is of the clock that all processes share."""

    way: Way
    message: m.Message
    at: float


def drop(_message: m.Message) -> Sequence[m.Message]:
    """It is lost."""
    return ()


def twice(message: m.Message) -> Sequence[m.Message]:
    """It comes twice."""
    return (message, message)


def cut_before(_message: m.Message) -> Sequence[m.Message | Cut]:
    """Main is cut, and the message is lost."""
    return (Cut.AND_SERVE,)


def cut_after(message: m.Message) -> Sequence[m.Message | Cut]:
    """It is the last that arrives."""
    return (message, Cut.AND_SERVE)


def cut_off_before(_message: m.Message) -> Sequence[m.Message | Cut]:
    """It is lost, main is cut, and nobody can connect any more."""
    return (Cut.AND_REFUSE,)


def cut_off_after(message: m.Message) -> Sequence[m.Message | Cut]:
    """It arrives, main is cut, and nobody can connect any more."""
    return (message, Cut.AND_REFUSE)


@dataclass(slots=True)
class Held:
    """Messages of one type that are held back until they are let go."""

    _proxy: Proxy
    _way: Way
    _messages: list[m.Message] = field(default_factory=list)
    _open: bool = False

    def __call__(self, message: m.Message) -> Sequence[m.Message]:
        """The rule."""
        if self._open:
            return (message,)
        self._messages.append(message)
        return ()

    def release(self) -> None:
        """Let those that were held go on, and hold no more."""
        self._open = True
        for message in self._messages:
            self._proxy.inject(self._way, message)
        self._messages.clear()


class Proxy:
    """Between a source and a destination. Open until `close`; serves any number of connections."""

    def __init__(self, target: str) -> None:
        self.seen: list[Seen] = []
        self.slots: list[SlotHeader] = []
        """Headers of all slots, in the order in which they came by."""
        self.data_channels = 0
        self.questions = 0
        """Main connections that began with OUTCOME, refused ones not counted."""
        self.refusing = False
        """Close every new connection at once."""
        self.spoil: SpoilRule | None = None
        self._target = Address.parse(target)
        self._rules: dict[tuple[Way | None, type], Rule] = {}
        self._server: asyncio.Server | None = None
        self._mains: dict[Way, asyncio.StreamWriter] = {}
        self._channels: dict[int, list[asyncio.StreamWriter]] = {}
        self._cut = False
        self._serving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def open(self) -> str:
        """Begin to listen; the address for the source."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """End all connections and stop listening."""
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def stop_listening(self) -> None:
        """Nobody can connect any more; what is connected stays."""
        assert self._server is not None
        self._server.close()

    # -- rules

    def rule(self, message_type: type, rule: Rule, *, way: Way | None = None) -> None:
        """From now on, for messages of this type, of one way if both have it."""
        self._rules[way, message_type] = rule

    def hold(self, way: Way, message_type: type) -> Held:
        """Hold messages of this type back."""
        held = Held(self, way)
        self.rule(message_type, held, way=way)
        return held

    def inject(self, way: Way, message: m.Message) -> None:
        """As if the other end had written it."""
        self._mains[way].write(serialize(message))

    def cut_main(self) -> None:
        """Both ends see the other close main; nothing that they write arrives any more."""
        self._cut = True
        for writer in self._mains.values():
            writer.write_eof()

    def cut_channel(self, number: int) -> None:
        """A data channel is reset at both ends."""
        for writer in self._channels[number]:
            writer.transport.abort()

    # -- what came by

    def count(self, message_type: type) -> int:
        """Messages of this type."""
        return len(self.of(message_type))

    def of(self, message_type: type) -> list[Any]:
        """Messages of this type, in order."""
        return [seen.message for seen in self.seen if type(seen.message) is message_type]

    def at(self, message_type: type) -> float:
        """When the first of this type came by."""
        return next(seen.at for seen in self.seen if type(seen.message) is message_type)

    def place(self, condition: Callable[[m.Message], bool]) -> int:
        """Where among all messages the first one that fits is."""
        return next(number for number, seen in enumerate(self.seen) if condition(seen.message))

    async def saw(self, message_type: type, *, times: int = 1, where: Callable[[Any], bool] | None = None) -> None:
        """Until so many messages of this type (that fit) have come by."""

        def enough() -> bool:
            return sum(where is None or where(message) for message in self.of(message_type)) >= times

        await self.until(enough, f"{times} of {message_type.__name__}")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Until something is true of what came by."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"waited {WAIT_S} s for {what}; saw {self.story()}") from None

    def story(self) -> str:
        """The types of all messages, in order."""
        return " ".join(("<" if s.way is Way.TO_SOURCE else ">") + type(s.message).__name__ for s in self.seen)

    # -- connections

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            back, onward = await asyncio.open_connection(self._target.host, self._target.port)
            first = await reader.readexactly(PREAMBLE_BYTES)
            onward.write(first)
            if parse_role(first) is Role.DATA:
                await self._pass_data(first, reader, onward, writer)
            else:
                await self._pass_main(reader, onward, back, writer)
        except* (OSError, EOFError):
            pass  # an end went away: so does the other
        finally:
            writer.transport.abort()
            if onward is not None:
                onward.transport.abort()

    async def _pass_data(
        self, first: bytes, reader: asyncio.StreamReader, onward: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        rest = await reader.readexactly(DATA_PREAMBLE_BYTES - PREAMBLE_BYTES)
        onward.write(rest)
        self._channels[DataPreamble.parse(first + rest).channel] = [onward, back]
        self.data_channels += 1
        while head := await reader.read(1):
            head += await reader.readexactly(HEADER_BYTES - 1)
            header = parse_header(head)
            meta = await reader.readexactly(header.meta_length)
            payload = bytearray(await reader.readexactly(header.payload_length))
            self.slots.append(header)
            self._changed.set()
            if payload and self.spoil is not None and self.spoil(header):
                payload[len(payload) // 2] ^= 0xFF
            onward.write(head + meta + payload)
            await onward.drain()
        onward.write_eof()

    async def _pass_main(
        self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter, back: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        """One that begins with HELLO is *the* main; one that begins with OUTCOME has rules but can't be cut."""
        ways: dict[Way, asyncio.StreamWriter] = {Way.TO_DESTINATION: onward, Way.TO_SOURCE: writer}
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pass_messages(Way.TO_DESTINATION, reader, ways))
            both.create_task(self._pass_messages(Way.TO_SOURCE, back, ways))

    async def _pass_messages(
        self, way: Way, reader: asyncio.StreamReader, ways: dict[Way, asyncio.StreamWriter]
    ) -> None:
        parser = ControlReader()
        while data := await reader.read(_READ_BYTES):
            for message in parser.feed(data):
                if isinstance(message, m.Hello) and way is Way.TO_DESTINATION:
                    self._mains, self._cut = ways, False
                self.questions += isinstance(message, m.AskOutcome)
                self.seen.append(Seen(way, message, time.monotonic()))
                rule = self._rules.get((way, type(message))) or self._rules.get((None, type(message)))
                for each in (message,) if rule is None else rule(message):
                    if isinstance(each, Cut):
                        self.refusing = each is Cut.AND_REFUSE
                        self.cut_main()
                    elif not (self._cut and ways is self._mains):
                        ways[way].write(serialize(each))
                self._changed.set()
        if not (self._cut and ways is self._mains):
            ways[way].write_eof()
