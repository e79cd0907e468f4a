"""What machine a figure comes from: processors, kernel, memory, TCP settings, and whether it was idle."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from multifd.limits import KIB

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_S = 0.5  # long enough for fifty ticks of each processor
IDLE_CORES_MAX = 0.1  # what may be busy in others' work before a figure is said to come from a busy machine


def describe() -> dict[str, Any]:
    """Everything that belongs beside a figure. Takes `SAMPLE_S`; call it before measuring."""
    busy = busy_cores()
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu_model": _first("/proc/cpuinfo", "model name"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory_bytes": _memory("MemTotal"),
        "congestion_control_default": _text("/proc/sys/net/ipv4/tcp_congestion_control"),
        "congestion_control_available": _text("/proc/sys/net/ipv4/tcp_available_congestion_control").split(),
        "transparent_huge_pages": _bracketed(_text("/sys/kernel/mm/transparent_hugepage/enabled")),
        "load_average": os.getloadavg()[0],
        "busy_cores_before": round(busy, 2),
        "idle_before": busy <= IDLE_CORES_MAX,
        "commit": commit(),
    }


def memory_available() -> int:
    """Bytes that can be had without swapping."""
    return _memory("MemAvailable")


def busy_cores() -> float:
    """How many processors are at work now, over `SAMPLE_S`."""
    before = _ticks()
    time.sleep(SAMPLE_S)
    after = _ticks()
    spent = after[1] - before[1]
    return (1 - (after[0] - before[0]) / spent) * (os.cpu_count() or 1) if spent else 0.0


def commit() -> str:
    """The commit that is measured, with `-dirty` if files differ from it; `unknown` outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _ticks() -> tuple[int, int]:
    """Ticks of all processors: idle (waiting for a disk included) and all; time stolen by the host counts as work."""
    ticks = [int(tick) for tick in _text("/proc/stat").splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _memory(field: str) -> int:
    return int(_first("/proc/meminfo", field).split()[0]) * KIB


def _first(path: str, field: str) -> str:
    """The value of the first `field : value` line."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return "unknown"


def _bracketed(text: str) -> str:
    """The choice in force: `b` of `a [b] c`."""
    return text.partition("[")[2].partition("]")[0] or text


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"
