"""What a source offers, held against what is here: every reason to refuse, not the first. Runs in a helper thread: a
provider may touch the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from multifd import limits
from multifd import messages as m
from multifd.device.interface import Device
from multifd.engine.names import BUILT_IN
from multifd.errors import Code, MultifdError, StorageError
from multifd.memory import Block
from multifd.session.actions import Decide
from multifd.session.handshake import DeviceOffer, decide_devices
from multifd.slot import SlotKind

Provider = Callable[[m.BlockInfo], Block]
"""Makes a block for what the source offers, or raises `StorageError` with the reason to refuse it. Its blocks are
closed at the session's end; if that comes while it is being asked, it is asked for no more.
"""

DeviceProvider = Callable[[Sequence[m.DeviceInfo]], Sequence[Device]]
"""Makes the devices for what a source offers, anew for each offer; those that it does not make are refused. What it
raises refuses the offer.
"""


@dataclass(slots=True)
class Offer:
    """What was found: blocks and devices in the order of INVENTORY. The loop may release it while a helper thread still
    decides on it.
    """

    blocks: list[Block] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    refusals: list[m.Refusal] = field(default_factory=list)
    device_offers: list[DeviceOffer] = field(default_factory=list)
    _provided: list[Block] = field(default_factory=list)
    _released: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def verdict(self, *, explicit: bool, credit: int) -> tuple[list[m.Refusal], list[m.DeviceVerdict]]:
        """All refusals, and what is decided for each device."""
        verdicts, refusals = decide_devices(self.device_offers, explicit=explicit, credit=credit)
        return [*self.refusals, *refusals], verdicts

    def refuse(self, what: m.What, name: str, cause: str, code: Code = Code.REFUSED) -> None:
        """One more reason; those that VERDICT has no room for are not kept."""
        if len(self.refusals) < limits.ITEMS_MAX:
            self.refusals.append(m.Refusal(what, name, code, cause))

    def add_provided(self, block: Block) -> bool:
        """*pool*: one more block that a provider made. False, and the block is closed, if nobody wants it any more."""
        with self._lock:
            if not self._released:
                self._provided.append(block)
                self.blocks.append(block)
                return True
        block.close()
        return False

    def release(self) -> None:
        """*any*: close the blocks that a provider made, and those that it is about to make. Idempotent."""
        with self._lock:
            self._released = True
            provided, self._provided = self._provided, []
        for block in provided:
            block.close()


def decide(
    offer: Offer,
    action: Decide,
    *,
    blocks: Sequence[Block] | Provider,
    devices: Sequence[Device] | DeviceProvider,
    kinds: Sequence[SlotKind],
) -> None:
    """*pool*: hold what is offered against what is here, and fill `offer`: the caller's, so that it can release it at
    any time.
    """
    if callable(blocks):
        _provide(offer, action.blocks, blocks)
    else:
        _match_blocks(offer, action.blocks, blocks)
    _match_devices(offer, action.devices, _made(offer, action, devices) if callable(devices) else devices)
    known = {*BUILT_IN, *(kind.name for kind in kinds)}
    for kind in action.kinds:
        if kind.name not in known:
            offer.refuse(m.What.KIND, kind.name, "unknown here")


def _provide(offer: Offer, infos: Sequence[m.BlockInfo], provider: Provider) -> None:
    for info in infos:
        try:
            block = provider(info)
        except StorageError as error:
            offer.refuse(m.What.BLOCK, info.name, str(error), Code.STORAGE)
        except Exception as error:  # a provider that can't even say why it has no block has none
            cause = f"its provider failed: {type(error).__name__}: {error}"
            offer.refuse(m.What.BLOCK, info.name, cause, Code.INTERNAL)
        else:
            if not offer.add_provided(block):
                return


def _match_blocks(offer: Offer, infos: Sequence[m.BlockInfo], blocks: Sequence[Block]) -> None:
    here = {block.name: block for block in blocks}
    for info in infos:
        block = here.pop(info.name, None)
        if block is None:
            offer.refuse(m.What.BLOCK, info.name, "there is no such block here")
        elif block.length != info.length:
            offer.refuse(m.What.BLOCK, info.name, f"{info.length} bytes at the source, {block.length} here")
        else:
            offer.blocks.append(block)
    for name in here:
        offer.refuse(m.What.BLOCK, name, "is here and the source has none: it would stay empty")


def _made(offer: Offer, action: Decide, provider: DeviceProvider) -> Sequence[Device]:
    try:
        return provider(action.devices)
    except Exception as error:  # also of a provider that is at fault itself
        offer.refuse(m.What.DEVICE, "", str(error) if isinstance(error, MultifdError) else repr(error), Code.DEVICE)
        return ()


def _match_devices(offer: Offer, infos: Sequence[m.DeviceInfo], devices: Sequence[Device]) -> None:
    here = {(device.id, device.instance): device for device in devices}
    for info in infos:
        device = here.pop((info.id, info.instance), None)
        if device is None:
            offer.device_offers.append(DeviceOffer(info, None, None))
            continue
        offer.devices.append(device)
        try:
            reason = device.check(info.token, info.schema_version)
        except Exception as error:  # a device that can't even say whether it fits does not
            reason = f"its check failed: {type(error).__name__}: {error}"
        offer.device_offers.append(DeviceOffer(info, device.explicit_switchover, reason))
    for device in here.values():
        offer.refuse(m.What.DEVICE, device.name, "is here and the source has none: it would stay without state")
