"""Shows a result: a plain table for people, or one JSON object for programs. Measures nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from multifd.cli.sizes import format_bytes


def show(result: dict[str, Any], baselines: Mapping[str, str], *, as_json: bool) -> None:
    """Write `result` to stdout. `baselines`: key in it → name for people."""
    if as_json:
        json.dump(result, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_head(result))
    console.print(_table(result, baselines))
    for key, name in baselines.items():
        if (ratio := result[f"ratio_to_{key}"]) is not None:
            console.print(f"best of ours over best of {name} (medians): {ratio:.2f}")
    if result["verified"]:
        console.print("every run verified: the digest of what arrived is that of what was sent")
    if result["side"] != "both":
        console.print(f"processor time is the {result['side']}'s alone")


def _head(result: dict[str, Any]) -> str:
    """Scenario, machine, commit and command: what a figure is worth nothing without."""
    facts = result["machine"]
    busy = "idle" if facts["idle_before"] else f"NOT IDLE: {facts['busy_cores_before']} processors busy"
    here = "this machine" if result["side"] == "both" else f"this machine, the {result['side']}"
    link = "TCP loopback" if result["side"] == "both" else f"TCP, {result['address']}"
    return "\n".join(
        (
            f"{result['scenario']}: {format_bytes(result['size_bytes'])} of random bytes, memory to memory, {link}, "
            f"slots of {format_bytes(result['slot_bytes'])}, {result['repeat']} runs each",
            f"{here}: {facts['cpus']} x {facts['cpu_model']}, {format_bytes(facts['memory_bytes'])}, "
            f"Linux {facts['kernel']}, Python {facts['python']}; before the runs it was {busy} "
            f"(load {facts['load_average']:.2f})",
            f"memory pages: {result['page_size']}; system's congestion control: {facts['congestion_control_default']}",
            f"commit {facts['commit']}; {' '.join(result['command'])}",
        )
    )


def _table(result: dict[str, Any], baselines: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("channels", justify="right")
    table.add_column("who")
    for heading in ("GB/s", "min", "max", "CPU s/GB"):
        table.add_column(heading, justify="right")
    table.add_column("congestion")
    table.add_column("ours to it", justify="right")
    for channels, ours in result["channels"].items():
        table.add_row(channels, "multifd", *_cells(ours), "")
        for key, name in baselines.items():
            if ours[key] is not None:
                table.add_row(channels, name, *_cells(ours[key]), f"{ours[f'ratio_to_{key}']:.2f}")
    return table


def _cells(column: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{column['gbytes_per_s']:.2f}",
        f"{column['gbytes_per_s_min']:.2f}",
        f"{column['gbytes_per_s_max']:.2f}",
        f"{column['cpu_s_per_gb']:.3f}",
        column["congestion_control"],
    )
