"""Reports of sessions with QEMUs are plain data, and as JSON they are plain JSON."""

from __future__ import annotations

import json

import pytest
from qemu_machines import state_of

from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.report import Acks, ChannelTally, Dialect, QemuReport
from multifd.stats import Outcome


def test_tallies_are_summed() -> None:
    """Field by field; of no channels it is nothing."""
    assert ChannelTally.total([]) == ChannelTally()
    assert ChannelTally.total([ChannelTally(1, 2, 3, 4, 5, 6), ChannelTally(10, 20, 30, 40, 50, 60)]) == ChannelTally(
        11, 22, 33, 44, 55, 66
    )


def test_a_report_as_json() -> None:
    """It survives being written and read, and says what `inspect` says under the same names."""
    report = QemuReport(
        side="destination",
        outcome=Outcome.COMPLETED,
        bytes_sent=1000,
        main_bytes=24,
        dialect=Dialect(sync="per-round", ack="legacy", zero_pages=("multifd",)),
        acks=Acks(owed=1, given=1, held_s=3.0),
        stop_s=0.2,
        commit_s=0.05,
    )
    report.describe(state_of())
    report.digests["m"] = "ab"
    data = report.to_json()
    assert json.loads(json.dumps(data)) == data
    assert (data["outcome"], data["machine"], data["bytes"]) == ("completed", "pc-q35-10.0", 1024)
    assert data["blocks"][0] == {"name": "m", "bytes": 700 * 4096, "sha256": "ab"}
    assert data["blocks"][1]["sha256"] is None
    assert data["sections"][0] == {"name": "0000:00:02.0/virtio-mem-device-early", "instance": 0, "bytes": 7}
    assert data["dialect"]["zero_pages"] == ["multifd"]
    assert data["dialect"]["switchover_start"] is data["dialect"]["description"] is True
    assert data["switchover_ack"] == {"owed": 1, "given": 1, "held_s": 3.0}
    assert data["commit_share"] == 0.25


def test_what_never_happened_is_null() -> None:
    """A session that ended before its stop has no share of it."""
    data = QemuReport(side="destination").to_json()
    assert data["stop_s"] is data["commit_s"] is data["commit_share"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 0}, {"channels": 256}, {"switchover_ack": "maybe"}, {"hold_ack_s": -1.0}, {"socket_buffer": 0},
    ],
)  # fmt: skip
def test_options_that_can_not_be(options: dict[str, object]) -> None:
    """They are refused with their name before anything begins."""
    with pytest.raises(ValueError, match=next(iter(options))):
        QemuDestinationOptions(**options)  # type: ignore[arg-type]
