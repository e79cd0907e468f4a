"""`NearRelay`: the first of two relays back to back, beside the source's QEMU. To the source it is what `QemuRelay` is;
its far end is reached through another relay, in the native dialect (proto/qemu.md section 16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from multifd import elements as e
from multifd.elements import Compression, Handshake
from multifd.engine.progress import ProgressFeed
from multifd.engine.transport import Address
from multifd.errors import MultifdError, PeerError, TransportError
from multifd.qemu.hop_carrier import Carrier
from multifd.qemu.hop_options import NearOptions
from multifd.qemu.hop_report import NearReport
from multifd.qemu.listener import QemuListener
from multifd.qemu.relay import QemuRelay
from multifd.qemu.relay_far_end import FarChannel, FarMain
from multifd.qemu.relay_report import RelayReport
from multifd.qemu.relay_run import Hooks, Monitors, QemuRelayRun
from multifd.session import qemu_relay as r
from multifd.session.qemu_states import RelayState
from multifd.wire.qemu_hop import FarWord, Gone, Released, Returned, Whole
from multifd.wire.qemu_packet import serialize_handshake
from multifd.wire.qemu_return import ReturnReader


class NearRelayRun(QemuRelayRun):
    """One migration. What goes to a QEMU in a relay that stands alone goes to the carrier here."""

    def __init__(
        self, to: Address, options: NearOptions, monitors: Monitors, hooks: Hooks, progress: ProgressFeed
    ) -> None:
        super().__init__(to, options, monitors, hooks, progress)
        self.carrier = Carrier(str(to), options, self)
        self._returned = ReturnReader()
        self._ends_alone = True
        """The channels' last SYNCs are the last that they carry: no device sends its state over them."""
        self._far_has_end = False
        """The far relay has said that its QEMU is given the end of the stream."""

    async def _release(self) -> None:
        if self.session.state is not RelayState.COMPLETED:
            self.carrier.abort(f"the near relay: {self.error or 'it has ended'}")
        await super()._release()
        await self.carrier.close()

    @property
    def far_compression(self) -> Compression:
        """What the far end gets."""
        return self._options.far_compression

    # -- the far end

    async def _open_far(self) -> FarMain:
        facts = await self.carrier.open()
        self.out_security = self.carrier.security
        self.session.continues = facts.continues
        if facts.compression is not None:
            self._options = replace(self._options, out_compression=facts.compression)
        return self.carrier

    async def _open_far_channel(self, number: int, handshake: Handshake) -> FarChannel:
        channel = self.carrier.channels[number]
        channel.send((serialize_handshake(handshake),))
        return channel

    def _release_main(self, action: r.Release) -> None:
        self._hooks.before(action)
        self.released_at = self.now
        try:
            self.carrier.write_end(self.gate.last())
        except TransportError:
            return  # `handle_carrier_lost` tells
        if self._ends_alone:
            self.carrier.finish()

    async def _continued(self) -> None:
        self.carrier.give_up()
        await self.carrier.committed()
        self.continued_at = self.now
        self.session.handle_continued(self.now)
        self._act()

    def _finished(self, action: r.Finished) -> None:
        if self.session.state is RelayState.COMPLETED:
            self.carrier.give_up()
        super()._finished(action)

    def _movement(self) -> object:
        return super()._movement(), self.carrier.movement

    def _note(self, element: e.StreamElement) -> None:
        super()._note(element)
        if isinstance(element, e.Section) and element.phase is e.Phase.START:
            self._ends_alone = False

    # -- for the carrier

    @property
    def guest_runs(self) -> bool:
        """See `Near`."""
        return self.session.run_state == "running"

    def handle_word(self, word: FarWord) -> None:
        """See `Near`."""
        match word:
            case Returned():
                for message in self._returned.feed(word.data):
                    self.session.handle_return(message, self.now)
            case Released():
                self._far_has_end = True
            case Whole() if self.session.state is RelayState.RELEASED:
                self.carrier.finish()
            case Gone():
                self.session.handle_far_ended(TransportError(word.cause), self.now)
            case _:
                pass
        self._act()

    def handle_loaded(self) -> None:
        """See `Near`."""
        self.session.handle_return(e.Shut(0), self.now)
        self._act()

    def handle_carrier_lost(self, error: MultifdError) -> None:
        """See `Near`."""
        told = TransportError(f"the far relay: {error}")
        it_says_so = isinstance(error.__cause__, PeerError)
        if self.session.state is not RelayState.RELEASED:
            if not self.shut_at:  # after that `_continued` tells
                self.session.handle_failure(told, self.now)
        elif it_says_so and not self._far_has_end:
            self.session.handle_far_unreached(told, self.now)
        else:
            self.session.handle_far_ended(told, self.now, gone=False)
        self._act()

    _DO: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        **QemuRelayRun._DO,
        r.Release: _release_main,
        r.Finished: _finished,
    }


class NearRelay(QemuRelay):
    """Passes one migration on to a far relay. Whatever fails before the far end has the end of the stream leaves the
    guest running at the source. One object is good for one `run`.
    """

    def __init__(self, listener: QemuListener | str, to: str, options: NearOptions | None = None) -> None:
        """As for `QemuRelay`; `to` is where the far relay listens."""
        self._near_options = options or NearOptions()
        super().__init__(listener, to, self._near_options)

    def _make_run(self, monitors: Monitors) -> QemuRelayRun:
        return NearRelayRun(self._to, self._near_options, monitors, self, self._progress)

    def _report(self, run: QemuRelayRun) -> RelayReport:
        assert isinstance(run, NearRelayRun)
        report = NearReport.of(super()._report(run), run.carrier.report)
        report.out_compression = run.far_compression.name.lower()
        return report
