"""MPI, by mpi4py and Open MPI over its TCP transport: `Isend` and `Irecv` straight from and to the memory.

mpirun starts both ranks, so that the frame of the other peers does not fit: rank 0 is the source, and prints what both
have to say. A channel is one of Open MPI's links.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from bench.contender import Contender
from bench.peers.peer import PYTHON, put_together, run_together, task_of
from bench.peers.side import Side, SideReport, Task, take_part
from bench.result import Run
from bench.scenario import Scenario
from multifd.limits import MIB

PIECE_BYTES = 64 * MIB  # faster than 512 KiB
IN_FLIGHT = 4
OPTIONS = (
    "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
    "--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo",
    "--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_links",
)  # fmt: skip


class Mpi(Contender):
    """Open MPI."""

    name = "Open MPI"

    def unable(self, scenario: Scenario) -> str | None:  # noqa: ARG002
        """It needs mpirun and mpi4py, which is compiled when it is installed."""
        if shutil.which("mpirun") and importlib.util.find_spec("mpi4py"):
            return None
        return "it is NOT INSTALLED (Debian: apt-get install openmpi-bin libopenmpi-dev; then pip install mpi4py)"

    def run(self, scenario: Scenario) -> Run:
        """Start both ranks and wait for them. Raise `BenchError`."""
        ranks = [*PYTHON, "bench.peers.mpi", task_of(scenario).to_json()]
        command = ["mpirun", "-n", "2", *OPTIONS, str(scenario.channels), *ranks]
        [output] = run_together(self.name, [command], {"OMPI_MCA_rmaps_base_oversubscribe": "1"})
        return put_together(self.name, [SideReport(**report) for report in json.loads(output)], scenario)


def main() -> None:
    """Be a rank; the task is the argument."""
    mpi: Any = importlib.import_module("mpi4py.MPI")  # optional: no type of it is known where it is not installed
    world = mpi.COMM_WORLD
    other = 1 - world.rank

    @contextlib.contextmanager
    def connect(side: Side) -> Iterator[Callable[[], None]]:
        yield lambda: _move(side, world.Isend if side.sends else world.Irecv, other)

    task = Task(**json.loads(sys.argv[1]))
    report = take_part(task, connect, lambda mine: str(world.sendrecv(mine, other, source=other)), sends=not world.rank)
    reports = world.gather(dataclasses.asdict(report))
    if world.rank == 0:
        print(json.dumps(reports))


def _move(side: Side, start: Callable[[memoryview, int], Any], other: int) -> None:
    under_way: deque[Any] = deque()
    for piece in side.pieces(PIECE_BYTES):
        if len(under_way) == IN_FLIGHT:
            under_way.popleft().Wait()
        under_way.append(start(piece, other))
    for each in under_way:
        each.Wait()


if __name__ == "__main__":
    main()
