"""NIXL over TCP by UCX: one WRITE of all of the memory, registered before, on connections of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.peers.peer import Peer
from bench.peers.side import Side

POLL_S = 0.0005  # its own thread makes progress meanwhile; without a pause two loops would take both processors from it
DONE = b"all of it"


@contextlib.contextmanager
def connect(side: Side) -> Iterator[Callable[[], None]]:
    """Two agents that know each other's memory."""
    nixl: Any = importlib.import_module("nixl._api")  # optional: no type of it is known where it is not installed
    agent = nixl.nixl_agent("source" if side.sends else "destination", nixl.nixl_agent_config(backends=["UCX"]))
    address = int(np.frombuffer(side.memory, dtype=np.uint8).ctypes.data)
    registered = agent.register_memory([(address, len(side.memory), 0, "")], "DRAM")
    theirs = json.loads(side.exchange(json.dumps([agent.get_agent_metadata().hex(), address])))
    other = agent.add_remote_agent(bytes.fromhex(theirs[0]))
    if side.sends:
        here, there = (agent.get_xfer_descs([(at, len(side.memory), 0)], "DRAM") for at in (address, theirs[1]))
        handle = agent.initialize_xfer("WRITE", here, there, other, DONE)
        yield lambda: _write(agent, handle)
        agent.release_xfer_handle(handle)
    else:
        yield lambda: _wait(agent, other)
    agent.deregister_memory(registered)


def _write(agent: Any, handle: Any) -> None:
    state = agent.transfer(handle)
    while state == "PROC":
        time.sleep(POLL_S)
        state = agent.check_xfer_state(handle)
    if state != "DONE":
        raise BenchError(f"NIXL's transfer ended as {state}")


def _wait(agent: Any, other: Any) -> None:
    name = other.decode() if isinstance(other, bytes) else other
    while not agent.check_remote_xfer_done(name, DONE):
        time.sleep(POLL_S)


PEER = Peer(
    name="NIXL over TCP",
    connect=connect,
    package="nixl",
    install="pip install nixl",
    channels_max=1,
    variables={"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"},
)
