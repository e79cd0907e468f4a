"""A destination's machine that a test drives step by step."""

from __future__ import annotations

from machine_pair import BLOCK, CREDIT, EXPLICIT, SESSION, destination_plan, device

from multifd import messages as m
from multifd.session import actions as a
from multifd.session.destination import DestinationSession
from multifd.session.states import DestinationState

D = DestinationState
IN_ORDER = [D.HELLO, D.INVENTORY, D.ATTACH, D.PRECOPY, D.STOP_COPY, D.LOADING, D.LOADED, D.STARTING, D.STARTED]
CAN_ABORT = IN_ORDER[:7]
HELLO = m.Hello((1, 1), SESSION, bytes(16), EXPLICIT, 2, "test")


def asked(session: DestinationSession) -> list[a.DestinationAction]:
    """What the machine asks for now."""
    actions = []
    while (action := session.poll_action()) is not None:
        actions.append(action)
    return actions


def said(session: DestinationSession) -> list[m.Message]:
    """The messages among it."""
    return [action.message for action in asked(session) if isinstance(action, a.Send)]


def receiving(*, devices: int = 0, takes_part: bool = True) -> DestinationSession:
    """A session of two channels in precopy, at time 0."""
    session = DestinationSession(destination_plan())
    session.handle_message(HELLO, 0.0)
    infos = tuple(device(f"d{number}") for number in range(devices))
    session.handle_message(m.Inventory(1, 1, (BLOCK,), infos, (), False), 0.0)
    session.handle_decision((), [m.DeviceVerdict(takes_part, CREDIT)] * devices, 0.0)
    session.handle_attached(2, 0.0)
    session.handle_attached(1, 0.0)
    assert session.state is D.PRECOPY
    asked(session)
    return session


def ending(end: m.End, *, settled: tuple[int, int] = (0, 0), devices: int = 0) -> DestinationSession:
    """The same after STOP_COPY and END."""
    session = receiving(devices=devices, takes_part=False)
    session.handle_settled(settled, 0.0)
    session.handle_message(m.StopCopy({}), 0.0)
    session.handle_message(end, 0.0)
    return session


def report(
    session: DestinationSession, number: int, *, epoch: int = 1, ready: bool = True, chunks: int = 1,
    complete: bool = False, now: float = 0.0,
) -> None:  # fmt: skip
    """A device's worker got on."""
    status = m.DeviceStatus(number, epoch, ready, 100, 0.1, 0.2, "")
    session.handle_device_status(status, chunks=chunks, complete=complete, credit=CREDIT, now=now)
