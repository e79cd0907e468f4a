"""QEMU: its scenario and its options. No QEMU is started."""

from __future__ import annotations

import dataclasses
import types

import pytest

from bench import __main__ as command
from bench import machine, qemu
from multifd.limits import GIB

PLAN = qemu.Plan(size=GIB, channels=4, repeat=1)


def test_a_scenario_is_of_the_guest() -> None:
    """Work, security and a cold destination are in its name; a guest of random bytes in plain is the usual one."""
    changed = dataclasses.replace(PLAN, work="sparse-1", security="tls", cold=True)
    assert PLAN.scenario().name == "guest-ram-1GiB-4ch-512KiB-none-cubic-loopback"
    assert changed.scenario().name == "guest-sparse-1-1GiB-4ch-512KiB-none-cubic-loopback-tls-cold"


def test_stock_alone_needs_no_room_for_a_saved_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two memories will do, where the pairs with ours need a third."""
    monkeypatch.setattr(qemu, "_choose", lambda _version: None)
    monkeypatch.setattr(machine, "memory_available", lambda: 5 * GIB // 2)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: types.SimpleNamespace(free=5 * GIB // 2))
    assert "choose a smaller --size" in str(qemu.unable(PLAN))
    alone = dataclasses.replace(PLAN, only_stock=True)
    assert (qemu.unable(alone), alone.ours) == (None, ())


@pytest.mark.parametrize("work", ["memory", "anything"])
def test_what_no_guest_has_is_refused(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A guest's RAM is always looked at for zeros, so that it can't be the work without."""
    with pytest.raises(SystemExit) as ended:
        command.parser().parse_args(["qemu", "--work", work])
    assert ended.value.code == 2
    assert "--work" in capsys.readouterr().err
