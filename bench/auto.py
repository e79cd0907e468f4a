"""Auto: what codec `auto` comes to beside every fixed choice, on links of several rates, with memory of several kinds.

What the codecs take and give is measured here, slot by slot, on one processor; then the code that decides in a channel
decides in a simulation of the channels and the link. "auto" is its rate by that of the best fixed choice.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine, memory_kinds
from bench.simulated_link import Encoded, Fixed, Setting, Simulated, SimulatedSlot, simulate
from multifd.cli.sizes import format_bytes
from multifd.codec import NONE, create
from multifd.codec.auto import GUESSES, AutoChoice, Sampler
from multifd.codec.interface import Codec
from multifd.limits import MIB, SLOT_BYTES

LINKS = {"100 Mbit/s": 12.5e6, "1 Gbit/s": 125e6, "10 Gbit/s": 1250e6, "unlimited": float("inf")}
"""Bytes a second."""
SAMPLE_BYTES = 32 * MIB  # of each kind of memory; what is measured on it is used again and again
CODECS = ("zstd", "lz4")
TIMES = 2
WIDTH = 160


@dataclass(frozen=True)
class Plan:
    """What to compare: so many bytes on each link, with each count of channels."""

    size: int
    channels: Sequence[int]
    processors: int


@dataclass(frozen=True)
class Cell:
    """One kind of memory on one link. Rates are bytes of state a second."""

    kind: str
    link: str
    channels: int
    fixed: dict[str, float]
    auto: float
    chosen: dict[str, float]
    """Encoding → its share of auto's slots."""

    @property
    def best(self) -> str:
        """The best fixed choice."""
        return max(self.fixed, key=lambda name: self.fixed[name])

    @property
    def ratio(self) -> float:
        """Auto's rate by the best fixed choice's."""
        return self.auto / self.fixed[self.best]


def measure(kind: str) -> list[SimulatedSlot]:
    """What every slot of `SAMPLE_BYTES` of one kind takes on this machine."""
    sampler = Sampler()
    codecs = {name: made for name in GUESSES if (made := create(name)) is not None}
    target = memoryview(bytearray(SLOT_BYTES))
    slots = []
    for slot in memory_kinds.slots(kind, count=SAMPLE_BYTES // SLOT_BYTES, slot_bytes=SLOT_BYTES):
        encodings = {name: _measure_slot(codec, slot, target) for name, codec in codecs.items()}
        fraction = sampler.fraction((slot,), SLOT_BYTES)
        sample_s = _processor_s(lambda: sampler.fraction((slot,), SLOT_BYTES))  # noqa: B023 - called at once
        slots.append(SimulatedSlot(SLOT_BYTES, fraction, sample_s, encodings))
    return slots


def _measure_slot(codec: Codec, slot: memoryview, target: memoryview) -> Encoded:
    payload = codec.encode((slot,), len(slot))
    encode_s = _processor_s(lambda: codec.encode((slot,), len(slot)))
    if payload is None:
        return Encoded(encode_s, 0.0, len(slot))
    kept = memoryview(bytes(payload))
    return Encoded(encode_s, _processor_s(lambda: codec.decode(kept, (target,), len(slot))), len(kept))


def _processor_s(call: Callable[[], object]) -> float:
    """Of this thread, the least of `TIMES`: the first one finds nothing in the caches, and others' work disturbs."""
    times = []
    for _ in range(TIMES):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)


