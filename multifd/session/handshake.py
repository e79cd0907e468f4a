"""The decisions of the set-up (proto/control.md section 3): version, features, INVENTORY in pages, VERDICT per device.

Knows nothing of states, channels or bytes on the wire; asks no device itself. Called by `session.source` and
`session.destination`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from multifd import limits
from multifd.errors import Code, LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.messages import BlockInfo, DeviceInfo, DeviceVerdict, Inventory, KindInfo, Refusal, What

PAGE_BYTES_MAX = limits.FRAME_BYTES_MAX // 2  # sizes here are estimates
BLOCK_BYTES = 64  # of a map in msgpack: its keys, its numbers, a margin; without its texts
DEVICE_BYTES = 160
KIND_BYTES = 24
REFUSAL_BYTES = 64
DEVICES_MAX = limits.ITEMS_MAX  # VERDICT has one array with an entry for each

Item = BlockInfo | DeviceInfo | KindInfo
_Key = TypeVar("_Key", str, tuple[str, int])


def choose_version(ours: tuple[int, int], theirs: tuple[int, int]) -> int:
    """The highest version in both ranges [lowest, highest].

    Raises `RefusedError` if there is none, `RemoteProtocolError` if theirs is no range.
    """
    if not 1 <= theirs[0] <= theirs[1]:
        raise RemoteProtocolError("HELLO.versions", "1 <= lowest <= highest", theirs)
    version = min(ours[1], theirs[1])
    if version < max(ours[0], theirs[0]):
        cause = f"versions {ours[0]} to {ours[1]} here, {theirs[0]} to {theirs[1]} at the peer"
        raise RefusedError((Refusal(What.SESSION, "version", Code.VERSION, cause),))
    return version


def check_features(wanted: Iterable[str], able: Iterable[str]) -> None:
    """Raises `RefusedError` with one refusal for each feature that the source wants and the destination lacks."""
    missing = sorted(set(wanted) - set(able))
    if missing:
        cause = "the source asks for this feature, the destination lacks it"
        raise RefusedError(tuple(Refusal(What.SESSION, name, Code.FEATURE, cause) for name in missing))


class InventoryBuilder:
    """Gathers INVENTORY's pages at the destination. The lists are whole when `handle_page` has returned True."""

    def __init__(self) -> None:
        self.blocks: list[BlockInfo] = []
        self.devices: list[DeviceInfo] = []
        self.kinds: list[KindInfo] = []
        self.preflight = False
        self._page = 0
        self._pages = 0
        self._bytes = 0

    def handle_page(self, inventory: Inventory) -> bool:
        """Take one page; True if it was the last.

        Raises `RemoteProtocolError` for a page out of order, for more than `INVENTORY_BYTES_MAX` in all, and with the
        last page for a name that comes twice.
        """
        self._check_order(inventory)
        items: tuple[Item, ...] = (*inventory.blocks, *inventory.devices, *inventory.kinds)
        self._bytes += sum(map(_counted_bytes, items))
        if self._bytes > limits.INVENTORY_BYTES_MAX:
            raise RemoteProtocolError("INVENTORY", f"items that count {limits.INVENTORY_BYTES_MAX} bytes", self._bytes)
        devices_in_all = len(self.devices) + len(inventory.devices)
        if devices_in_all > DEVICES_MAX:
            raise RemoteProtocolError("INVENTORY.devices", f"at most {DEVICES_MAX} in all", devices_in_all)
        self.blocks += inventory.blocks
        self.devices += inventory.devices
        self.kinds += inventory.kinds
        if self._page < self._pages:
            return False
        twice = _find_twice(self.blocks, self.devices, self.kinds)
        if twice is not None:
            raise RemoteProtocolError(f"INVENTORY.{twice[0]}", "each name once", twice[1])
        return True

    def hand_over(self) -> tuple[tuple[BlockInfo, ...], tuple[DeviceInfo, ...], tuple[KindInfo, ...]]:
        """The lists, which are not kept here: they may be large."""
        lists = tuple(self.blocks), tuple(self.devices), tuple(self.kinds)
        self.blocks, self.devices, self.kinds = [], [], []
        return lists

    def _check_order(self, inventory: Inventory) -> None:
        if not 1 <= inventory.pages <= limits.INVENTORY_PAGES_MAX:
            raise RemoteProtocolError("INVENTORY.pages", f"1 to {limits.INVENTORY_PAGES_MAX}", inventory.pages)
        if self._page == 0:
            self._pages = inventory.pages
            self.preflight = inventory.preflight
        if self._page == self._pages:
            raise RemoteProtocolError("INVENTORY", f"nothing after page {self._pages}, the last", inventory.page)
        if inventory.pages != self._pages:
            raise RemoteProtocolError("INVENTORY.pages", f"{self._pages} as on the first page", inventory.pages)
        if inventory.preflight != self.preflight:
            expected = f"{self.preflight} as on the first page"
            raise RemoteProtocolError("INVENTORY.preflight", expected, inventory.preflight)
        if inventory.page != self._page + 1:
            raise RemoteProtocolError("INVENTORY.page", f"page {self._page + 1}", inventory.page)
        self._page = inventory.page


def _find_twice(
    blocks: Iterable[BlockInfo], devices: Iterable[DeviceInfo], kinds: Iterable[KindInfo]
) -> tuple[str, object] | None:
    """A field, and a name in it that comes twice. Sorts: sets would take as much memory as the blocks themselves."""
    blocks_twice = _repeated(block.name for block in blocks)
    if blocks_twice is not None:
        return "blocks", blocks_twice
    devices_twice = _repeated((device.id, device.instance) for device in devices)
    if devices_twice is not None:
        return "devices", devices_twice
    kinds_twice = _repeated(kind.name for kind in kinds)
    return None if kinds_twice is None else ("kinds", kinds_twice)


