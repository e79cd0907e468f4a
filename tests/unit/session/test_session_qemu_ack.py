"""Acks: what is owed is given, once, when it is due; what is not owed is never given."""

from __future__ import annotations

import pytest
from qemu_pair import ASK, section

from multifd import limits
from multifd.elements import AckMode, Phase
from multifd.errors import LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.session.qemu_ack import AckKeeper, choose_ack_mode
from multifd.session.qemu_machine_type import machine_type


def given(keeper: AckKeeper, now: float) -> int:
    """How many acks are due."""
    count = 0
    while keeper.poll_ack(now):
        count += 1
    return count


@pytest.mark.parametrize(
    ("choice", "machine", "mode"),
    [
        ("off", "pc-q35-11.1", AckMode.OFF),
        ("off", "microvm", AckMode.OFF),
        ("on", "pc-q35-11.0", AckMode.LEGACY),
        ("on", "pc-q35-11.1", AckMode.COUNTED),
        ("legacy", "pc-q35-11.1", AckMode.LEGACY),
        ("counted", "pc-q35-7.2", AckMode.COUNTED),
        ("legacy", "microvm", AckMode.LEGACY),
    ],
)
def test_on_follows_the_machine_type(choice: str, machine: str, mode: AckMode) -> None:
    """What is said outright holds; `on` is what the source's machine type waits for."""
    assert choose_ack_mode(choice, machine_type(machine)) is mode


def test_on_without_a_version_is_refused() -> None:
    """Either guess could hang the source, so a person is asked; a word that is no choice is our own fault."""
    with pytest.raises(RefusedError, match=r"'microvm' has no version.*say legacy for .* counted for 11\.1"):
        choose_ack_mode("on", machine_type("microvm"))
    with pytest.raises(LocalProtocolError, match="off, on, legacy, counted"):
        choose_ack_mode("maybe", machine_type("pc-q35-10.0"))


def test_legacy_is_one_for_all() -> None:
    """One ack from the first opening of the return path on; neither a second opening nor a device adds one."""
    keeper = AckKeeper(AckMode.LEGACY, 0.0)
    keeper.handle_section(section("d/vfio", ASK, Phase.PART), 0, 0.0)
    assert given(keeper, 0.0) == 0
    keeper.handle_return_path(1.0)
    keeper.handle_return_path(2.0)
    assert keeper.wake_at == 1.0
    assert given(keeper, 1.0) == 1
    keeper.handle_return_path(3.0)
    assert given(keeper, 9.0) == 0
    assert (keeper.owed, keeper.given) == (1, 1)
    assert [(each.kind, each.at) for each in keeper.log] == [("owed", 1.0), ("given", 1.0)]


@pytest.mark.parametrize("mode", [AckMode.OFF, AckMode.COUNTED])
def test_nobody_asks_and_none_is_given(mode: AckMode) -> None:
    """An open return path alone earns no ack but in the legacy mode."""
    keeper = AckKeeper(mode, 0.0)
    keeper.handle_return_path(0.0)
    assert (keeper.owed, given(keeper, 9.0), keeper.wake_at) == (0, 0, None)


@pytest.mark.parametrize(
    ("name", "body", "phase", "owed"),
    [
        ("0000:00:04.0/vfio", b"data" + ASK, Phase.PART, 1),
        ("0000:00:04.0/vfio", ASK, Phase.PART, 1),
        ("0000:00:04.0/vfio", ASK, Phase.START, 0),
        ("0000:00:04.0/vfio", ASK, Phase.END, 0),
        ("0000:00:04.0/vfio", ASK, Phase.FULL, 0),
        ("0000:00:04.0/vfio", ASK + b"x", Phase.PART, 0),
        ("0000:00:04.0/vfio", ASK[:-1], Phase.PART, 0),
        ("0000:00:04.0/vfio", bytes.fromhex("ffffffffef100001"), Phase.PART, 0),
        ("0000:00:04.0/vfiox", ASK, Phase.PART, 0),
        ("vfio", ASK, Phase.PART, 0),
        ("dirty-bitmap", ASK, Phase.PART, 0),
    ],
)
def test_counted_is_one_for_each_request(name: str, body: bytes, phase: Phase, owed: int) -> None:
    """A request is a PART of a VFIO device that ends with its tag, and nothing else is."""
    keeper = AckKeeper(AckMode.COUNTED, 0.0)
    keeper.handle_section(section(name, body, phase), 0, 5.0)
    assert (keeper.owed, given(keeper, 5.0)) == (owed, owed)


def test_each_ack_is_held_for_itself() -> None:
    """Every ack comes `hold_s` after its own request, and none before."""
    keeper = AckKeeper(AckMode.COUNTED, 3.0)
    keeper.handle_section(section("a/vfio", ASK, Phase.PART), 0, 10.0)
    keeper.handle_section(section("b/vfio", ASK, Phase.PART), 0, 12.0)
    assert (keeper.wake_at, given(keeper, 12.9)) == (13.0, 0)
    assert (given(keeper, 13.0), keeper.wake_at) == (1, 15.0)
    assert (given(keeper, 99.0), keeper.wake_at) == (1, None)
    assert [each.why.split()[0] for each in keeper.log if each.kind == "given"] == ["a/vfio", "b/vfio"]


def test_requests_are_bounded() -> None:
    """A source that asks without end is stopped, with the place."""
    keeper = AckKeeper(AckMode.COUNTED, 1e6)
    ask = section("d/vfio", ASK, Phase.PART)
    for _ in range(limits.QEMU_ACKS_MAX):
        keeper.handle_section(ask, 0, 0.0)
    with pytest.raises(RemoteProtocolError, match="main at 4711: d/vfio: expected at most"):
        keeper.handle_section(ask, 4711, 0.0)
