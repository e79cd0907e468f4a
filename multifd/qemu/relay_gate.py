"""What of a source's main stream may go on to the far end, and when. Does no I/O.

While the guest runs everything goes on as it comes, but for marks of sync points: a QEMU that meets one stands still,
its monitor too, until every channel's SYNC is there, so they wait for these. From the end of RAM on only whole sections
go on, and the end of the stream (`00` and the VM description) stays here until `last`: a QEMU that has it starts the
guest.
"""

from __future__ import annotations

from collections.abc import Iterator

from multifd.elements import Description, EndOfState, Phase, RamEnds, StreamElement, SyncMark
from multifd.wire.qemu_stream import StreamReader

_MARK_BYTES = 8


class MainGate:
    """One stream. Keeps at most one section that is not whole, and the description."""

    def __init__(self, *, description: bool = True) -> None:
        """`description` as for `StreamReader`."""
        self._reader = StreamReader(description=description)
        self._kept = bytearray()
        self._whole_at: int | None = None
        """Up to where the far end may have it; None while that is everything."""
        self._mark_at = 0
        """Where the last record began that may be a mark."""
        self.came_bytes = 0
        self.passed_bytes = 0

    @property
    def offset(self) -> int:
        """Of the next byte that is not parsed."""
        return self._reader.offset

    @property
    def whole(self) -> bool:
        """Whether the stream has come to its end."""
        return self._reader.finished

    def feed(self, data: bytes) -> Iterator[StreamElement]:
        """The elements that `data` completes. Exhaust it, then `take` what may go on; at a mark, `take_before_mark`
        first, and wait. Raises `RemoteProtocolError`.
        """
        self._kept += data
        self.came_bytes += len(data)
        for element in self._reader.feed(data):
            if isinstance(element, SyncMark | RamEnds):
                self._mark_at = self._reader.offset - _MARK_BYTES
            is_ram_end = isinstance(element, RamEnds) and element.phase is Phase.END
            is_end = isinstance(element, EndOfState | Description)
            if is_ram_end or (self._whole_at is not None and not is_end):
                self._whole_at = self._reader.offset
            yield element

    def take(self) -> bytes:
        """What may go on now."""
        if self._whole_at is None:
            return self._pass(len(self._kept))
        return self._pass(self._whole_at - self.passed_bytes)

    def take_before_mark(self) -> bytes:
        """What may go on while the mark that was given last waits."""
        return self._pass(self._mark_at - self.passed_bytes)

    def last(self) -> bytes:
        """The end of a stream that is whole."""
        return self._pass(self._reader.offset - self.passed_bytes)

    def end(self) -> None:
        """Nothing more comes. Raises `RemoteProtocolError`, with what is missing, unless the stream is whole."""
        self._reader.end()

    def _pass(self, count: int) -> bytes:
        passed = bytes(memoryview(self._kept)[:count]) if count > 0 else b""
        del self._kept[: len(passed)]
        self.passed_bytes += len(passed)
        return passed
