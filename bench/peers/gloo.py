"""torch.distributed with gloo: `isend` and `irecv` straight from and to the memory, on connections of its own."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.peers.peer import Peer
from bench.peers.side import Side
from multifd.limits import MIB

PIECE_BYTES = 64 * MIB  # twice as fast as 512 KiB
IN_FLIGHT = 4


@contextlib.contextmanager
def connect(side: Side) -> Iterator[Callable[[], None]]:
    """A group of two, which find each other by a file."""
    torch: Any = importlib.import_module("torch")  # optional: no type of it is known where it is not installed
    group: Any = importlib.import_module("torch.distributed")
    with tempfile.TemporaryDirectory(prefix="multifd-bench-") as folder:
        mine = str(Path(folder) / "store")
        theirs = side.exchange(mine)
        group.init_process_group(
            "gloo", init_method=f"file://{mine if side.sends else theirs}", rank=0 if side.sends else 1, world_size=2
        )
        group.barrier()  # connects
        yield lambda: _move(side, torch, group)
        group.destroy_process_group()
        side.exchange("left")  # the store is the other's too


def _move(side: Side, torch: Any, group: Any) -> None:
    start = group.isend if side.sends else group.irecv
    under_way: deque[Any] = deque()
    for piece in side.pieces(PIECE_BYTES):
        if len(under_way) == IN_FLIGHT:
            under_way.popleft().wait()
        under_way.append(start(torch.frombuffer(piece, dtype=torch.uint8), 1 if side.sends else 0))
    for each in under_way:
        each.wait()


PEER = Peer(
    name="torch gloo",
    connect=connect,
    package="torch",
    install="pip install torch",
    channels_max=1,
    variables={"GLOO_SOCKET_IFNAME": "lo"},
)
