"""What `make bench` runs: ours, the C limit and iperf3 as `throughput`, then stock QEMU and ours as `qemu`; one table.

QEMU is left out, loudly, where there is none, or where it can't have the congestion control that was asked for.
"""

from __future__ import annotations

import dataclasses

from bench import namespace, qemu, throughput
from bench.contender import tell
from bench.errors import BenchError
from bench.result import Result


def local(plan: throughput.Plan, guest: qemu.Plan) -> Result:
    """Both, one after the other. Raise `BenchError`."""
    reason = _without_qemu(guest)
    if reason is not None:
        tell(f"QEMU is LEFT OUT: {reason}")
    memory = throughput.local(plan)
    if reason is not None:
        return dataclasses.replace(memory, left_out={**memory.left_out, "QEMU": reason})
    return joined(memory, qemu.local(guest))


def joined(one: Result, other: Result) -> Result:
    """Both in one; the machine, the time and the command are the first's."""
    return dataclasses.replace(
        one,
        ours=(*one.ours, *other.ours),
        series=(*one.series, *other.series),
        conditions={**one.conditions, **other.conditions},
        left_out={**one.left_out, **other.left_out},
        findings=(*one.findings, *other.findings),
    )


def _without_qemu(guest: qemu.Plan) -> str | None:
    """Why there can be no QEMU; None, in a namespace for it where it needs one, if there can."""
    if (reason := qemu.unable(guest)) is not None:
        return reason
    try:
        namespace.enter(guest.congestion, guest.link)
    except BenchError as error:
        return str(error)
    return None