def grid(plan: Plan, kinds: dict[str, list[SimulatedSlot]]) -> Iterator[Cell]:
    """All cells, link by link."""
    for (link, rate), (kind, measured), channels in itertools.product(LINKS.items(), kinds.items(), plan.channels):
        setting = Setting(link_bytes_per_s=rate, channels=channels, processors=plan.processors)
        slots = list(itertools.islice(itertools.cycle(measured), plan.size // SLOT_BYTES))
        fixed = {name: _rate(plan, simulate(setting, slots, [Fixed(name)] * channels)) for name in (NONE, *GUESSES)}
        auto = simulate(
            setting, slots, [AutoChoice(CODECS, contention=channels / plan.processors) for _ in range(channels)]
        )
        chosen = {name: auto.chosen[name] / len(slots) for name in (NONE, *GUESSES) if name in auto.chosen}
        yield Cell(kind, link, channels, fixed, _rate(plan, auto), chosen)


def _rate(plan: Plan, run: Simulated) -> float:
    return plan.size / run.seconds


def local(plan: Plan, *, as_json: bool) -> int:
    """Measure, simulate and show. Returns the exit status: 1 if auto is beaten by more than a tenth."""
    facts = machine.describe()
    kinds = {kind: measure(kind) for kind in memory_kinds.KINDS}
    cells = list(grid(plan, kinds))
    if as_json:
        json.dump(_result(plan, facts, cells), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _show(plan, facts, kinds, cells)
    return 0 if min(cell.ratio for cell in cells) >= 0.9 else 1


def _result(plan: Plan, facts: dict[str, Any], cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "scenario": "auto",
        "command": ["python", "-m", "bench", *sys.argv[1:]],
        "size_bytes": plan.size,
        "processors": plan.processors,
        "cells": [
            {
                "kind": cell.kind, "link": cell.link, "channels": cell.channels, "best": cell.best,
                "fixed_gbytes_per_s": {name: round(rate / 1e9, 4) for name, rate in cell.fixed.items()},
                "auto_gbytes_per_s": round(cell.auto / 1e9, 4), "ratio": round(cell.ratio, 3),
                "chosen": {name: round(share, 3) for name, share in cell.chosen.items()},
            }
            for cell in cells
        ],
        "machine": facts,
    }  # fmt: skip


def _show(plan: Plan, facts: dict[str, Any], kinds: dict[str, list[SimulatedSlot]], cells: Sequence[Cell]) -> None:
    console = Console(highlight=False, width=WIDTH)
    busy = "idle" if facts["idle_before"] else f"NOT IDLE: {facts['busy_cores_before']} processors busy"
    console.print(
        f"auto: {format_bytes(plan.size)} in slots of {format_bytes(SLOT_BYTES)}, {plan.processors} processors a side; "
        f"codecs measured on {facts['cpu_model']}, Python {facts['python']}, which was {busy}; link and channels "
        "simulated"
    )
    console.print(f"commit {facts['commit']}; python -m bench {' '.join(sys.argv[1:])}")
    console.print(_codecs_table(kinds))
    console.print(_grid_table(cells))
    worst = min(cells, key=lambda cell: cell.ratio)
    console.print(f"worst: {worst.ratio:.2f} of the best fixed choice ({worst.kind}, {worst.link})")


def _codecs_table(kinds: dict[str, list[SimulatedSlot]]) -> Table:
    table = _table(("memory", "encoding", "ratio", "encode GB/s", "decode GB/s", "sample's ratio"))
    for kind, slots in kinds.items():
        size = sum(slot.length for slot in slots)
        for name in GUESSES:
            each = [slot.encodings[name] for slot in slots]
            decode_s = sum(one.decode_s for one in each)
            table.add_row(
                kind, name, f"{size / sum(one.wire_length for one in each):.2f}",
                f"{size / 1e9 / sum(one.encode_s for one in each):.2f}",
                f"{size / 1e9 / decode_s:.2f}" if decode_s else "-",
                f"{len(slots) / sum(slot.fraction for slot in slots):.2f}",
            )  # fmt: skip
    return table


def _grid_table(cells: Sequence[Cell]) -> Table:
    table = _table(("link", "memory", "channels", *(f"{name} GB/s" for name in (NONE, *GUESSES)), "auto GB/s", "auto"))
    table.add_column("chosen")
    for cell in cells:
        table.add_row(
            cell.link, cell.kind, str(cell.channels), *(f"{rate / 1e9:.3f}" for rate in cell.fixed.values()),
            f"{cell.auto / 1e9:.3f}", f"{cell.ratio:.2f}",
            ", ".join(f"{name} {share:.0%}" for name, share in cell.chosen.items()),
        )  # fmt: skip
    return table


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in {"link", "memory", "encoding"} else "right")
    return table
