"""All peers, in the order in which they run. Each is verified by digest like ours.

Those that are not installed are left out: `pip install '.[peers]'` has all but Open MPI's own programs.
"""

from bench.contender import Contender
from bench.peers import gloo, nixl, pyzmq, streams
from bench.peers.mpi import Mpi
from bench.peers.peer import Peer

BY_NAME: dict[str, Peer] = {module.PEER.name: module.PEER for module in (streams, pyzmq, gloo, nixl)}
EVERY: tuple[Contender, ...] = (*BY_NAME.values(), Mpi())
