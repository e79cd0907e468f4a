"""One of two relays, in a process that kills itself just before a step: `python dying_hop.py near|far STEP TO [QMP]`.
Says where it listens in its first line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import multifd
from multifd.elements import Shut
from multifd.qemu.hop_far import FarRelay
from multifd.qemu.hop_far_end import FarStep
from multifd.qemu.hop_near import NearRelay
from multifd.qemu.listener import QemuListener
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.session import qemu_relay as r

LIVE = "live"
"""A moment after bytes began to pass."""
LIVE_S = 0.1
NEAR_STEPS = ("ConnectFar", "StartChannels", LIVE, "Release", "Shut", "ContinueFar")
FAR_STEPS = ("connect", LIVE, "release", "whole", "run")


class DyingNear(NearRelay):
    """Lives until `step`."""

    step = ""

    def before(self, action: r.RelayAction) -> None:
        name = type(action).__name__
        if isinstance(action, r.Reply) and isinstance(action.message, Shut):
            name = "Shut"
        if name == self.step:
            die()
        if self.step == LIVE and name == "StartChannels":
            asyncio.get_running_loop().call_later(LIVE_S, die)


class DyingFar(FarRelay):
    """Lives until `step`."""

    step = ""

    def before(self, step: FarStep) -> None:
        if step.value == self.step:
            die()
        if self.step == LIVE and step is FarStep.CONNECT:
            asyncio.get_running_loop().call_later(LIVE_S, die)


def die() -> None:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main(which: str, step: str, to: str, qmp: str | None = None) -> None:
    """Until it dies."""
    if which == "near":
        listener = QemuListener.open("tcp:127.0.0.1:0")
        near = DyingNear(listener, to)
        near.step = step
        print(listener.uri, flush=True)
        await near.run()
    else:
        native = await multifd.listen("tcp://127.0.0.1:0")
        far = DyingFar(native, to, QemuRelayOptions(out_qmp=qmp))
        far.step = step
        print(native.address, flush=True)
        await far.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
