"""The source's machine: a switchover that the deadline forces, and that a re-arm takes back."""

from __future__ import annotations

import pytest
from machine_pair import Pair, device

from multifd import limits
from multifd import messages as m
from multifd.session.states import SourceState


def forced(*, lost: set[type]) -> Pair:
    """The deadline has forced the switchover, the device re-armed at the stop, and such messages are lost since."""
    pair = Pair.of(devices=[device("nic")], deadline_s=2.0, switch_at_deadline=True)
    pair.pending_bytes["ram"] = 1 << 40
    pair.rearm_at_stop = [[1]]
    pair.run(lambda p: p.source.returns == 1)
    pair.lost = lost
    return pair


def test_a_forced_switchover_gives_a_rearmed_device_its_time() -> None:
    """It comes back to precopy, waits for the next READY, and switches over then."""
    pair = forced(lost=set())
    pair.run()
    assert pair.source.visited[-1] is SourceState.COMPLETED
    assert m.StopCopy({1: 2}) in pair.source_said


def test_a_forced_switchover_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not ready again `STALL_DEADLINE_S` after the return fails the session, by name."""
    monkeypatch.setattr(limits, "STALL_DEADLINE_S", 2.0)
    pair = forced(lost={m.SwitchoverReady, m.DeviceStatus})
    back_at = pair.now
    pair.run()
    assert pair.source.visited[-2:] == [SourceState.PRECOPY, SourceState.FAILED]
    assert pair.now - back_at == pytest.approx(limits.STALL_DEADLINE_S, abs=0.1)
    assert "READY of epoch 2" in str(pair.source_error)
