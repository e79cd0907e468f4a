"""The reports at the end say what was moved, how, and whether it is the same on both sides."""

import json

import pytest

from multifd.cli.demo_report import completed_json, completed_text, failed_json, failed_text
from multifd.cli.demo_state import Comparison, DemoOptions
from multifd.cli.digest import PIECE_BYTES, memory_digest
from multifd.cli.ending import ExitCode
from multifd.cli.files_report import files_ending
from multifd.limits import GIB, MIB
from multifd.stats import DeviceReport, Outcome, Report

OPTIONS = DemoOptions(
    size=GIB, devices=1, channels=4, dirty_mib_per_s=100.0, downtime_limit_s=0.3, deadline_s=60.0,
    device_setup_s=0.0, explicit_switchover=True, codec="none",
)  # fmt: skip


def report(outcome: Outcome = Outcome.COMPLETED) -> Report:
    return Report(
        side="source",
        outcome=outcome,
        channels=4,
        rounds=3,
        bytes_sent=GIB,
        elapsed_s=2.0,
        transfer_s=1.0,
        downtime_ms=12.5,
        downtime_parts_ms={"stop": 1.5, "copy": 11.0},
        switchover=[DeviceReport("nic/0", took_part=True, epoch=1, waited_ms=3.0, bytes=MIB)],
        trackers={"memory": "kernel (memfd)"},
        security="TLS 1.3, A_CIPHER",
        congestion_control="cubic",
        waiting_for=("device nic/0: set-up",) if outcome is Outcome.FAILED else (),
    )


def compared(
    theirs: str = "aa", devices: str = "1", start: int = 7, later: int = 9, *, writes: bool = True
) -> Comparison:
    return Comparison(("aa", theirs), ({"nic/0": "1"}, {"nic/0": devices}), 7, start, later, writes=writes)


@pytest.mark.parametrize(
    ("comparison", "verified"),
    [
        (compared(), True),
        (compared(theirs="ab"), False),
        (compared(devices="2"), False),
        (compared(start=8), False),
        (compared(later=7), False),
        (compared(later=7, writes=False), True),
    ],
)
def test_verified_means_memory_devices_and_counter(comparison: Comparison, *, verified: bool) -> None:
    """One difference anywhere is enough; a workload that writes nothing need not count."""
    assert comparison.verified is verified
    assert completed_json(report(), comparison, 1.0)["verified"] is verified
    assert ("not" in completed_text(OPTIONS, report(), comparison).lower()) is not verified


def test_the_object_has_what_programs_look_for() -> None:
    """Names and kinds; it is JSON."""
    data = json.loads(json.dumps(completed_json(report(), compared(), 2.5)))
    assert data["outcome"] == "completed"
    assert data["channels"] == 4
    assert data["rounds"] == 3
    assert data["bytes_sent"] == GIB
    assert data["throughput_gbytes_per_s"] == pytest.approx(1.0737)
    assert data["downtime_ms"] == 12.5
    assert data["downtime_parts_ms"] == {"stop": 1.5, "copy": 11.0}
    assert data["switchover"]["nic/0"]["took_part"] is True
    assert data["switchover"]["nic/0"]["epoch"] == 1
    assert data["switchover"]["nic/0"]["waited_ms"] == 3.0
    assert data["tracker"] == "kernel (memfd)"
    assert data["codec"] == "none"
    assert data["security"] == "TLS 1.3, A_CIPHER"


def test_the_text_has_the_same_story() -> None:
    """Table, devices and verdict."""
    text = completed_text(OPTIONS, report(), compared())
    for words in (
        "memory at the stop is equal on both sides: 1073741824 bytes, digest aa",
        "counts on at the destination: 7 at the stop, 7 at the start, 9",
        "kernel (memfd)", "12.5 ms", "11.0 ms", "nic/0", "took part", "cubic", "TLS 1.3, A_CIPHER", "1.07 GB/s",
    ):  # fmt: skip
        assert words in text


def test_a_failed_demo_says_what_it_waited_for_and_that_the_source_runs() -> None:
    """`verified` is null: there was nothing to compare."""
    data = failed_json(report(Outcome.FAILED), runs_on=True)
    assert data["outcome"] == "failed"
    assert data["verified"] is None
    assert data["waiting_for"] == ["device nic/0: set-up"]
    assert data["source_runs_on"] is True
    text = failed_text(report(Outcome.FAILED), runs_on=True)
    assert "waited for device nic/0: set-up" in text
    assert "runs on at the source" in text


def test_a_transfer_says_files_bytes_seconds_and_rate() -> None:
    """With names that can't harm the terminal. The rate is that of what was sent."""
    ending = files_ending("sent", {"a\x1b": MIB, "empty": 0}, report())
    assert ending.code is ExitCode.COMPLETED
    assert ending.data["files"] == [{"name": "a\x1b", "bytes": MIB}, {"name": "empty", "bytes": 0}]
    assert (ending.data["bytes"], ending.data["seconds"], ending.data["bytes_per_s"]) == (MIB, 2.0, GIB // 2)
    assert ending.text.splitlines() == [
        "sent a\\x1b, 1 MiB",
        "sent empty, 0 B",
        "2 files, 1048576 bytes; 1 GiB on the wire in 2.00 s, 512 MiB/s, TLS 1.3, A_CIPHER",
    ]


def test_a_digest_sees_every_byte_in_its_place() -> None:
    """Across pieces, at the odd end, and for nothing at all."""
    memory = bytearray(2 * PIECE_BYTES + 3)
    seen = {memory_digest(memoryview(memory))}
    for place in (0, PIECE_BYTES, len(memory) - 1):
        memory[place] = 1
        seen.add(memory_digest(memoryview(memory)))
        memory[place] = 0
    seen.add(memory_digest(memoryview(b"")))
    assert len(seen) == 5
