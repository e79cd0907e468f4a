"""What each side sets out to do: given to its machine at the start, never changed."""

from __future__ import annotations

from dataclasses import dataclass

from multifd import messages as m


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """What a source sets out to do. `classes` are the feeds' names; devices are numbered from 1 in order."""

    session: bytes
    features: tuple[str, ...]
    channels: int
    blocks: tuple[m.BlockInfo, ...] = ()
    devices: tuple[m.DeviceInfo, ...] = ()
    kinds: tuple[m.KindInfo, ...] = ()
    classes: tuple[str, ...] = ()
    preflight: bool = False
    deadline_s: float = 600.0
    switch_at_deadline: bool = False
    return_on_rearm: bool = True
    auto_converge: bool = False
    releases: bool = False
    """Before COMMIT is sent the owner gives up the right to run, which takes time or may fail, or devices have to hear
    something first.
    """
    versions: tuple[int, int] = (1, 1)
    software: str = "multifd"


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationPlan:
    """What a destination is able to do."""

    secret: bytes
    features: tuple[str, ...]
    channels_max: int
    versions: tuple[int, int] = (1, 1)
    software: str = "multifd"
