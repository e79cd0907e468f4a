"""A relay in a process that kills itself just before a step: `python -m harness.dying_relay STEP TO QMP`. Says where it
listens in its first line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from multifd.elements import Shut
from multifd.qemu.listener import QemuListener
from multifd.qemu.relay import QemuRelay
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.session import qemu_relay as r

LIVE = "live"
"""A moment after pages began to pass."""
LIVE_S = 0.05
STEPS = ("ConnectFar", "StartChannels", LIVE, "Release", "Shut", "ContinueFar")


class DyingRelay(QemuRelay):
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


def die() -> None:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main(step: str, to: str, qmp: str) -> None:
    """Until it dies."""
    listener = QemuListener.open("tcp:127.0.0.1:0")
    relay = DyingRelay(listener, to, QemuRelayOptions(out_qmp=qmp or None))
    relay.step = step
    print(listener.uri, flush=True)
    await relay.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
