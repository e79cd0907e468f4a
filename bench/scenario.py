"""What is measured, as data: a scenario, and its name, which is made of its values and of nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from multifd.limits import GIB, KIB, MIB

MEMORY, RAM, ZEROS = "memory", "ram", "zeros"
"""Works that are named elsewhere; all of them are in `contents.py`."""
GUEST = "guest"
"""Before the name of a work that is the RAM of a QEMU's guest: `guest-ram`."""
PLAIN, TLS = "plain", "tls"
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
    security: str = PLAIN
    cold: bool = False
    """The destination's memory is not populated before the start."""

    @property
    def family(self) -> Self:
        """The same with any number of channels."""
        return dataclasses.replace(self, channels=0)

    @property
    def name(self) -> str:
        """All values, in words: `memory-4GiB-2ch-1MiB-none-cubic-loopback`, and `-tls` and `-cold` where it is that."""
        channels = (f"{self.channels}ch",) if self.channels else ()
        sizes = (exact_size(self.size), *channels, exact_size(self.piece_bytes))
        unusual = (*((self.security,) if self.security != PLAIN else ()), *(("cold",) if self.cold else ()))
        return "-".join((self.work, *sizes, self.compression, self.congestion, self.link, *unusual))

    def to_json(self) -> dict[str, Any]:
        """Its values, and the name for readers."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave, also when it had fewer fields; the name is made again. Raise `TypeError` otherwise."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})
