"""`inspect` on captures of stock QEMUs, whole and broken in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from multifd.cli.ending import ExitCode
from multifd.cli.main import run
from multifd.qemu.capture import Capture
from multifd.qemu.inspect import Inspection, inspect

VECTORS = Path(__file__).parents[3] / "proto" / "vectors" / "qemu"
CAPTURES = sorted(path for path in VECTORS.iterdir() if path.is_dir())
PLAIN = "10.0-none-uuid-validate"
ACKED = "10.0-none-switchover-ack"
HANDSHAKE, HEADER, PAGE = 64, 1344, 4096
OPEN_AND_PING = bytes.fromhex("0800010000080002000400000001")
PONG_1 = bytes.fromhex("0002000400000001")

Edit = Callable[[bytes], bytes]


def look(path: Path) -> Inspection:
    return inspect(path, description="novmdesc" not in path.name)


def packets(channel: bytes) -> list[bytes]:
    """The packets of a channel without compression."""
    found, at = [], HANDSHAKE
    while at < len(channel):
        end = at + HEADER + int.from_bytes(channel[at + 16 : at + 20], "big") * PAGE
        found.append(channel[at:end])
        at = end
    return found


def is_sync(packet: bytes) -> bool:
    return bool(packet[11] & 1)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Inspection]:
    """Inspect a capture after its streams went through edits, by name."""

    def inspect_edited(name: str = PLAIN, **edits: Edit) -> Inspection:
        capture = Capture(VECTORS / name)
        for stream in ("main", "return-path", *(f"channel{number}" for number in range(capture.channels))):
            data = b"".join(capture.stream(stream))
            data = edits[stream.replace("-", "_")](data) if stream.replace("-", "_") in edits else data
            (tmp_path / f"{stream}.bin").write_bytes(data)
        return inspect(tmp_path)

    return inspect_edited


def rules(found: Inspection) -> set[str]:
    return {violation.rule for violation in found.violations}


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_stock_streams_are_clean_and_give_the_digests_that_the_source_had(capture: Path) -> None:
    """A stream of a stock QEMU breaks no rule, and every block that was sent has the source's contents."""
    found = look(capture)
    assert found.violations == []
    stored = {}
    for line in (capture / "ram.sha256").read_text().splitlines():
        digest, name, length = line.split()
        stored[name] = (int(length), digest)
    for block in found.blocks:
        was_sent = block.sha256 or "ignore-shared" not in capture.name
        assert block.sha256 == (stored[block.name][1] if was_sent else ""), block.name
        assert block.bytes == stored[block.name][0]


def test_it_tells_the_dialect_that_a_stream_is_in() -> None:
    """Sync, acknowledgement, zero pages and compression are those that the capture was made with."""
    assert look(VECTORS / "7.2-zlib-running").dialect["sync"] == "per-section"
    assert look(VECTORS / "7.2-zlib-running").dialect["compression"] == "zlib"
    assert look(VECTORS / "11.1-none-zero-legacy-rp").dialect["zero_pages"] == "legacy"
    assert look(VECTORS / ACKED).dialect["ack"] == "legacy"
    assert look(VECTORS / "10.0-zstd-ch8").channels == 8


def test_a_page_that_comes_twice_between_two_sync_points_is_told(edited: Callable[..., Inspection]) -> None:
    """A packet that is there twice breaks the rule that a page is sent once between two sync points."""

    def repeat(channel: bytes) -> bytes:
        all_packets = packets(channel)
        full = next(number for number, packet in enumerate(all_packets) if len(packet) > HEADER)
        return channel[:HANDSHAKE] + b"".join(all_packets[: full + 1] + all_packets[full:])

    assert "duplicate" in rules(edited(channel0=repeat))


def test_pages_before_the_first_sync_are_told(edited: Callable[..., Inspection]) -> None:
    """A channel that begins with pages may be ahead of its block list."""

    def hurry(channel: bytes) -> bytes:
        first, second, *rest = packets(channel)
        assert is_sync(first)
        return channel[:HANDSHAKE] + b"".join([second, first, *rest])

    assert "early-data" in rules(edited(channel0=hurry))


def test_channels_that_differ_in_compression_are_told(edited: Callable[..., Inspection]) -> None:
    """One channel that says zlib beside one without compression breaks a rule, beside that it can't be decoded."""

    def pretend(channel: bytes) -> bytes:
        all_packets = packets(channel)
        full = next(number for number, packet in enumerate(all_packets) if len(packet) > HEADER)
        changed = bytearray(all_packets[full])
        changed[11] |= 0x02
        return channel[:HANDSHAKE] + b"".join([*all_packets[:full], changed, *all_packets[full + 1 :]])

    assert {"compression", "stream"} <= rules(edited(channel1=pretend))


def test_a_missing_sync_is_told(edited: Callable[..., Inspection]) -> None:
    """A mark on main for which a channel has no SYNC breaks the pairing."""

    def drop(channel: bytes) -> bytes:
        all_packets = packets(channel)
        last = max(number for number, packet in enumerate(all_packets) if is_sync(packet))
        return channel[:HANDSHAKE] + b"".join(all_packets[:last] + all_packets[last + 1 :])

    found = edited(channel1=drop)
    assert any("SYNC" in violation.text for violation in found.violations)


