"""A relay's machine, driven by hand."""

from __future__ import annotations

from multifd import elements as e
from multifd.elements import CommandNumber, Phase
from multifd.errors import MultifdError, TransportError
from multifd.session import qemu_relay as r
from multifd.session.qemu_relay import QemuRelaySession

RAM = e.SectionHeader(2, "ram", 0, 4)
LOST = TransportError("lost")


def handshake(channel: int, uuid: bytes = bytes(16)) -> e.Handshake:
    return e.Handshake(uuid, channel)


def globalstate(state: bytes) -> e.Section:
    body = (100).to_bytes(4, "big") + state.ljust(100, b"\0")
    return e.Section(Phase.FULL, e.SectionHeader(40, "globalstate", 0, 1), body)


class Driven:
    """A relay of two channels and what it asked for."""

    def __init__(self, *, continues: bool = False, asks: bool = False, return_path: bool = True) -> None:
        self.session = QemuRelaySession(2, continues=continues, asks=asks)
        self.asked: list[r.RelayAction] = []
        self.return_path = return_path

    def take(self) -> list[r.RelayAction]:
        """What it asks for now."""
        now: list[r.RelayAction] = []
        while (action := self.session.poll_action()) is not None:
            now.append(action)
        self.asked += now
        return now

    @property
    def error(self) -> MultifdError | None:
        self.take()
        last = self.asked[-1]
        assert isinstance(last, r.Finished), last
        return last.error

    @property
    def replies(self) -> list[e.ReturnMessage]:
        self.take()
        return [action.message for action in self.asked if isinstance(action, r.Reply)]

    def feed(self, *elements: e.StreamElement) -> None:
        for element in elements:
            self.session.handle_element(element, 0.0)

    # -- steps

    def gathered(self) -> Driven:
        self.session.handle_channel(handshake(1), 0.0)
        self.session.handle_main(0.0)
        self.session.handle_channel(handshake(0), 0.0)
        return self

    def connected(self) -> Driven:
        self.gathered().session.handle_far_connected(0.0)
        return self

    def live(self) -> Driven:
        self.connected().feed(e.Configuration("pc-q35-10.0"))
        if self.return_path:
            self.feed(e.Command(CommandNumber.OPEN_RETURN_PATH))
        self.feed(
            e.RamBegins(Phase.START, RAM), e.BlockList((e.RamBlock("m", 4096),)), e.SyncMark(), e.RamEnds(Phase.START)
        )
        return self

    def stopped(self) -> Driven:
        self.live().feed(e.RamBegins(Phase.END, RAM), e.SyncMark(), e.RamEnds(Phase.END))
        return self

    def released(self) -> Driven:
        self.stopped().feed(globalstate(b"running"), e.EndOfState(), e.Description(b"{}"))
        self.session.handle_main_whole(0.0)
        for channel in range(2):
            self.session.handle_syncs_passed(channel, 2, 0.0)
        return self

    def committed(self) -> Driven:
        self.released().session.handle_return(e.Shut(0), 0.0)
        return self

    def continuing(self) -> Driven:
        self.committed().session.handle_near_ended(None, 0.0)
        return self
