"""Which channels of a migration are there, and whether one that comes may be one of them (proto/qemu.md section 1)."""

from __future__ import annotations

from multifd.elements import Handshake
from multifd.errors import RemoteProtocolError


class ChannelRoll:
    """Channels 0..count-1 of one machine. `uuid` is what they must say; None takes what the first one says."""

    def __init__(self, count: int, uuid: bytes | None) -> None:
        self.count = count
        self.uuid = uuid
        self._expected = uuid
        self._early: set[int] = set()
        self.there: set[int] = set()
        self.dropped = ""
        """Why a channel was turned away, in words, as the reason that a source may give is another."""

    @property
    def complete(self) -> bool:
        """Whether all are there."""
        return len(self.there) == self.count

    def handle_handshake(self, handshake: Handshake, *, early: bool = False) -> frozenset[int]:
        """A channel has come. Raises `RemoteProtocolError` if it can't be one of these.

        `early`: before main was heard. Such a one may be a stranger's, and is forgotten for a later one that
        contradicts it. Returns the numbers of those.
        """
        forgotten = self._forget(handshake)
        try:
            self._check(handshake)
        except RemoteProtocolError as error:
            self.dropped = f"a channel was dropped before: {error}"
            raise
        self.there.add(handshake.channel)
        self.uuid = handshake.uuid
        if early:
            self._early.add(handshake.channel)
        return forgotten

    def expect(self, uuid: bytes) -> None:
        """Main has said which machine it is."""
        self.uuid = self._expected = uuid

    def settle(self) -> None:
        """All are there, and main is heard: none is forgotten any more."""
        self._early.clear()

    def missing(self) -> str:
        """Which connections have not come, in words."""
        if self.complete:
            return "the source's main connection"
        came = f"{len(self.there)} of {self.count} channels came"
        return f"all channels: {came}; is multifd on at the source, and multifd-channels {self.count}?"

    def _forget(self, newer: Handshake) -> frozenset[int]:
        if not 0 <= newer.channel < self.count or self._expected not in (None, newer.uuid):
            return frozenset()  # it is to be turned away itself
        if newer.uuid == self.uuid:
            forgotten = self._early & {newer.channel}
        else:
            forgotten = self._early if self.there == self._early else set()
        self.there -= forgotten
        self._early = self._early - forgotten
        if not self.there:
            self.uuid = self._expected
        return frozenset(forgotten)

    def _check(self, handshake: Handshake) -> None:
        if not 0 <= handshake.channel < self.count:
            expected = f"a channel below {self.count}; multifd-channels must be the same at both ends"
            raise RemoteProtocolError("handshake: channel", expected, handshake.channel)
        if handshake.channel in self.there:
            raise RemoteProtocolError("handshake: channel", "each channel once", handshake.channel)
        if self.uuid is not None and handshake.uuid != self.uuid:
            raise RemoteProtocolError("handshake: uuid", self.uuid.hex(), handshake.uuid.hex())