@pytest.mark.parametrize(("surplus", "clean"), [(1, True), (2, False)])
def test_one_sync_without_a_mark_may_end_a_channel(
    edited: Callable[..., Inspection], surplus: int, clean: bool
) -> None:
    """Sources of 9.1 and 9.2 end each channel with one SYNC more; two break the rule."""

    def add(channel: bytes) -> bytes:
        last = [packet for packet in packets(channel) if is_sync(packet)][-1]
        return channel + last * surplus

    assert (edited(channel0=add).violations == []) is clean


@pytest.mark.parametrize("count", [0, 2, 3])
def test_acknowledgements_given_must_be_those_owed(edited: Callable[..., Inspection], count: int) -> None:
    """A machine of 11.0 or older is owed exactly one, whoever asks how many it got."""
    ack = b"\x00\x07\x00\x00"

    def change(replies: bytes) -> bytes:
        assert replies.count(ack) == 1
        return replies.replace(ack, ack * count)

    capture = edited(ACKED, return_path=change)
    if count:
        assert "acks" in rules(capture)
    else:
        assert "acks" not in rules(capture)  # nothing tells then that it was on


def test_none_given_is_told_where_it_is_known_to_be_on() -> None:
    """With --switchover-ack on, a missing acknowledgement breaks the rule."""
    found = inspect(VECTORS / PLAIN, ack="on")
    assert "acks" in rules(found)


def test_a_machine_of_11_1_is_owed_none_that_nobody_asked_for() -> None:
    """In the counted mode without a request, on or off makes no difference."""
    assert inspect(VECTORS / "11.1-none-switchover-ack-new-m11.1", ack="on").violations == []


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda replies: replies + replies[:8], "follows SHUT"),
        (lambda replies: replies[8:], "no PONG"),
        (lambda replies: replies.replace(PONG_1, PONG_1[:-1] + b"\x09"), "PONG"),
        (lambda replies: b"\x00\x63" + replies, "type"),
    ],
)  # fmt: skip
def test_a_return_path_out_of_order_is_told(edited: Callable[..., Inspection], edit: Edit, words: str) -> None:
    """SHUT is the end, each PING has its PONG, and there are three types of frames."""
    found = edited(return_path=edit)
    assert any(violation.rule == "return-path" and words in str(violation) for violation in found.violations)


def test_a_return_path_that_nobody_opened_is_told(edited: Callable[..., Inspection]) -> None:
    """Nothing may be written on it before the source has opened it."""
    found = edited(main=lambda main: main.replace(OPEN_AND_PING, b"", 1))
    assert any("has not opened it" in violation.text for violation in found.violations)


def test_a_success_before_the_end_is_told(edited: Callable[..., Inspection]) -> None:
    """SHUT 0 on a stream that is cut short is told beside the cut."""
    found = edited(main=lambda main: main[: len(main) // 2])
    assert {"stream", "return-path"} <= rules(found)


def test_a_section_that_the_description_does_not_have_is_told(edited: Callable[..., Inspection]) -> None:
    """Sections are held against the VM description, name by name."""
    found = edited(main=lambda main: main.replace(b'"name": "timer"', b'"name": "tamer"'))
    assert any("tamer" in violation.where + violation.text for violation in found.violations)


def test_the_command_says_what_is_there_and_exits_with_1_for_a_broken_rule(tmp_path: Path) -> None:
    """`multifd qemu inspect` exits 0 for a clean stream, 1 for one that breaks a rule, with all keys in the object."""
    ending = run(["qemu", "inspect", str(VECTORS / PLAIN), "--json"])
    assert ending.code is ExitCode.COMPLETED
    keys = {"machine", "dialect", "blocks", "sections", "packets", "return_path", "violations"}
    assert keys <= ending.data.keys()
    assert ending.data["machine"] == "pc-q35-10.0"
    assert set(ending.data["blocks"][0]) == {"name", "bytes", "sha256"}
    (tmp_path / "main.bin").write_bytes(b"QEVM\0\0\0\2")
    broken = run(["qemu", "inspect", str(tmp_path)])
    assert broken.code is ExitCode.FAILED
    assert "version" in broken.text


def test_a_path_that_is_nothing_is_one_sentence(tmp_path: Path) -> None:
    """Neither a saved machine nor a capture: a sentence says so."""
    ending = run(["qemu", "inspect", str(tmp_path / "absent")])
    assert ending.code is ExitCode.FAILED
    assert "absent" in ending.fault


def test_compressed_and_plain_files_are_read_alike(tmp_path: Path) -> None:
    """A capture's streams may be compressed with zstd or not, one by one."""
    capture = Capture(VECTORS / PLAIN)
    (tmp_path / "main.bin").write_bytes(b"".join(capture.stream("main")))
    channel0 = b"".join(capture.stream("channel0"))
    frames = zstandard.compress(channel0[:1000]) + zstandard.compress(channel0[1000:])  # as tools with threads write it
    (tmp_path / "channel0.bin.zst").write_bytes(frames)
    copy = Capture(tmp_path)
    assert copy.channels == 1
    assert b"".join(copy.stream("main", 7)) == b"".join(capture.stream("main"))
    assert b"".join(copy.stream("channel0")) == channel0
    assert list(copy.stream("return-path")) == []
