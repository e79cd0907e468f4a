"""Which work goes to a channel next: fair shares among flows, and a bandwidth limit. Knows of work only its `length`.

Deficit round robin (Shreedhar and Varghese, 1995): a flow whose turn comes may send a quantum times its weight; what it
can't use, since its next piece is larger, it keeps for its next turn. Flows are drawn from lazily, one piece ahead, so
that a sweep over a large block is never a list. One user: `session.source`, on one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from multifd import limits
from multifd.errors import LocalProtocolError
from multifd.slot import Work

QUANTUM_BYTES = (
    limits.SLOT_BYTES
)  # a turn of weight 1; small against what is in the channels, large against the cost of a turn
EMPTY_COST_BYTES = 64  # what work without payload (zero ranges, LAST marks) costs: the size of a slot's header
BURST_S = 0.02  # idle time that the bandwidth limit makes good: more than a late timer, less than anybody notices


class _Flow:
    """What one flow has queued, and its share."""

    def __init__(self, name: str, weight: int) -> None:
        self.name = name
        self.quantum = weight * QUANTUM_BYTES
        self.deficit = 0
        self.active = False
        self.front: deque[Work] = deque()  # drawn one ahead, or pushed to the front
        self.queue: deque[Iterator[Work]] = deque()

    def fill(self) -> bool:
        """Draw one piece ahead; False if there is none."""
        while not self.front and self.queue:
            work = next(self.queue[0], None)
            if work is None:
                self.queue.popleft()
            else:
                self.front.append(work)
        return bool(self.front)

    @property
    def cost(self) -> int:
        """Of the piece that is next; there must be one."""
        return self.front[0].length or EMPTY_COST_BYTES

    @property
    def turns(self) -> int:
        """Turns until the deficit covers the next piece, from now."""
        return -(-max(self.cost - self.deficit, 0) // self.quantum)


class Scheduler:
    """Hands out work, piece by piece. `bandwidth_limit` is in payload bytes per second over all flows; None is none."""

    def __init__(self, *, bandwidth_limit: int | None) -> None:
        if bandwidth_limit is not None and bandwidth_limit <= 0:
            raise LocalProtocolError("bandwidth limit", "more than 0 bytes per second", bandwidth_limit)
        self.wake_at: float | None = None
        """Set by `next_work`: when the bandwidth limit allows the next piece; None if it does not stand in the way."""
        self._limit = bandwidth_limit
        self._free_at = float("-inf")
        self._flows: dict[str, _Flow] = {}
        self._active: deque[_Flow] = deque()  # the first is the one whose turn it is
        self._granted = False  # whether the first has got the quantum of this turn

    def add_flow(self, name: str, weight: int) -> None:
        """Add a flow with a share of `weight`, from 1."""
        if name in self._flows:
            raise LocalProtocolError("flow", "a name that is not in use", name)
        if weight < 1:
            raise LocalProtocolError(f"weight of {name}", "1 or more", weight)
        self._flows[name] = _Flow(name, weight)

    def put(self, name: str, work: Iterator[Work]) -> None:
        """Give the flow work to draw from, after what it has.

        What the iterator raises comes out of `next_work` or `has_work`.
        """
        flow = self._flow(name)
        flow.queue.append(work)
        self._activate(flow)

    def push_front(self, name: str, work_item: Work) -> None:
        """Put one piece before all else of the flow: something sent before goes again."""
        flow = self._flow(name)
        flow.front.appendleft(work_item)
        self._activate(flow)

    def has_work(self, name: str) -> bool:
        """Whether the flow has a next piece. Draws it if need be."""
        return self._flow(name).fill()

    def debt_s(self, now: float) -> float:
        """How far the pieces drawn so far are ahead of the bandwidth limit, in seconds."""
        return max(0.0, self._free_at - now) if self._limit is not None else 0.0

    def next_work(self, now: float) -> tuple[str, Work] | None:
        """The flow's name and its next piece; None if nobody has any, or not before `wake_at`."""
        self.wake_at = None
        flow = self._choose()
        if flow is None:
            return None
        if self._limit is not None:
            if now < self._free_at:
                self.wake_at = self._free_at
                return None
            self._free_at = max(self._free_at, now - BURST_S) + flow.cost / self._limit
        flow.deficit -= flow.cost
        return flow.name, flow.front.popleft()

    def _flow(self, name: str) -> _Flow:
        flow = self._flows.get(name)
        if flow is None:
            raise LocalProtocolError("flow", "a flow that was added", name)
        return flow

    def _activate(self, flow: _Flow) -> None:
        if not flow.active:
            flow.active = True
            self._active.append(flow)

    def _choose(self) -> _Flow | None:
        """The flow whose turn it is and whose deficit covers its next piece.

        Flows without work leave the round, and take nothing saved along.
        """
        passed = 0
        while self._active:
            flow = self._active[0]
            if not flow.fill():
                self._active.popleft()
                flow.active = False
                flow.deficit = 0
                self._granted = False
                continue
            if not self._granted:
                flow.deficit += flow.quantum
                self._granted = True
            if flow.deficit >= flow.cost:
                return flow
            self._active.rotate(-1)
            self._granted = False
            passed += 1
            if passed >= len(self._active):
                self._skip_turns()
                passed = 0
        return None

    def _skip_turns(self) -> None:
        """Nobody could send in a whole round: grant at once all rounds but the last in which nobody could either."""
        rounds = min(flow.turns for flow in self._active) - 1
        for flow in self._active:
            flow.deficit += rounds * flow.quantum
