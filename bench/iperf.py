"""The baseline: iperf3 over loopback, one client and one server process, the same channels, bytes and congestion
control.

It sends one hot buffer again and again and throws away what it receives, so that it moves no memory; a library that
moves memory is compared with it all the same, since everybody knows it.
"""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from bench.contender import Contender
from bench.errors import BenchError
from bench.result import Run
from bench.scenario import Scenario

HOST = "127.0.0.1"
READY_DEADLINE_S = 10.0
RUN_DEADLINE_S = 600.0
WRITE_BYTES_MAX = 1024 * 1024  # iperf3 refuses more


class IperfError(BenchError):
    """iperf3 could not be run, or said something unexpected."""


@dataclass(frozen=True, kw_only=True)
class IperfRun:
    """One run. `cpu_s` is user and system time of client and server."""

    seconds: float
    bytes: int
    cpu_s: float
    congestion_control: str


def path() -> str | None:
    """Where iperf3 is, or None."""
    return shutil.which("iperf3")


class Iperf(Contender):
    """iperf3, with writes of the scenario's pieces."""

    name = "iperf3"

    def unable(self, scenario: Scenario) -> str | None:  # noqa: ARG002
        """It needs the program."""
        return None if path() else "it is NOT INSTALLED (Debian: apt-get install iperf3)"

    def run(self, scenario: Scenario) -> Run:
        """Send as many bytes. Raise `IperfError`."""
        made = run(
            size=scenario.size,
            channels=scenario.channels,
            write_bytes=min(scenario.piece_bytes, WRITE_BYTES_MAX),
            congestion=scenario.congestion,
        )
        return Run(bytes=made.bytes, seconds=made.seconds, cpu_s=made.cpu_s, congestion=made.congestion_control)


def run(*, size: int, channels: int, write_bytes: int, congestion: str) -> IperfRun:
    """Move `size` bytes over `channels` connections, `write_bytes` at a time. Raise `IperfError`."""
    program = path()
    if program is None:
        raise IperfError("iperf3 is not installed")
    port = _free_port()
    serve = [program, "--server", "--one-off", "--bind", HOST, "--port", str(port), "--forceflush"]
    send = [program, "--client", HOST, "--port", str(port), "--parallel", str(channels), "--bytes", str(size)]
    send += ["--length", str(write_bytes), "--congestion", congestion, "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as server:
        try:
            _wait_until_ready(server)
            client = subprocess.run(
                send, capture_output=True, stdin=subprocess.DEVNULL, timeout=RUN_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise IperfError(f"iperf3 did not end within {RUN_DEADLINE_S} s") from error
        finally:
            server.kill()
    return parse(client.stdout)


def parse(output: bytes) -> IperfRun:
    """The figures in a client's JSON. Raise `IperfError` if they are not there."""
    try:
        result: dict[str, Any] = json.loads(output)
    except ValueError as error:
        raise IperfError(f"iperf3 wrote no JSON: {output[:200]!r}") from error
    if "error" in result:
        raise IperfError(f"iperf3: {result['error']}")
    try:
        end = result["end"]
        received = end["sum_received"]
        used = end["cpu_utilization_percent"]
        return IperfRun(
            seconds=float(received["seconds"]),
            bytes=int(received["bytes"]),
            cpu_s=(used["host_total"] + used["remote_total"]) / 100 * float(received["seconds"]),
            congestion_control=str(end.get("sender_tcp_congestion", "unknown")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IperfError(f"iperf3's JSON has no {error}") from error


def _free_port() -> int:
    """A port that nobody has now; iperf3 can't be asked to choose one and say which."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    """Read the server's words until it listens."""
    assert server.stdout is not None
    deadline = time.monotonic() + READY_DEADLINE_S
    said = b""
    while b"listening" not in said:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([server.stdout], [], [], left)[0]:
            raise IperfError(f"iperf3's server was not ready within {READY_DEADLINE_S} s")
        # As much as is there: a line could stay in a buffer that select does not see.
        piece = server.stdout.read1()  # type: ignore[attr-defined]
        if not piece:
            raise IperfError(f"iperf3's server ended: {said.decode(errors='replace').strip()[:200]}")
        said += piece
