"""A source written by hand over `multifd.wire`: it says and sends what a test wants, whatever it may."""

from __future__ import annotations

import os
import socket
import struct

from multifd import messages as m
from multifd.wire.control import ControlReader, serialize
from multifd.wire.preamble import MAIN_PREAMBLE, DataPreamble

WAIT_S = 8.0


class WireSource:
    """Blocking sockets, one after the other; every wait is bounded."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.session = os.urandom(16)
        self.secret = bytes(16)
        self.main = self.connect(MAIN_PREAMBLE)
        self.channels: list[socket.socket] = []
        self._reader = ControlReader()
        self._messages: list[m.Message] = []

    def connect(self, first: bytes = b"") -> socket.socket:
        """One more connection, with its first bytes written."""
        connection = socket.create_connection(("127.0.0.1", self.port), WAIT_S)
        connection.sendall(first)
        return connection

    def close(self) -> None:
        for connection in (self.main, *self.channels):
            connection.close()

    def tell(self, message: m.Message) -> None:
        self.main.sendall(serialize(message))

    def next(self) -> m.Message:
        """The next message of the destination."""
        while not self._messages:
            data = self.main.recv(1 << 16)
            assert data, "the destination closed main"
            self._messages = self._reader.feed(data)
        return self._messages.pop(0)

    def until(self, message_type: type) -> m.Message:
        """The next message of this type; others are dropped."""
        while not isinstance(message := self.next(), message_type):
            pass
        return message

    def hello(self) -> None:
        """Say HELLO and take the destination's."""
        self.tell(m.Hello((1, 1), self.session, bytes(16), (), 2, "by hand"))
        answer = self.until(m.Hello)
        assert isinstance(answer, m.Hello)
        self.secret = answer.secret

    def attach(self, blocks: tuple[m.BlockInfo, ...]) -> None:
        """Set-up to its end: two data channels are attached, state may flow."""
        self.hello()
        self.tell(m.Inventory(1, 1, blocks, (), (m.KindInfo("ram"), m.KindInfo("zero")), False))
        verdict = self.until(m.Verdict)
        assert isinstance(verdict, m.Verdict)
        assert verdict.accepted, verdict.refusals
        for number in (1, 2):
            self.channels.append(self.connect(DataPreamble(self.session, self.secret, number).serialize()))
        self.until(m.Attached)

    def load(self) -> None:
        """After `attach`: to LOADED, without having sent any state."""
        self.tell(m.StopCopy({}))
        self.tell(m.End((0, 0), {}, 0))
        self.until(m.Loaded)

    def reset(self) -> None:
        """Main is lost as if this host had crashed: the destination sees a reset."""
        self.main.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.main.close()
