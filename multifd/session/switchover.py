"""Explicit switchover: who is ready for which epoch (proto/states.md section 4). One small machine for each end.

Knows devices by their number in INVENTORY only; nothing of messages on the wire, chunks, convergence or time.
Called by `session.source` (gate) and `session.destination` (tracker).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multifd.errors import LocalProtocolError, RemoteProtocolError

EPOCH_FIRST = 1


class ReadyGate:
    """The source's half: open when nobody takes part, or when a READY for all newest epochs was accepted.

    `epochs` has every device's newest epoch; only those that take part hold the gate.
    """

    def __init__(self, devices: Iterable[int], participants: Iterable[int]) -> None:
        self.epochs: dict[int, int] = dict.fromkeys(devices, EPOCH_FIRST)
        self._participants = tuple(sorted(set(participants)))
        for device in self._participants:
            if device not in self.epochs:
                raise LocalProtocolError("the devices that take part", "numbers of known devices", device)
        self._open = not self._participants

    @property
    def open(self) -> bool:
        """Whether READY is no obstacle to switching over."""
        return self._open

    def rearm(self, device: int) -> int:
        """The device has new initial data: raise its epoch by one and return it.

        Closes the gate if the device takes part.
        """
        if device not in self.epochs:
            raise LocalProtocolError("re-arm", "the number of a known device", device)
        self.epochs[device] += 1
        if device in self._participants:
            self._open = False
        return self.epochs[device]

    def handle_ready(self, epochs: Mapping[int, int]) -> bool:
        """SWITCHOVER_READY arrived. True if it opened the gate; False if it has no effect (late, or a second time).

        Raises `RemoteProtocolError` for a device that does not take part, is unknown or is missing, and for an epoch
        from the future.
        """
        for device, epoch in epochs.items():
            if device not in self._participants:
                raise RemoteProtocolError("SWITCHOVER_READY.epochs", "devices that take part", device)
            if not EPOCH_FIRST <= epoch <= self.epochs[device]:
                expected = f"an epoch from 1 to {self.epochs[device]} for device {device}"
                raise RemoteProtocolError("SWITCHOVER_READY.epochs", expected, epoch)
        for device in self._participants:
            if device not in epochs:
                raise RemoteProtocolError("SWITCHOVER_READY.epochs", f"an epoch for device {device}, which takes part")
        if self._open or any(epochs[device] != self.epochs[device] for device in self._participants):
            return False
        self._open = True
        return True

    def waiting_for(self) -> tuple[int, ...]:
        """The devices whose READY is waited for: all that take part (one message speaks for all), none when open."""
        return () if self._open else self._participants

    def current(self) -> dict[int, int]:
        """The newest epochs of the devices that take part, as STOP_COPY carries them."""
        return {device: self.epochs[device] for device in self._participants}


class ReadyTracker:
    """The destination's half: says when SWITCHOVER_READY is to be sent, once for each set of epochs.

    Devices that do not take part are none of its business: calls about them have no effect.
    """

    def __init__(self, participants: Iterable[int]) -> None:
        self._epochs: dict[int, int] = dict.fromkeys(participants, EPOCH_FIRST)
        self._waiting = set(self._epochs)  # not ready for their newest epoch
        self._announced = not self._epochs

    def handle_epoch(self, device: int, epoch: int) -> None:
        """A chunk under `epoch` is next in the device's index order (in order of arrival epochs would interleave).

        A newer epoch takes readiness back. Raises `RemoteProtocolError` if the epoch goes back, or up by more than one.
        """
        newest = self._epochs.get(device)
        if newest is None or epoch == newest:
            return
        if epoch != newest + 1:
            expected = f"{newest} or {newest + 1} for device {device}"
            raise RemoteProtocolError("the epoch of a device chunk", expected, epoch)
        self._epochs[device] = epoch
        self._waiting.add(device)
        self._announced = False

    def handle_device_ready(self, device: int, epoch: int) -> None:
        """The device has loaded and set up its initial phase under `epoch`. No effect unless that is its newest."""
        if self._epochs.get(device) == epoch:
            self._waiting.discard(device)

    def poll_ready(self) -> dict[int, int] | None:
        """The epochs for a SWITCHOVER_READY that is due now, and counts as sent from here on; None if none is due."""
        if self._announced or self._waiting:
            return None
        self._announced = True
        return dict(self._epochs)
