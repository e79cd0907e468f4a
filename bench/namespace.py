"""A network namespace of the bench's own: a loopback with a congestion control for everybody, and shaped if asked for.

Nothing outside it changes, and the kernel takes it away when the bench ends. unshare(2) has no function in Python 3.11:
the bench starts itself again under the program of that name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.errors import BenchError
from bench.scenario import LOOPBACK
from multifd.limits import KIB

LINKS = {"100mbit": 100_000_000, "1gbit": 1_000_000_000, "10gbit": 10_000_000_000}
"""Bits a second by name."""
_BURST_S = 0.002  # what the bucket gives at once: two ticks of a kernel with 1000 a second; tc's manual asks for one
_BURST_BYTES_MIN = 128 * KIB  # two packets of the loopback, whose largest have 64 KiB
_QUEUE_S = 0.02  # what waits before packets are dropped: some of the buffer that a switch has
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_INSIDE = "MULTIFD_BENCH_NAMESPACE"
_PROGRAMS = {"unshare": "util-linux", "ip": "iproute2", "tc": "iproute2"}
"""What is needed, and Debian's package of it."""


def enter(congestion: str, link: str = LOOPBACK) -> bool:
    """Go on in a namespace whose loopback is such a link; false if the system's loopback is one anyway.

    Does not return where the bench is started again. Raise `BenchError` if that is not possible.
    """
    if not os.environ.get(_INSIDE):
        own = _CONGESTION.read_text(encoding="utf-8").strip()
        if link == LOOPBACK and own == congestion:
            return False
        _check_possible(f"measure with --congestion {own}" if link == LOOPBACK else "measure without --link")
        command = [*_unshare(), sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})
    _set_up(congestion, link)
    return True


def _unshare() -> list[str]:
    """Root of a user namespace will do, where the kernel lets everybody have one."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def _check_possible(otherwise: str) -> None:
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise BenchError(
                f"a network namespace needs {program}, which is NOT INSTALLED (Debian: apt-get install {package}); "
                f"or {otherwise}"
            )
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise BenchError(f"no network namespace ({tried.stderr.strip()}): run as root, or {otherwise}")


def _set_up(congestion: str, link: str) -> None:
    _do("ip", "link", "set", "lo", "up")
    for local in ("127.0.0.0/8", "127.0.0.1"):  # by route: a namespace may not choose it for all
        route = f"route change table local local {local} dev lo src 127.0.0.1 scope host congctl {congestion}"
        _do("ip", *route.split())
    if link != LOOPBACK:
        _do("tc", *shaping(LINKS[link]).split())


def shaping(bits_per_s: int) -> str:
    """The words of tc for a loopback that takes so much."""
    bytes_per_s = bits_per_s // 8
    burst = max(_BURST_BYTES_MIN, int(bytes_per_s * _BURST_S))
    limit = burst + int(bytes_per_s * _QUEUE_S)
    return f"qdisc replace dev lo root tbf rate {bits_per_s}bit burst {burst}b limit {limit}b"


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"`{' '.join(command)}` failed in the bench's own network namespace: {done.stderr.strip()}")
