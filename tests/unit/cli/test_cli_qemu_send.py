"""`multifd qemu send` and `relay`: what their options become, and what they say at the end."""

from __future__ import annotations

from typing import Any

import pytest

from multifd.cli import qemu_relay, qemu_send
from multifd.cli.ending import UsageError
from multifd.cli.main import build_parser
from multifd.qemu.relay_report import RelayReport
from multifd.qemu.report import ChannelTally, Dialect, QemuReport
from multifd.stats import Outcome, Progress


def parsed(*arguments: str) -> Any:
    return build_parser().parse_args(["qemu", *arguments])


def test_options_of_send() -> None:
    """Defaults are QEMU's, or what the machine type says."""
    plain = parsed("send", "guest", "--to", "tcp:there:4444")
    assert (plain.channels, plain.compression, plain.zero_pages, plain.sync) == (2, "none", "auto", "auto")
    chosen = parsed("send", "guest", "--to", "unix:/x", "--channels", "255", "--zero-pages", "legacy",
                    "--sync", "per-section", "--compression", "zstd")  # fmt: skip
    assert (chosen.channels, chosen.zero_pages, chosen.sync) == (255, "legacy", "per-section")


def test_options_of_relay() -> None:
    """Each side its own; the far end's compression is the source's unless told."""
    plain = parsed("relay", "--listen", "tcp:0.0.0.0:1", "--to", "tcp:there:2")
    assert (plain.channels, plain.compression, plain.out_compression, plain.out_qmp) == (2, "none", None, None)


@pytest.mark.parametrize("wrong", [
    ("send", "guest", "--to", "there"), ("send", "guest", "--to", "tcp:x:1", "--channels", "0"),
    ("send", "guest", "--to", "tcp:x:1", "--compression", "lz4"), ("send", "--to", "tcp:x:1"),
    ("relay", "--listen", "tcp:x:1"), ("relay", "--listen", "tcp:x:1", "--to", "unix:y", "--out-qmp", "z"),
])  # fmt: skip
def test_options_that_make_no_sense(wrong: tuple[str, ...]) -> None:
    """Refused before anything is done."""
    with pytest.raises(UsageError):
        parsed(*wrong)


def test_what_send_says() -> None:
    """What went, in a few lines, with what the peer named made harmless."""
    report = QemuReport(
        side="source", outcome=Outcome.COMPLETED, machine="pc-q35-10.0", blocks={"m": 1 << 24}, channels=2,
        bytes_sent=1 << 20, transfer_s=0.5, packets=ChannelTally(packets=9, normal_pages=100, zero_pages=7),
        zero_records=3, dialect=Dialect(sync="per-round", compression="zstd"), security="TLS 1.3, X",
        notes=("mind\x1b this",),
    )  # fmt: skip
    text = qemu_send.describe(report)
    assert "sent pc-q35-10.0, 16 MiB of RAM" in text
    assert "100 pages in 9 packets, 10 more of them zero; sync points per-round, compression zstd" in text
    assert "2 MiB/s, TLS 1.3, X" in text
    assert "\x1b" not in text


def test_what_relay_says() -> None:
    """Both sides, and how long the guest stood still."""
    report = RelayReport(
        side="relay", outcome=Outcome.COMPLETED, machine="pc-q35-10.0", to="tcp://there:1", guest="at the far end",
        dialect=Dialect(sync="per-round"), security="plain", out_compression="zstd", out_security="TLS 1.3, X",
        stop_s=0.25, continued=True,
    )  # fmt: skip
    text = qemu_relay.describe(report)
    assert "passed pc-q35-10.0 on to tcp://there:1: guest at the far end" in text
    assert "(zstd, TLS 1.3, X)" in text
    assert "250 ms until it ran at the far end" in text


def test_progress_of_both() -> None:
    """Words and a bar from a look."""
    look = Progress(state="pages", elapsed_s=1.0, bytes_sent=1 << 20, bytes_total=4 << 20, bytes_left=1 << 20, rate=2.0)
    assert qemu_send.VIEW.words(look) == ["pages", "1 MiB sent, 1 MiB of pages left", "2 B/s"]
    assert qemu_send.VIEW.fraction(look) == 0.75
    live = Progress(state="live", elapsed_s=1.0, bytes_sent=8 << 20, bytes_total=4 << 20, waiting_for=("x (guest y)",))
    assert qemu_relay.VIEW.words(live) == ["live", "8 MiB passed on", "waits for x (guest y)"]
    assert qemu_relay.VIEW.fraction(live) == 1.0
    assert qemu_send.VIEW.fraction(Progress("new", 0.0)) == qemu_relay.VIEW.fraction(Progress("new", 0.0)) == 0.0
