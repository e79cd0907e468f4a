"""How much of what strangers offer is held at a time: nobody has to show that there is state behind an INVENTORY. Loop
only; one for each listener.
"""

from __future__ import annotations

import sys

from multifd import limits
from multifd import messages as m

_ITEM_BYTES = 112  # an item's object, its numbers and its places in lists, but not its texts (measured)


class InventoryRoom:
    """Memory for the INVENTORYs of all sessions that are not decided yet. Each may have `INVENTORY_FREE_BYTES` in any
    case, so that small offers are taken whatever large ones are there.
    """

    def __init__(self) -> None:
        self._held: dict[object, int] = {}

    def take(self, session: object, page: m.Inventory) -> bool:
        """Room for one more page of a session's. False if there is none."""
        held = self._held.get(session, 0) + _memory_bytes(page)
        others = sum(map(_counted, self._held.values())) - _counted(self._held.get(session, 0))
        if _counted(held) + others > limits.INVENTORIES_BYTES_MAX:
            return False
        self._held[session] = held
        return True

    def give_back(self, session: object) -> None:
        """It is decided, or has ended. Idempotent."""
        self._held.pop(session, None)


def _counted(held: int) -> int:
    return max(0, held - limits.INVENTORY_FREE_BYTES)


def _memory_bytes(page: m.Inventory) -> int:
    """About what a page takes here: a text takes up to four bytes for each of its characters."""
    texts = [block.name for block in page.blocks]
    texts += [text for device in page.devices for text in (device.id, device.token)]
    texts += [kind.name for kind in page.kinds]
    return _ITEM_BYTES * len(texts) + sum(map(sys.getsizeof, texts))
