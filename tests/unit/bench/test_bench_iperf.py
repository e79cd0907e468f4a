"""The iperf3 baseline: its JSON is read, and what it can't say is an `IperfError`."""

from __future__ import annotations

import json

import pytest

from bench import iperf

OUTPUT = {
    "end": {
        "sum_sent": {"seconds": 0.5, "bytes": 1_000_000_000},
        "sum_received": {"seconds": 0.4, "bytes": 800_000_000, "bits_per_second": 16e9},
        "cpu_utilization_percent": {"host_total": 90.0, "host_user": 1.0, "remote_total": 60.0},
        "sender_tcp_congestion": "cubic",
    }
}


def test_reads_what_was_received() -> None:
    """Bytes and time are the receiver's, processor time that of both sides over the run."""
    run = iperf.parse(json.dumps(OUTPUT).encode())
    assert (run.bytes, run.seconds, run.congestion_control) == (800_000_000, 0.4, "cubic")
    assert run.cpu_s == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (b"", "wrote no JSON"),
        (b"iperf3: error", "wrote no JSON"),
        (b'{"end": {}, "error": "unable to connect to server"}', "iperf3: unable to connect to server"),
        (b'{"end": {}}', "has no 'sum_received'"),
        (json.dumps({"end": {**OUTPUT["end"], "sum_received": None}}).encode(), "has no"),
        (b"[1]", "has no"),
    ],
)
def test_anything_else_is_an_error(output: bytes, words: str) -> None:
    """An error of iperf3's, missing figures and no JSON at all are told apart, in words."""
    with pytest.raises(iperf.IperfError, match=words):
        iperf.parse(output)


def test_says_that_iperf3_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program a run fails at once."""
    monkeypatch.setattr(iperf, "path", lambda: None)
    with pytest.raises(iperf.IperfError, match="not installed"):
        iperf.run(size=1, channels=1, write_bytes=1, congestion="cubic")
