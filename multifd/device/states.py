"""Which device states lead to which: the arcs of the VFIO migration uAPI (v2) as a table. Knows no device and no ioctl.

A request may name a state that is several arcs away; it is cut into single arcs here as the kernel does. What the
kernel refuses is refused here first: kernels are known that never return from STOP_COPY to PRE_COPY, so nobody may
leave the question to them.
"""

from __future__ import annotations

from collections import deque

from multifd.device.interface import DeviceState
from multifd.errors import DeviceError

ARCS: dict[DeviceState, tuple[DeviceState, ...]] = {
    DeviceState.STOP: (DeviceState.RUNNING, DeviceState.RUNNING_P2P, DeviceState.STOP_COPY, DeviceState.RESUMING),
    DeviceState.RUNNING: (DeviceState.STOP, DeviceState.RUNNING_P2P, DeviceState.PRE_COPY),
    DeviceState.RUNNING_P2P: (DeviceState.STOP, DeviceState.RUNNING, DeviceState.PRE_COPY_P2P),
    DeviceState.PRE_COPY: (DeviceState.RUNNING, DeviceState.PRE_COPY_P2P, DeviceState.STOP_COPY),
    DeviceState.PRE_COPY_P2P: (DeviceState.RUNNING_P2P, DeviceState.PRE_COPY, DeviceState.STOP_COPY),
    DeviceState.STOP_COPY: (DeviceState.STOP,),
    DeviceState.RESUMING: (DeviceState.STOP,),
}
"""Single arcs of devices with and without the peer-to-peer pair together; a device without it never names those two
states.
"""

SAVING = frozenset({DeviceState.PRE_COPY, DeviceState.PRE_COPY_P2P, DeviceState.STOP_COPY})
"""The states of one stream of saved data: it begins with the first and ends when they are left."""


def check_transition(device: str, old: DeviceState, new: DeviceState) -> tuple[DeviceState, ...]:
    """The states that a request for `new` passes through, `new` last; empty if `device` is there already.

    Raise `DeviceError` if there is no way. Going from one saving state to another keeps the stream, so that no other
    state may lie between; all other ways pass neither through a saving state nor through RESUMING.
    """
    if old is new:
        return ()
    keeps_stream = old in SAVING and new in SAVING
    ways: deque[tuple[DeviceState, ...]] = deque((first,) for first in ARCS[old])
    seen = {old}
    while ways:
        way = ways.popleft()
        last = way[-1]
        if last is new:
            return way
        if last in seen or last is DeviceState.RESUMING or (last in SAVING) != keeps_stream:
            continue
        seen.add(last)
        ways.extend((*way, following) for following in ARCS[last])
    raise DeviceError(device, f"no way from state {old.value} to {new.value}")
