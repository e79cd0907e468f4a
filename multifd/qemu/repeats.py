"""Pages that come twice between two sync points: what no source should send, and where an old one does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from multifd.elements import Offsets, RamPacket
from multifd.errors import StorageError


class Seen:
    """Which pages of a block came since the last sync point."""

    def __init__(self, pages: int) -> None:
        """Raises `StorageError` if there is no memory for so many."""
        try:  # zeros: of a block that no page comes to nothing is ever in memory
            self._interval: npt.NDArray[np.int32] = np.zeros(pages, dtype=np.int32)  # in which it came last, and one
        except MemoryError:
            raise StorageError(f"no memory to follow {pages} pages") from None

    def repeated(self, numbers: Offsets, interval: int) -> Offsets:
        """Enter these pages as seen in this interval between two sync points. Returns those that were there already."""
        again = self._interval[numbers] == interval + 1
        again[np.setdiff1d(np.arange(len(numbers)), np.unique(numbers, return_index=True)[1])] = True
        self._interval[numbers] = interval + 1
        repeated: Offsets = numbers[again]
        return repeated


class Seams:
    """Sources before 9.0 at times send the last page of a full packet once more, as the first of the next packet. Both
    have the same contents, so that their order does not matter: seen in streams of stock 7.2.
    """

    def __init__(self) -> None:
        self.count = 0
        self._interval = 0
        self._ends: set[tuple[str, int, int, int]] = set()
        """Block, page, number of the packet, and 0 if the page is its first or 1 if it is its last."""

    def explain(self, packet: RamPacket, repeated: Offsets, page_size: int, interval: int) -> bool:
        """Enter a packet; whether this is why these of its pages came twice."""
        if interval != self._interval:
            self._interval, self._ends = interval, set()
        if not len(packet.normal):
            return False
        first, last = int(packet.normal[0]) // page_size, int(packet.normal[-1]) // page_size
        explained = [
            page
            for page, number, end in ((first, packet.number - 1, 1), (last, packet.number + 1, 0))
            if page in repeated and (packet.block, page, number, end) in self._ends
        ]
        self._ends |= {(packet.block, first, packet.number, 0), (packet.block, last, packet.number, 1)}
        if len(explained) != len(repeated):
            return False
        self.count += len(explained)
        return True
