"""What is measured, as data: a scenario, and its name, which is made of its values and of nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from multifd.limits import GIB, KIB, MIB

MEMORY, GUEST_RAM = "memory", "guest-ram"
"""Works: random bytes, memory to memory; the RAM of a QEMU's guest."""
LOOPBACK, NETWORK = "loopback", "network"
"""Links that are found, not made (those are in `namespace.py`)."""
_UNITS = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "B"))


def exact_size(size: int) -> str:
    """`4GiB`, `512KiB`, `17B`: never rounded, since names must differ where sizes do."""
    unit, name = next((unit, name) for unit, name in _UNITS if size % unit == 0)
    return f"{size // unit}{name}"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One combination of everything that a figure depends on and that can be chosen. Sizes in bytes."""

    work: str
    size: int
    piece_bytes: int
    """What ours sends at a time: a slot, or QEMU's packet."""
    congestion: str
    channels: int = 0
    """0: whatever number, for what scenarios that differ in nothing else have in common (`family`)."""
    compression: str = "none"
    link: str = LOOPBACK

    @property
    def family(self) -> Self:
        """The same with any number of channels."""
        return dataclasses.replace(self, channels=0)

    @property
    def name(self) -> str:
        """All values, in words: `memory-4GiB-2ch-1MiB-none-cubic-loopback`."""
        channels = (f"{self.channels}ch",) if self.channels else ()
        sizes = (exact_size(self.size), *channels, exact_size(self.piece_bytes))
        return "-".join((self.work, *sizes, self.compression, self.congestion, self.link))

    def to_json(self) -> dict[str, Any]:
        """Its values, and the name for readers."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave; the name is made again. Raise `TypeError` or `KeyError` for anything else."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
