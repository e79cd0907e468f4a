"""The tables of the machines of QEMU's dialect: states, transitions, and what is legal in which state (proto/qemu.md
section 14). As in `states`: what is absent is an error, and a test compares these tables with the page.
"""

from __future__ import annotations

import enum

from multifd import elements as e
from multifd.elements import CommandNumber, Phase
from multifd.errors import LocalProtocolError, RemoteProtocolError


class QemuDestinationState(enum.Enum):
    """States of a destination. LIVE and PART alternate, once for each PART of RAM."""

    CONFIGURATION = "configuration"
    SETUP = "setup"
    BLOCKS = "blocks"
    PREPARING = "preparing"
    START = "start"
    LIVE = "live"
    PART = "part"
    SWITCHOVER = "switchover"
    END = "end"
    DEVICES = "devices"
    DESCRIPTION = "description"
    STORING = "storing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class QemuSourceState(enum.Enum):
    """States of a source."""

    NEW = "new"
    OPENING = "opening"
    START = "start"
    PAGES = "pages"
    PART = "part"
    END = "end"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RelayState(enum.Enum):
    """States of a relay."""

    GATHERING = "gathering"
    """Connections of the source come."""
    CONNECTING = "connecting"
    LIVE = "live"
    """The guest runs at the source."""
    STOPPED = "stopped"
    """It is stopped there, and what is left of it is passed on."""
    RELEASED = "released"
    """The far end has everything: its SHUT decides."""
    COMMITTED = "committed"
    """SHUT 0 was passed on: the source gives the guest up."""
    CONTINUING = "continuing"
    """The source is done; the far end is told to go on."""
    COMPLETED = "completed"
    FAILED = "failed"
    """The guest runs on at the source."""
    CANCELLED = "cancelled"
    IN_DOUBT = "in-doubt"
    """Nobody here knows who has the guest, or it stands still at the far end: the error says which."""


_D = QemuDestinationState
_S = QemuSourceState
_R = RelayState
_D_OFF = {_D.FAILED, _D.CANCELLED}
_S_OFF = {_S.FAILED, _S.CANCELLED}
_R_OFF = {_R.FAILED, _R.CANCELLED}

QEMU_DESTINATION_TRANSITIONS: dict[_D, frozenset[_D]] = {
    _D.CONFIGURATION: frozenset({_D.SETUP} | _D_OFF),
    _D.SETUP: frozenset({_D.BLOCKS} | _D_OFF),
    _D.BLOCKS: frozenset({_D.PREPARING} | _D_OFF),
    _D.PREPARING: frozenset({_D.START} | _D_OFF),
    _D.START: frozenset({_D.LIVE} | _D_OFF),
    _D.LIVE: frozenset({_D.PART, _D.SWITCHOVER, _D.END} | _D_OFF),
    _D.PART: frozenset({_D.LIVE} | _D_OFF),
    _D.SWITCHOVER: frozenset({_D.END} | _D_OFF),
    _D.END: frozenset({_D.DEVICES} | _D_OFF),
    _D.DEVICES: frozenset({_D.DESCRIPTION, _D.STORING} | _D_OFF),
    _D.DESCRIPTION: frozenset({_D.STORING} | _D_OFF),
    _D.STORING: frozenset({_D.COMPLETED} | _D_OFF),
    _D.COMPLETED: frozenset(),
    _D.FAILED: frozenset(),
    _D.CANCELLED: frozenset(),
}

QEMU_SOURCE_TRANSITIONS: dict[_S, frozenset[_S]] = {
    _S.NEW: frozenset({_S.OPENING} | _S_OFF),
    _S.OPENING: frozenset({_S.START} | _S_OFF),
    _S.START: frozenset({_S.PAGES} | _S_OFF),
    _S.PAGES: frozenset({_S.PART} | _S_OFF),
    _S.PART: frozenset({_S.END, _S.WAITING} | _S_OFF),
    _S.END: frozenset({_S.WAITING} | _S_OFF),
    _S.WAITING: frozenset({_S.COMPLETED} | _S_OFF),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}

RELAY_TRANSITIONS: dict[_R, frozenset[_R]] = {
    _R.GATHERING: frozenset({_R.CONNECTING} | _R_OFF),
    _R.CONNECTING: frozenset({_R.LIVE} | _R_OFF),
    _R.LIVE: frozenset({_R.STOPPED} | _R_OFF),
    _R.STOPPED: frozenset({_R.RELEASED} | _R_OFF),
    _R.RELEASED: frozenset({_R.COMMITTED, _R.FAILED, _R.IN_DOUBT}),
    _R.COMMITTED: frozenset({_R.CONTINUING, _R.COMPLETED, _R.FAILED, _R.IN_DOUBT}),
    _R.CONTINUING: frozenset({_R.COMPLETED, _R.IN_DOUBT}),
    _R.COMPLETED: frozenset(),
    _R.FAILED: frozenset(),
    _R.CANCELLED: frozenset(),
    _R.IN_DOUBT: frozenset(),
}

_BETWEEN = frozenset({_D.SETUP, _D.LIVE, _D.SWITCHOVER, _D.DEVICES})
_PAGES = frozenset({_D.PART, _D.END})

