"""What the demo says at its end: a table for people, an object for programs. Pure."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from multifd.cli.demo_state import BLOCK, Comparison, DemoOptions
from multifd.cli.names import printable
from multifd.cli.sizes import format_bytes
from multifd.codec import AUTO
from multifd.stats import DeviceReport, Report

WIDTH = 100  # of a report that goes to a file as well as to a terminal


def completed_json(report: Report, comparison: Comparison, seconds: float) -> dict[str, Any]:
    """The object of a demo that completed."""
    return _json(report) | {
        "verified": comparison.verified,
        "memory_digest": comparison.memory[0] if comparison.memory_equal else list(comparison.memory),
        "device_digests_equal": comparison.devices_equal,
        "counter": {
            "at_stop": comparison.counter_at_stop,
            "at_start": comparison.counter_at_start,
            "later": comparison.counter_later,
        },
        "seconds": round(seconds, 3),
    }


def failed_json(report: Report, *, runs_on: bool) -> dict[str, Any]:
    """The object of a demo whose migration did not complete."""
    return _json(report) | {"verified": None, "source_runs_on": runs_on}


def _json(report: Report) -> dict[str, Any]:
    return report.to_json() | {"tracker": report.trackers.get(BLOCK, "")}


def completed_text(options: DemoOptions, report: Report, comparison: Comparison) -> str:
    """The report for people of a demo that completed."""
    verdict, device_verdict = (
        "equal on both sides" if equal else "NOT EQUAL" for equal in (comparison.memory_equal, comparison.devices_equal)
    )
    digests = " and ".join(dict.fromkeys(comparison.memory))
    counter = f"{comparison.counter_at_stop} at the stop, {comparison.counter_at_start} at the start"
    goes_on = "counts on at the destination" if comparison.counts_on else "does NOT count on at the destination"
    return "\n".join(
        [
            _render(_facts(report), *([_devices(report)] if report.switchover else [])),
            f"memory at the stop is {verdict}: {options.size} bytes, digest {digests}",
            *([f"device state is {device_verdict}"] if options.devices else []),
            f"the workload {goes_on}: {counter}, {comparison.counter_later} a moment later",
        ]
    )


def failed_text(report: Report, *, runs_on: bool) -> str:
    """The report for people of a demo whose migration did not complete."""
    waited = "".join(f"\n  waited for {printable(what)}" for what in report.waiting_for)
    goes_on = "runs on at the source, as it should" if runs_on else "does NOT run at the source"
    return f"{_render(_facts(report))}{waited}\nthe workload {goes_on}"


def _facts(report: Report) -> Table:
    table = Table(title=f"migration: {report.outcome.value}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    link = f"TCP loopback{f' ({report.congestion_control})' if report.congestion_control else ''}"
    table.add_row("channels", f"{report.channels} over {link}, codec {report.codec}, {report.security}")
    if report.codec == AUTO:
        table.add_row("codecs", _codecs(report))
    table.add_row("moved", f"{format_bytes(report.bytes_sent)} in {report.rounds} rounds and {report.transfer_s:.2f} s")
    table.add_row("throughput", f"{report.throughput_gbytes_per_s:.2f} GB/s (10^9 bytes of payload a second)")
    table.add_row("dirty tracking", printable(report.trackers.get(BLOCK, "none")))
    if report.downtime_ms is not None:
        table.add_row("downtime", f"{report.downtime_ms:.1f} ms")
        for name, value in report.downtime_parts_ms.items():
            table.add_row(f"  {printable(name)}", f"{value:.1f} ms")
    if report.switchover_returns:
        table.add_row("back to precopy", f"{report.switchover_returns} times")
    return table


def _codecs(report: Report) -> str:
    used = (f"{name} {tally.slots} slots, {format_bytes(tally.wire_bytes)}" for name, tally in report.codecs.items())
    return "; ".join(used)


def _devices(report: Report) -> Table:
    table = Table(title="devices", title_justify="left")
    for heading in ("device", "in the decision", "epoch", "state", "set-up", "waited for"):
        table.add_column(heading, justify="left" if heading in {"device", "in the decision"} else "right")
    for device in report.switchover:
        table.add_row(*_device_row(device))
    return table


def _device_row(device: DeviceReport) -> tuple[str, ...]:
    return (
        printable(device.name),
        "took part" if device.took_part else "no part",
        str(device.epoch) if device.took_part else "-",
        format_bytes(device.bytes),
        f"{device.set_up_ms:.0f} ms",
        f"{device.waited_ms:.0f} ms",
    )


def _render(*tables: Table) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=WIDTH, highlight=False, markup=False)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())