def _repeated(keys: Iterable[_Key]) -> _Key | None:
    return next((one for one, other in pairwise(sorted(keys)) if one == other), None)


def paginate(
    blocks: Sequence[BlockInfo], devices: Sequence[DeviceInfo], kinds: Sequence[KindInfo], *, preflight: bool
) -> list[Inventory]:
    """INVENTORY as pages that fit a frame: `ITEMS_MAX` items and about `PAGE_BYTES_MAX` bytes each, at least one page.

    Raises `LocalProtocolError` for more than INVENTORY can carry, or a name that comes twice.
    """
    twice = _find_twice(blocks, devices, kinds)
    if twice is not None:
        raise LocalProtocolError(f"INVENTORY.{twice[0]}", "each name once", twice[1])
    if len(devices) > DEVICES_MAX:
        raise LocalProtocolError("INVENTORY.devices", f"at most {DEVICES_MAX}", len(devices))
    pages: list[list[Item]] = [[]]
    page_bytes = 0
    items: list[Item] = [*blocks, *devices, *kinds]
    counted = sum(map(_counted_bytes, items))
    if counted > limits.INVENTORY_BYTES_MAX:
        raise LocalProtocolError("INVENTORY", f"items that count {limits.INVENTORY_BYTES_MAX} bytes", counted)
    for item in items:
        item_bytes = _item_bytes(item)
        if len(pages[-1]) >= limits.ITEMS_MAX or (pages[-1] and page_bytes + item_bytes > PAGE_BYTES_MAX):
            pages.append([])
            page_bytes = 0
        pages[-1].append(item)
        page_bytes += item_bytes
    if len(pages) > limits.INVENTORY_PAGES_MAX:
        raise LocalProtocolError("INVENTORY.pages", f"at most {limits.INVENTORY_PAGES_MAX}", len(pages))
    return [_page(number, len(pages), page, preflight=preflight) for number, page in enumerate(pages, 1)]


def _item_bytes(item: Item) -> int:
    if isinstance(item, BlockInfo):
        return BLOCK_BYTES + len(item.name.encode())
    if isinstance(item, DeviceInfo):
        return DEVICE_BYTES + len(item.id.encode()) + len(item.token.encode())
    return KIND_BYTES + len(item.name.encode())


def _counted_bytes(item: Item) -> int:
    """What it counts for in `INVENTORY_BYTES_MAX`: what it takes of a destination's memory, about."""
    texts = (item.id, item.token) if isinstance(item, DeviceInfo) else (item.name,)
    return limits.INVENTORY_ITEM_BYTES + sum(len(text.encode()) for text in texts)


def _page(number: int, pages: int, items: Sequence[Item], *, preflight: bool) -> Inventory:
    return Inventory(
        page=number,
        pages=pages,
        blocks=tuple(item for item in items if isinstance(item, BlockInfo)),
        devices=tuple(item for item in items if isinstance(item, DeviceInfo)),
        kinds=tuple(item for item in items if isinstance(item, KindInfo)),
        preflight=preflight,
    )


@dataclass(frozen=True, slots=True)
class DeviceOffer:
    """A device of the source, and what the destination's own says of it.

    `supports_here`: whether the one here supports explicit switchover, None if there is no such device here.
    `refusal`: why it does not take the source's state, in words, or None.
    """

    info: DeviceInfo
    supports_here: bool | None
    refusal: str | None


def decide_devices(
    offers: Iterable[DeviceOffer], *, explicit: bool, credit: int
) -> tuple[list[DeviceVerdict], list[Refusal]]:
    """One verdict for each offer, in order, and every reason against any. `explicit`: the feature is in use.

    `credit` is the first grant in bytes; a device that is refused gets none.
    """
    verdicts = []
    refusals = []
    for offer in offers:
        reasons = list(_device_reasons(offer, explicit=explicit))
        takes_part = explicit and offer.info.explicit_switchover and not reasons
        verdicts.append(DeviceVerdict(takes_part, 0 if reasons else credit))
        refusals += [Refusal(What.DEVICE, offer.info.name, code, cause) for code, cause in reasons]
    return verdicts, refusals


def _device_reasons(offer: DeviceOffer, *, explicit: bool) -> Iterable[tuple[Code, str]]:
    if offer.supports_here is None:
        yield Code.REFUSED, "no such device at the destination"
        return
    if offer.refusal is not None:
        yield Code.DEVICE, offer.refusal
    if explicit and offer.info.explicit_switchover and not offer.supports_here:
        yield Code.FEATURE, "supports explicit switchover at the source, but not at the destination"


def fit_refusals(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """As many as fit in a VERDICT, in order, at least one of any; long texts cut to what a text may have.

    Causes quote the peer's own texts (a token), so their length is in its hands.
    """
    fitting: list[Refusal] = []
    left = PAGE_BYTES_MAX
    for refusal in refusals:
        name = fit_text(refusal.name, limits.NAME_BYTES_MAX)
        cause = fit_text(refusal.cause)
        left -= REFUSAL_BYTES + len(name.encode()) + len(cause.encode())
        if left < 0 or len(fitting) >= limits.ITEMS_MAX:
            break
        fitting.append(Refusal(refusal.what, name, refusal.code, cause))
    return tuple(fitting)


def fit_text(text: str, bytes_max: int = limits.TEXT_BYTES_MAX) -> str:
    """A text as the wire takes it: what UTF-8 can't say (a file name's odd bytes) replaced, and cut to its bound."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= bytes_max:
        return encoded.decode()
    return encoded[: bytes_max - 3].decode(errors="ignore") + "..."
