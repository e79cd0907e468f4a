"""Marks on main and SYNC packets on channels, brought together (proto/qemu.md section 5): the k-th mark pairs with the
k-th SYNC of every channel. Knows neither pages nor sockets.

A channel that has delivered its SYNC stops. Main stops at its mark. When all are there all go on.
"""

from __future__ import annotations

from multifd.elements import Phase, SyncDialect
from multifd.errors import LocalProtocolError, RemoteProtocolError


class SyncBarrier:
    """The destination's barrier of channels 0..channels-1; finds out the dialect in RAM's START."""

    def __init__(self, channels: int) -> None:
        self.dialect: SyncDialect | None = None
        self.marks = 0
        """On main so far."""
        self._channels = channels
        self._stopped: set[int] = set()
        self._surplus: set[int] | None = None  # channels with a SYNC beyond the last mark; None before main's end
        self._at_mark = False

    @property
    def blocked(self) -> bool:
        """Main is at a mark and has to wait."""
        return self._at_mark

    @property
    def missing(self) -> list[int]:
        """Channels that have not delivered the SYNC of the newest mark, or of the next."""
        return [channel for channel in range(self._channels) if channel not in self._stopped]

    def handle_sync_mark(self, offset: int) -> None:
        """The record MULTIFD_FLUSH at `offset` of main. Raises `RemoteProtocolError` in the per-section dialect."""
        if self.dialect is SyncDialect.PER_SECTION:
            raise RemoteProtocolError(
                f"main at {offset}: ram record 0x200", "none, since START had none: the end of each section is a mark"
            )
        self.dialect = SyncDialect.PER_ROUND
        self._mark()

    def handle_ram_ends(self, phase: Phase) -> None:
        """A section of RAM has ended. If it is START, and had no mark, such ends are the marks."""
        if self.dialect is None:
            if phase is not Phase.START:
                raise LocalProtocolError("end of a ram section", "START first", phase.name)
            self.dialect = SyncDialect.PER_SECTION
        if self.dialect is SyncDialect.PER_SECTION:
            self._mark()

    def handle_synced(self, channel: int, offset: int) -> None:
        """A channel delivered a SYNC, which ends at its `offset`, and stopped.

        Raises `RemoteProtocolError` for a second one after main's end, `LocalProtocolError` if the channel had stopped
        already.
        """
        if not 0 <= channel < self._channels or channel in self._stopped:
            raise LocalProtocolError("SYNC", f"a channel below {self._channels} that has not stopped", channel)
        if self._surplus is None:
            self._stopped.add(channel)
        elif channel in self._surplus:
            raise RemoteProtocolError(
                f"channel {channel} at {offset}: SYNC", "a mark on main for each SYNC but one at the very end"
            )
        else:
            self._surplus.add(channel)

    def poll_release(self) -> bool:
        """Whether main and all channels are at the same point; they then go on."""
        if not self._at_mark or len(self._stopped) < self._channels:
            return False
        self._at_mark = False
        self._stopped.clear()
        return True

    def finish(self) -> None:
        """Main has come to its end. Each channel may have one more SYNC: sources of 9.1 and 9.2 send one."""
        if self._at_mark:
            raise LocalProtocolError("end of main", "it not before the last mark is met")
        self._surplus = self._stopped
        self._stopped = set()

    def _mark(self) -> None:
        if self._at_mark or self._surplus is not None:
            raise LocalProtocolError("sync mark", "it not before the one before is met, and not after main's end")
        self._at_mark = True
        self.marks += 1
