"""One message of every type, and machines in every state that they can be in."""

from __future__ import annotations

from collections.abc import Callable

from machine_pair import BLOCK, EXPLICIT, SECRET, SESSION, Pair, device

from multifd import messages as m
from multifd.errors import Code
from multifd.session import actions as a
from multifd.session.states import DestinationState, SourceState

REFUSAL = m.Refusal(m.What.BLOCK, "memory", Code.STORAGE, "no space")

SAMPLES: dict[type, m.Message] = {
    type(message): message
    for message in (
        m.Hello((1, 1), SESSION, SECRET, EXPLICIT, 2, "sample"),
        m.Inventory(1, 1, (BLOCK,), (), (m.KindInfo("ram"),), False),
        m.Verdict(True, 2, (), (m.DeviceVerdict(True, 1 << 20),)),
        m.Attached(2),
        m.Sync("ram", 1, (3, 3)),
        m.SyncDone("ram", 1),
        m.Settled((1, 1)),
        m.Resend(1, 1),
        m.Credit(1, 1 << 21),
        m.DeviceStatus(1, 1, True, 100, 0.1, 0.2, "ready"),
        m.SwitchoverReady({1: 1}),
        m.StopCopy({1: 1}),
        m.End((3, 3), {1: 2}, 0),
        m.Loaded({"prepare": 0.1}),
        m.Commit(),
        m.Started({"start": 0.1}),
        m.Aborted(Code.DEVICE, "a device could not load"),
        m.Cancel(Code.CANCELLED, "enough"),
        m.AskOutcome(SESSION, SECRET),
        m.OutcomeIs(m.Fate.STARTED, ""),
        m.DeviceMessage(1, b"said"),
        m.DeviceHeard(1, 1),
    )
}
"""By type. With one device that takes part they fit a session as far as a message that comes out of turn can."""

_S, _D = SourceState, DestinationState

_SOURCE_HELD: dict[SourceState, set[type]] = {
    _S.ATTACH: {a.OpenChannels},
    _S.SWITCHING: {a.StopOwner},
    _S.STOP_COPY: {a.SaveStopCopy},
    _S.LOADING: {a.Prepare},
    _S.RELEASING: {a.Release},
    _S.COMMITTED: {a.StartOwner},
    _S.ASKING: {a.StartOwner, a.AskForOutcome},
}
"""State → what must not be done, so that it is not left."""

_DESTINATION_HELD: dict[DestinationState, set[type]] = {
    _D.INVENTORY: {a.Decide},
    _D.ATTACH: {a.OpenChannels},
    _D.PRECOPY: {a.Survey},
    _D.STOP_COPY: {a.SaveStopCopy},
    _D.LOADING: {a.Prepare},
    _D.STARTING: {a.StartOwner},
}


def _is_committed(pair: Pair) -> bool:
    return pair.source.state is _S.COMMITTED


def _in_doubt(pair: Pair) -> None:
    pair.held = {a.StartOwner}
    pair.reachable = False
    pair.run(_is_committed).cut()


def _asking(pair: Pair) -> None:
    pair.run(_is_committed).cut()


def _refuse(pair: Pair) -> None:
    pair.refusals = (REFUSAL,)


def _cancel(pair: Pair) -> None:
    pair.run(lambda p: p.source.state is _S.PRECOPY)
    assert pair.source.cancel("enough", pair.now)


def _nothing(_pair: Pair) -> None:
    pass


_SOURCE_BEFORE: dict[SourceState, Callable[[Pair], None]] = {
    _S.ASKING: _asking, _S.IN_DOUBT: _in_doubt, _S.REFUSED: _refuse, _S.FAILED: Pair.cut, _S.CANCELLED: _cancel,
}  # fmt: skip
_DESTINATION_BEFORE: dict[DestinationState, Callable[[Pair], None]] = {_D.REFUSED: _refuse, _D.ABORTED: _cancel}


def source_in(state: SourceState) -> Pair:
    """A session with one device that takes part, whose source has just come to `state`."""
    pair = Pair.of(devices=[device("nic")], preflight=state is _S.PREFLIGHTED, releases=state is _S.RELEASING)
    pair.held = set(_SOURCE_HELD.get(state, ()))
    _SOURCE_BEFORE.get(state, _nothing)(pair)
    return pair.run(lambda p: p.source.state is state)


def destination_in(state: DestinationState) -> Pair:
    """A session with one device that takes part, whose destination has just come to `state`."""
    pair = Pair.of(devices=[device("nic")], preflight=state is _D.PREFLIGHTED)
    pair.held = set(_DESTINATION_HELD.get(state, ()))
    if state is _D.LOADED:
        pair.lost = {m.Commit}
    _DESTINATION_BEFORE.get(state, _nothing)(pair)
    return pair.run(lambda p: p.destination.state is state)
