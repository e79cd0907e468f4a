"""Which channels of a migration are there, and whether one that comes may be one of them (proto/qemu.md section 1)."""

from __future__ import annotations

from multifd.elements import Handshake
from multifd.errors import RemoteProtocolError


class ChannelRoll:
    """Channels 0..count-1 of one machine. `uuid` is what they must say; None takes what the first one says."""

    def __init__(self, count: int, uuid: bytes | None) -> None:
        self.count = count
        self.uuid = uuid
        self.there: set[int] = set()
        self.dropped = ""
        """Why a channel was turned away, in words, as the reason that a source may give is another."""

    @property
    def complete(self) -> bool:
        """Whether all are there."""
        return len(self.there) == self.count

    def handle_handshake(self, handshake: Handshake) -> None:
        """A channel has come. Raises `RemoteProtocolError` if it can't be one of these."""
        try:
            self._check(handshake)
        except RemoteProtocolError as error:
            self.dropped = f"a channel was dropped before: {error}"
            raise
        self.there.add(handshake.channel)
        self.uuid = handshake.uuid

    def missing(self) -> str:
        """Which connections have not come, in words."""
        if self.complete:
            return "the source's main connection"
        came = f"{len(self.there)} of {self.count} channels came"
        return f"all channels: {came}; is multifd-channels at the source {self.count}?"

    def _check(self, handshake: Handshake) -> None:
        if not 0 <= handshake.channel < self.count:
            expected = f"a channel below {self.count}; multifd-channels must be the same at both ends"
            raise RemoteProtocolError("handshake: channel", expected, handshake.channel)
        if handshake.channel in self.there:
            raise RemoteProtocolError("handshake: channel", "each channel once", handshake.channel)
        if self.uuid is not None and handshake.uuid != self.uuid:
            raise RemoteProtocolError("handshake: uuid", self.uuid.hex(), handshake.uuid.hex())