QEMU_DESTINATION_ELEMENTS: dict[type, frozenset[_D]] = {
    e.Configuration: frozenset({_D.CONFIGURATION}),
    e.Command: _BETWEEN,
    e.Section: _BETWEEN,
    e.RamBegins: frozenset({_D.SETUP, _D.LIVE, _D.SWITCHOVER}),
    e.BlockList: frozenset({_D.BLOCKS}),
    e.SyncMark: frozenset({_D.START} | _PAGES),
    e.ZeroRecords: _PAGES,
    e.PageRecord: _PAGES,
    e.RamEnds: frozenset({_D.START} | _PAGES),
    e.EndOfState: frozenset({_D.DEVICES}),
    e.Description: frozenset({_D.DESCRIPTION}),
}
"""Which element of main is legal in which state; the three tables below say more of some."""

QEMU_RAM_BEGINS: dict[Phase, frozenset[_D]] = {
    Phase.START: frozenset({_D.SETUP}),
    Phase.PART: frozenset({_D.LIVE}),
    Phase.END: frozenset({_D.LIVE, _D.SWITCHOVER}),
}
"""Which phase of RAM may begin in which state."""

QEMU_RAM_ENDS: dict[Phase, frozenset[_D]] = {
    Phase.START: frozenset({_D.START}),
    Phase.PART: frozenset({_D.PART}),
    Phase.END: frozenset({_D.END}),
}
"""Which phase of RAM may end in which state."""

QEMU_COMMANDS: dict[CommandNumber, frozenset[_D]] = {
    CommandNumber.OPEN_RETURN_PATH: frozenset({_D.SETUP, _D.LIVE}),
    CommandNumber.PING: _BETWEEN,
    CommandNumber.POSTCOPY_ADVISE: frozenset({_D.SETUP}),
    CommandNumber.SWITCHOVER_START: frozenset({_D.LIVE}),
}
"""Which command is legal in which state; those that are absent belong to features that are not supported."""

_TALKING = frozenset({_S.START, _S.PAGES, _S.PART, _S.END, _S.WAITING})

QEMU_SOURCE_MESSAGES: dict[type, frozenset[_S]] = {
    e.Pong: _TALKING,
    e.SwitchoverAck: _TALKING,
    e.Shut: _TALKING,
}
"""Which message of the return path is legal in which state. SHUT 0 is in WAITING alone."""


def check_qemu_destination_move(old: _D, new: _D) -> None:
    """Raise `LocalProtocolError` unless the table has this transition."""
    if new not in QEMU_DESTINATION_TRANSITIONS[old]:
        legal = _names(QEMU_DESTINATION_TRANSITIONS[old])
        raise LocalProtocolError("QEMU destination state", f"one of {legal} after {old.value}", new.value)


def check_qemu_source_move(old: _S, new: _S) -> None:
    """Raise `LocalProtocolError` unless the table has this transition."""
    if new not in QEMU_SOURCE_TRANSITIONS[old]:
        legal = _names(QEMU_SOURCE_TRANSITIONS[old])
        raise LocalProtocolError("QEMU source state", f"one of {legal} after {old.value}", new.value)


def check_relay_move(old: _R, new: _R) -> None:
    """Raise `LocalProtocolError` unless the table has this transition."""
    if new not in RELAY_TRANSITIONS[old]:
        legal = _names(RELAY_TRANSITIONS[old])
        raise LocalProtocolError("relay state", f"one of {legal} after {old.value}", new.value)


def check_qemu_element(state: _D, element: e.StreamElement, offset: int) -> None:
    """Raise `RemoteProtocolError` unless a destination in `state` may get `element`, which ends at `offset` of main."""
    legal = QEMU_DESTINATION_ELEMENTS[type(element)]
    what = type(element).__name__
    if isinstance(element, e.RamBegins):
        legal = QEMU_RAM_BEGINS.get(element.phase, frozenset())
        what = f"{element.phase.name} of ram"
    elif isinstance(element, e.RamEnds):
        legal = QEMU_RAM_ENDS.get(element.phase, frozenset())
        what = f"end of ram's {element.phase.name}"
    elif isinstance(element, e.Command):
        legal = QEMU_COMMANDS.get(element.number, frozenset())
        what = element.number.name
    if state not in legal:
        expected = f"it in {_names(legal)} only" if legal else "no such thing: the feature is not supported"
        raise RemoteProtocolError(f"main at {offset}: {what} in state {state.value}", expected)


def check_qemu_source_message(state: _S, message: e.ReturnMessage) -> None:
    """Raise `RemoteProtocolError` unless a source in `state` may get `message`."""
    if state not in QEMU_SOURCE_MESSAGES[type(message)]:
        raise RemoteProtocolError(f"return path: {type(message).__name__}", "nothing before OPEN_RETURN_PATH")
    if message == e.Shut(0) and state is not _S.WAITING:
        raise RemoteProtocolError("return path: SHUT 0 too early", "it after the last byte was sent", state.value)


def _names(states: frozenset[_D] | frozenset[_S] | frozenset[_R]) -> str:
    return ", ".join(sorted(state.value for state in states)) or "nothing (a final state)"
