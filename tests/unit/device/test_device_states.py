"""The arcs of device states: what the VFIO migration uAPI allows, and how a request is cut into single arcs."""

from __future__ import annotations

import itertools

import pytest

from multifd.device.interface import DeviceState
from multifd.device.states import ARCS, SAVING, check_transition
from multifd.errors import DeviceError

S = DeviceState

REFUSED = {(S.STOP_COPY, S.PRE_COPY), (S.STOP_COPY, S.PRE_COPY_P2P)}
"""The only requests among all pairs that a Linux kernel answers with EINVAL."""


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
def test_every_pair_is_judged_as_the_kernel_does(old: DeviceState, new: DeviceState) -> None:
    """All pairs of states have a way but STOP_COPY to the two PRE_COPY states."""
    if (old, new) in REFUSED:
        with pytest.raises(DeviceError, match="no way from state stop-copy to pre-copy"):
            check_transition("nic/0", old, new)
        return
    way = check_transition("nic/0", old, new)
    assert (way == ()) == (old is new)
    for here, there in itertools.pairwise((old, *way)):
        assert there in ARCS[here]
    if way:
        assert way[-1] is new


@pytest.mark.parametrize(
    ("old", "new", "way"),
    [
        (S.RUNNING, S.PRE_COPY, (S.PRE_COPY,)),
        (S.PRE_COPY, S.STOP_COPY, (S.STOP_COPY,)),
        (S.PRE_COPY, S.STOP, (S.RUNNING, S.STOP)),
        (S.STOP_COPY, S.RUNNING, (S.STOP, S.RUNNING)),
        (S.RUNNING, S.STOP_COPY, (S.STOP, S.STOP_COPY)),
        (S.RESUMING, S.RUNNING, (S.STOP, S.RUNNING)),
        (S.PRE_COPY, S.RESUMING, (S.RUNNING, S.STOP, S.RESUMING)),
        (S.PRE_COPY_P2P, S.STOP, (S.RUNNING_P2P, S.STOP)),
        (S.PRE_COPY_P2P, S.STOP_COPY, (S.STOP_COPY,)),
    ],
)
def test_requests_are_cut_into_single_arcs(old: DeviceState, new: DeviceState, way: tuple[DeviceState, ...]) -> None:
    """A request names the states on the way, and leaves a saving state by the way it came unless it saves on."""
    assert check_transition("nic/0", old, new) == way


def test_no_way_leads_through_a_state_that_moves_data() -> None:
    """Saving states and RESUMING are never only passed through, unless a stream goes on from one saving state to
    another.
    """
    for old, new in itertools.product(S, S):
        if (old, new) in REFUSED:
            continue
        passed = set(check_transition("nic/0", old, new)[:-1])
        assert S.RESUMING not in passed
        assert not passed & SAVING or {old, new} <= SAVING
