"""`multifd qemu receive`: its arguments, what it shows while it runs, and what it says at its end."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

import pytest

from multifd.cli import qemu_receive
from multifd.cli.display import PlainDisplay
from multifd.cli.main import build_parser, run
from multifd.cli.qemu_receive import VIEW, describe
from multifd.errors import StorageError
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.report import Acks, ChannelTally, Dialect, QemuReport
from multifd.qemu.saved import SavingMachine
from multifd.stats import Outcome, Progress

BASE = ("qemu", "receive", "--listen", "tcp:127.0.0.1:0", "--into", "there")


def parse(*more: str) -> argparse.Namespace:
    return build_parser().parse_args([*BASE, *more])


def report() -> QemuReport:
    return QemuReport(
        side="destination", outcome=Outcome.COMPLETED, machine="pc-q35-10.0", path="there", channels=2,
        security="plain", blocks={"m": 1 << 24}, sections=[("timer", 0, 8)], transfer_s=2.0, bytes_sent=1 << 24,
        main_bytes=1 << 20,
        packets=ChannelTally(packets=32, normal_pages=3413, zero_pages=600), zero_records=83, syncs=3,
        dialect=Dialect(sync="per-round", ack="legacy"), acks=Acks(1, 1, 3.0), stop_s=0.2, commit_s=0.05,
        digests={"m": "ab12"}, notes=("look here",),
    )  # fmt: skip


def test_the_defaults_are_qemus() -> None:
    """Two channels, no compression, no acknowledgement."""
    parsed = parse()
    assert (parsed.channels, parsed.compression, parsed.switchover_ack, parsed.hold_ack) == (2, "none", "off", 0.0)
    assert (parsed.no_vmdesc, parsed.allow_ignore_shared, parsed.reserve, parsed.tls_dir) == (False, False, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--channels", "0"), ("--channels", "256"), ("--compression", "lz4"), ("--switchover-ack", "maybe"),
        ("--hold-ack", "-1"), ("--reserve", "0"), ("--listen", "udp:1.2.3.4:5"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_values_are_a_usage_error(wrong: tuple[str, str]) -> None:
    """Exit code 2, and nothing is made."""
    assert run([*BASE, *wrong]).code == 2
    assert not Path("there").exists()


def test_options_reach_the_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them."""
    seen: list[QemuDestinationOptions] = []
    monkeypatch.setattr(qemu_receive, "receive", lambda _where, _into, options, **_more: seen.append(options))
    monkeypatch.setattr(qemu_receive, "run_command", lambda _work: None)
    arguments = build_parser().parse_args(
        [
            *BASE[:-1], str(tmp_path / "there"), "--channels", "8", "--compression", "zstd", "--switchover-ack", "on",
            "--hold-ack", "3", "--no-vmdesc", "--allow-ignore-shared", "--no-digests",
        ]
    )  # fmt: skip
    arguments.run(arguments)
    assert not any(tmp_path.iterdir()), "made before a signal could be handled"
    (options,) = seen
    assert (options.channels, options.compression.name, options.switchover_ack) == (8, "ZSTD", "on")
    assert (options.hold_ack_s, options.description, options.digests) == (3.0, False, False)
    assert options.allow_ignore_shared


def test_what_was_received_for_people() -> None:
    """Machine, pages, rate, acknowledgements, the stop and its share, digests, notes."""
    text = describe(report())
    assert "received pc-q35-10.0, 16 MiB of RAM, 1 device sections: there" in text
    assert "3413 pages in 32 packets, 683 more of them zero; 3 sync points per-round" in text
    assert "17 MiB on the wire over 2 channels in 2.00 s, 8 MiB/s\n" in text
    assert "acknowledgements (legacy): 1 given of 1 owed, held back for 3.0 s" in text
    assert "stopped for 200 ms; of that, 50 ms" in text
    assert text.endswith("sha256 ab12  m\nnote: look here")


def test_what_was_not_received() -> None:
    """Without main memory it says so, and without an acknowledgement nothing of it."""
    other = report()
    other.without_ram, other.dialect.ack, other.security = True, "off", "TLS 1.3, X"
    text = describe(other)
    assert "without its main memory" in text
    assert "acknowledgement" not in text
    assert "TLS 1.3, X" in text


def test_names_from_the_source_can_not_control_a_terminal() -> None:
    """Escapes are shown, not sent."""
    other = report()
    other.machine = "pc\x1b[2J"
    assert "\x1b" not in describe(other)


@pytest.mark.parametrize(
    ("progress", "words", "share"),
    [
        (Progress("listening", 1.0, waiting_for=("a QEMU source to connect",)),
         ["listening", "waits for a QEMU source to connect"], 0.0),
        (Progress("part", 1.0, bytes_sent=1 << 20, bytes_total=1 << 22, rate=2048.0),
         ["part", "1 MiB received", "2 KiB/s"], 0.25),
        (Progress("live", 1.0, bytes_sent=1 << 23, bytes_total=1 << 22), ["live", "8 MiB received"], 1.0),
        (Progress("digesting", 1.0, bytes_sent=1 << 20, bytes_total=1 << 22), ["digesting", "1 of 4 MiB"], 0.25),
    ],
)  # fmt: skip
def test_progress(progress: Progress, words: list[str], share: float) -> None:
    """State, bytes, rate, and what it waits for."""
    assert VIEW.words(progress) == words
    assert VIEW.fraction(progress) == share


async def test_reserving_comes_before_listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room is known before any source is let in, and nothing is left."""
    asked: list[int] = []

    def reserve(_self: SavingMachine, length: int, _going_on: object) -> None:
        asked.append(length)
        raise StorageError("no room")

    monkeypatch.setattr(SavingMachine, "reserve", reserve)
    notes = PlainDisplay(io.StringIO())
    there = tmp_path / "there"
    with pytest.raises(StorageError):
        await qemu_receive.receive("nonsense", there, QemuDestinationOptions(), reserve=1 << 30, display=notes)
    assert asked == [1 << 30]
    assert not any(os.scandir(tmp_path))
