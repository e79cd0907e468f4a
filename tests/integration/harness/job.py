"""What a destination is told to be, and what it tells: lines of JSON between a test and its destination's process."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multifd.device import EmulatedDevice, EmulatedOptions
from multifd.device.emulated_options import Step
from multifd.device.interface import DeviceState

BLOCK = "ram"
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One destination. `owner`: `starts`, `fails` (to start), or `waits` (until it is told to go on)."""

    memory_bytes: int
    devices: Mapping[str, EmulatedOptions]
    options: Mapping[str, Any] = field(default_factory=dict)
    owner: str = "starts"
    limits: Mapping[str, float] = field(default_factory=dict)
    """Names in `multifd.limits` that are looked at when they are needed."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """States of the destination, by value, and how long it may be in them."""

    def to_line(self) -> bytes:
        """One line."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Job:
        """The opposite."""
        fields = json.loads(line)
        fields["devices"] = {name: _device_options(each) for name, each in fields["devices"].items()}
        return cls(**fields)


@dataclass(slots=True)
class Spell:
    """From when to when an owner ran, by the clock that all processes of a host share."""

    began: float
    ended: float | None = None


@dataclass(slots=True)
class Spells:
    """When an owner ran. Begun too early and ended too late rather than the opposite."""

    all: list[Spell] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return bool(self.all) and self.all[-1].ended is None

    def begin(self) -> None:
        """It is about to run. Without effect if it does."""
        if not self.running:
            self.all.append(Spell(time.monotonic()))

    def end(self) -> None:
        """It has stopped."""
        if self.running:
            self.all[-1].ended = time.monotonic()

    def overlaps(self, other: Spells) -> bool:
        """Whether both ran at any one time."""
        forever = float("inf")
        return any(
            mine.began < (theirs.ended or forever) and theirs.began < (mine.ended or forever)
            for mine in self.all
            for theirs in other.all
        )


def make_devices(options: Mapping[str, EmulatedOptions], state: DeviceState) -> list[EmulatedDevice]:
    """One end's devices."""
    return [EmulatedDevice(name, each, state=state) for name, each in options.items()]


def _device_options(fields: dict[str, Any]) -> EmulatedOptions:
    for name in ("fail_at", "hang_at"):
        if fields[name] is not None:
            fields[name] = Step(fields[name])
    fields["rearm_after_s"] = tuple(fields["rearm_after_s"])
    return EmulatedOptions(**fields)
