"""Reports are plain data, and as JSON they are plain JSON."""

from __future__ import annotations

import dataclasses
import json

from multifd.slot import SlotTally
from multifd.stats import DeviceReport, Outcome, Progress, Report


def test_throughput_is_payload_over_time() -> None:
    """In 1e9 bytes per second; nothing was sent in no time."""
    assert Report(side="source", bytes_sent=3_000_000_000, transfer_s=2.0).throughput_gbytes_per_s == 1.5
    assert Report(side="source", bytes_sent=1).throughput_gbytes_per_s == 0.0


def test_a_report_as_json() -> None:
    """Everything in it, devices by name, and it survives being written and read."""
    report = Report(
        side="source",
        outcome=Outcome.IN_DOUBT,
        bytes_sent=1_234_567,
        transfer_s=0.001,
        downtime_ms=12.5,
        downtime_parts_ms={"stop_owner": 12.5},
        switchover=[DeviceReport(name="nic/0", took_part=True, epoch=2), DeviceReport(name="gpu/0", took_part=False)],
        kinds={"ram": SlotTally(slots=3, bytes=100, wire_bytes=50, compressed_slots=1)},
        waiting_for=("device nic/0: READY of epoch 2",),
        refusals=("block ram0: no space",),
    )
    data = report.to_json()
    assert json.loads(json.dumps(data)) == data
    names = {field.name for field in dataclasses.fields(Report)}
    assert set(data) == names | {"throughput_gbytes_per_s"}
    assert data["outcome"] == "in-doubt"
    assert data["throughput_gbytes_per_s"] == 1.2346
    assert data["switchover"]["nic/0"] == {
        "took_part": True, "epoch": 2, "waited_ms": 0.0, "bytes": 0, "chunks": 0, "load_ms": 0.0, "set_up_ms": 0.0,
    }  # fmt: skip
    assert list(data["switchover"]) == ["nic/0", "gpu/0"]
    assert data["kinds"]["ram"] == {"slots": 3, "bytes": 100, "wire_bytes": 50, "compressed_slots": 1}
    assert data["waiting_for"] == ["device nic/0: READY of epoch 2"]


def test_reports_do_not_share_what_they_hold() -> None:
    """One that is filled changes no other."""
    first, second = Report(side="source"), Report(side="source")
    first.kinds["ram"] = SlotTally()
    first.downtime_parts_ms["load"] = 1.0
    first.switchover.append(DeviceReport(name="nic/0", took_part=True))
    assert (second.kinds, second.downtime_parts_ms, second.switchover) == ({}, {}, [])


def test_progress_can_be_made_of_its_state_alone() -> None:
    """All else is unknown or nothing yet."""
    progress = Progress(state="hello", elapsed_s=0.0)
    assert progress.expected_downtime_s is None
    assert progress.waiting_for == ()
