"""A destination's machine for QEMU's dialect that a test drives step by step."""

from __future__ import annotations

from typing import Any

from qemu_pair import BLOCKS, DEVICES, OPENING, RAM, UUID, describe

from multifd import elements as e
from multifd.elements import Phase, SyncDialect
from multifd.errors import MultifdError
from multifd.session import qemu_actions as a
from multifd.session.qemu_destination import DestinationRules, QemuDestinationSession
from multifd.session.qemu_states import QemuDestinationState

D = QemuDestinationState
CONFIGURATION = e.Configuration("pc-q35-10.0")
STARTING = (e.RamBegins(Phase.START, RAM), e.BlockList(BLOCKS))
VFIO = "0000:00:04.0/vfio"


def session(channels: int = 2, **rules: Any) -> QemuDestinationSession:
    """Of so many channels, with these rules."""
    return QemuDestinationSession(DestinationRules(channels, **rules), describe)


def asked(machine: QemuDestinationSession) -> list[a.QemuDestinationAction]:
    """What the machine asks for now."""
    actions = []
    while (action := machine.poll_action()) is not None:
        actions.append(action)
    return actions


def feed(machine: QemuDestinationSession, *elements: e.StreamElement, now: float = 0.0) -> None:
    for element in elements:
        machine.handle_element(element, now)


def attach(machine: QemuDestinationSession, *channels: int, now: float = 0.0) -> None:
    for channel in channels:
        machine.handle_channel(e.Handshake(UUID, channel), now)


def sync(machine: QemuDestinationSession, now: float = 0.0) -> None:
    for channel in range(machine.rules.channels):
        machine.handle_synced(channel, now)


def live(dialect: SyncDialect = SyncDialect.PER_ROUND, **rules: Any) -> QemuDestinationSession:
    """A session between two PARTs, at time 0, with nothing asked for."""
    machine = session(**rules)
    attach(machine, 1, 0)
    feed(machine, CONFIGURATION, *OPENING, *STARTING)
    machine.handle_prepared(0.0)
    if dialect is SyncDialect.PER_ROUND:
        feed(machine, e.SyncMark())
        sync(machine)
        feed(machine, e.RamEnds(Phase.START))
    else:
        feed(machine, e.RamEnds(Phase.START))
        sync(machine)
    assert machine.state is D.LIVE
    assert not machine.main_blocked
    asked(machine)
    return machine


def storing(**rules: Any) -> QemuDestinationSession:
    """A session that has everything and has asked for it to be stored."""
    machine = live(**rules)
    feed(machine, e.RamBegins(Phase.END, RAM), e.RamEnds(Phase.END), *DEVICES, e.EndOfState())
    if machine.rules.description:
        feed(machine, e.Description(b"timer 0 5\ncpu 0 5\ncpu 1 4"))
    assert machine.state is D.STORING
    asked(machine)
    return machine


def failure(machine: QemuDestinationSession) -> MultifdError:
    """The error of a session that has failed after SHUT 1, with nothing more to do."""
    assert machine.state is D.FAILED
    actions = asked(machine)
    assert isinstance(actions[-1], a.Finished)
    assert [each.message for each in actions if isinstance(each, a.Reply)][-1:] == [e.Shut(1)]
    assert actions[-1].error is not None
    assert machine.wake_at is None
    return actions[-1].error
