"""The tables of both machines: states, transitions, and which message is legal in which state (proto/states.md sections
1 and 2); and what the source waits for.

Everything that decides legality is here and nowhere else; `source` and `destination` only look it up. What is absent is
an error. A test compares these tables with the page.
"""

from __future__ import annotations

import enum

from multifd import limits
from multifd import messages as m
from multifd.errors import LocalProtocolError, RemoteProtocolError


class SourceState(enum.Enum):
    """States of a source."""

    HELLO = "hello"
    INVENTORY = "inventory"
    ATTACH = "attach"
    PRECOPY = "precopy"
    SWITCHING = "switching"
    STOP_COPY = "stop-copy"
    LOADING = "loading"
    RELEASING = "releasing"
    COMMITTED = "committed"
    ASKING = "asking"
    IN_DOUBT = "in-doubt"
    COMPLETED = "completed"
    REFUSED = "refused"
    PREFLIGHTED = "preflighted"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DestinationState(enum.Enum):
    """States of a destination."""

    HELLO = "hello"
    INVENTORY = "inventory"
    ATTACH = "attach"
    PRECOPY = "precopy"
    STOP_COPY = "stop-copy"
    LOADING = "loading"
    LOADED = "loaded"
    STARTING = "starting"
    STARTED = "started"
    REFUSED = "refused"
    PREFLIGHTED = "preflighted"
    ABORTED = "aborted"


_S = SourceState
_D = DestinationState
_CALLED_OFF = {_S.FAILED, _S.CANCELLED}

SOURCE_TRANSITIONS: dict[SourceState, frozenset[SourceState]] = {
    _S.HELLO: frozenset({_S.INVENTORY, _S.REFUSED} | _CALLED_OFF),
    _S.INVENTORY: frozenset({_S.ATTACH, _S.REFUSED, _S.PREFLIGHTED} | _CALLED_OFF),
    _S.ATTACH: frozenset({_S.PRECOPY} | _CALLED_OFF),
    _S.PRECOPY: frozenset({_S.SWITCHING} | _CALLED_OFF),
    _S.SWITCHING: frozenset({_S.PRECOPY, _S.STOP_COPY} | _CALLED_OFF),
    _S.STOP_COPY: frozenset({_S.LOADING} | _CALLED_OFF),
    _S.LOADING: frozenset({_S.RELEASING, _S.COMMITTED} | _CALLED_OFF),
    _S.RELEASING: frozenset({_S.COMMITTED} | _CALLED_OFF),
    _S.COMMITTED: frozenset({_S.COMPLETED, _S.ASKING, _S.FAILED}),
    _S.ASKING: frozenset({_S.COMPLETED, _S.FAILED, _S.IN_DOUBT}),
    _S.IN_DOUBT: frozenset({_S.ASKING, _S.COMPLETED, _S.FAILED}),
    _S.COMPLETED: frozenset(),
    _S.REFUSED: frozenset(),
    _S.PREFLIGHTED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}

DESTINATION_TRANSITIONS: dict[DestinationState, frozenset[DestinationState]] = {
    _D.HELLO: frozenset({_D.INVENTORY, _D.REFUSED, _D.ABORTED}),
    _D.INVENTORY: frozenset({_D.ATTACH, _D.REFUSED, _D.PREFLIGHTED, _D.ABORTED}),
    _D.ATTACH: frozenset({_D.PRECOPY, _D.ABORTED}),
    _D.PRECOPY: frozenset({_D.STOP_COPY, _D.ABORTED}),
    _D.STOP_COPY: frozenset({_D.LOADING, _D.ABORTED}),
    _D.LOADING: frozenset({_D.LOADED, _D.ABORTED}),
    _D.LOADED: frozenset({_D.STARTING, _D.ABORTED}),
    _D.STARTING: frozenset({_D.STARTED, _D.ABORTED}),
    _D.STARTED: frozenset(),
    _D.REFUSED: frozenset(),
    _D.PREFLIGHTED: frozenset(),
    _D.ABORTED: frozenset(),
}

SOURCE_CAN_GO_ON = frozenset(state for state, after in SOURCE_TRANSITIONS.items() if _S.CANCELLED in after)
"""COMMIT is not sent: whatever happens the owner goes on here."""
SOURCE_FLOWING = frozenset({_S.PRECOPY, _S.STOP_COPY, _S.LOADING})
"""Slots are sent, or wait to be settled."""

