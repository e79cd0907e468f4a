"""pyzmq: PUSH and PULL, a pair of sockets and a thread a channel, `copy=False` on both sides and a copy into place."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.peers.peer import Peer
from bench.peers.side import Side
from multifd.limits import KIB

PIECE_BYTES = 512 * KIB
QUEUE_PIECES = 64  # 32 MiB a channel; ZeroMQ's 1000 would hold 500 MiB
IO_THREADS_MAX = 2  # a thread for each processor of the machine that it was tried on


@contextlib.contextmanager
def connect(side: Side) -> Iterator[Callable[[], None]]:
    """The destination binds, the source connects."""
    zmq: Any = importlib.import_module("zmq")  # optional: no type of it is known where it is not installed
    with zmq.Context(io_threads=min(side.channels, IO_THREADS_MAX)) as context, contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(context.socket(zmq.PUSH if side.sends else zmq.PULL)) for _ in range(side.channels)
        ]
        for each in sockets:
            each.set_hwm(QUEUE_PIECES)
        if side.sends:
            for each, port in zip(sockets, json.loads(side.exchange("")), strict=True):
                each.connect(f"tcp://127.0.0.1:{port}")
        else:
            side.exchange(json.dumps([each.bind_to_random_port("tcp://127.0.0.1") for each in sockets]))
        yield lambda: _move(side, sockets)


def _move(side: Side, sockets: list[Any]) -> None:
    one = _send if side.sends else _receive
    with ThreadPoolExecutor(len(sockets)) as pool:
        for done in [pool.submit(one, side, channel, each) for channel, each in enumerate(sockets)]:
            done.result()


def _send(side: Side, channel: int, push: Any) -> None:
    tracker = None
    for piece in side.pieces(PIECE_BYTES, channel, side.channels):
        tracker = push.send(piece, copy=False, track=True)
    if tracker is not None:
        tracker.wait()  # until it has left the queue


def _receive(side: Side, channel: int, pull: Any) -> None:
    for piece in side.pieces(PIECE_BYTES, channel, side.channels):
        piece[:] = pull.recv(copy=False).buffer


PEER = Peer(name="pyzmq", connect=connect, package="zmq", install="pip install pyzmq")