SOURCE_WAITS: dict[SourceState, tuple[float, str]] = {
    _S.HELLO: (limits.HELLO_DEADLINE_S, "the destination's HELLO"),
    _S.INVENTORY: (limits.VERDICT_DEADLINE_S, "the destination's VERDICT"),
    _S.ATTACH: (limits.ATTACH_DEADLINE_S, "the data channels to attach"),
    _S.SWITCHING: (limits.SWITCHING_DEADLINE_S, "the devices to pause and the owner to stop"),
    _S.LOADING: (limits.LOADED_DEADLINE_S, "the destination to finish loading (LOADED)"),
    _S.RELEASING: (limits.RELEASE_DEADLINE_S, "the owner to give up the right to run"),
    _S.COMMITTED: (limits.STARTED_DEADLINE_S, "the destination's STARTED"),
}
"""State → its deadline in seconds, and what is waited for."""

_MOVING = frozenset({_S.PRECOPY, _S.SWITCHING, _S.STOP_COPY, _S.LOADING})
_LOADED = frozenset({_S.RELEASING, _S.COMMITTED})

SOURCE_MESSAGES: dict[type, frozenset[SourceState]] = {
    m.Hello: frozenset({_S.HELLO}),
    m.Verdict: frozenset({_S.INVENTORY}),
    m.Attached: frozenset({_S.ATTACH}),
    m.Settled: _MOVING | _LOADED,
    m.Resend: _MOVING | _LOADED,
    m.Credit: _MOVING | _LOADED,
    m.DeviceStatus: _MOVING | _LOADED,
    m.SyncDone: _MOVING,
    m.SwitchoverReady: _MOVING,
    m.Loaded: frozenset({_S.LOADING}),
    m.DeviceMessage: _MOVING | _LOADED,
    m.Started: frozenset({_S.COMMITTED}),
    m.OutcomeIs: frozenset({_S.ASKING}),
    m.Aborted: frozenset(state for state, after in SOURCE_TRANSITIONS.items() if after),
}

DESTINATION_MESSAGES: dict[type, frozenset[DestinationState]] = {
    m.Hello: frozenset({_D.HELLO}),
    m.Inventory: frozenset({_D.INVENTORY}),
    m.Sync: frozenset({_D.PRECOPY, _D.STOP_COPY}),
    m.StopCopy: frozenset({_D.PRECOPY}),
    m.End: frozenset({_D.STOP_COPY, _D.LOADING}),
    m.DeviceHeard: frozenset({_D.PRECOPY, _D.STOP_COPY, _D.LOADING, _D.LOADED}),
    m.Commit: frozenset({_D.LOADED}),
    m.Cancel: frozenset(
        {_D.HELLO, _D.INVENTORY, _D.ATTACH, _D.PRECOPY, _D.STOP_COPY, _D.LOADING, _D.LOADED},
    ),
}


def check_source_move(old: SourceState, new: SourceState) -> None:
    """Raise `LocalProtocolError` unless the table has this transition."""
    if new not in SOURCE_TRANSITIONS[old]:
        raise LocalProtocolError(
            "source state", f"one of {_names(SOURCE_TRANSITIONS[old])} after {old.value}", new.value
        )


def check_destination_move(old: DestinationState, new: DestinationState) -> None:
    """Raise `LocalProtocolError` unless the table has this transition."""
    if new not in DESTINATION_TRANSITIONS[old]:
        legal = _names(DESTINATION_TRANSITIONS[old])
        raise LocalProtocolError("destination state", f"one of {legal} after {old.value}", new.value)


def check_source_message(state: SourceState, message: m.Message) -> None:
    """Raise `RemoteProtocolError` unless a source in `state` may receive `message`."""
    if state not in SOURCE_MESSAGES.get(type(message), frozenset()):
        raise RemoteProtocolError(type(message).__name__, f"a message that is legal in source state {state.value}")


def check_destination_message(state: DestinationState, message: m.Message) -> None:
    """Raise `RemoteProtocolError` unless a destination in `state` may receive `message`."""
    if state not in DESTINATION_MESSAGES.get(type(message), frozenset()):
        raise RemoteProtocolError(type(message).__name__, f"a message that is legal in destination state {state.value}")


def _names(states: frozenset[SourceState] | frozenset[DestinationState]) -> str:
    return ", ".join(sorted(state.value for state in states)) or "nothing (a final state)"
