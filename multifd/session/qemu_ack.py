"""What a destination owes of SWITCHOVER_ACK, and when it gives it (proto/qemu.md section 10). One too many hangs a new
source, one too few any: so what is owed is counted, and nothing is given that is not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from multifd import limits
from multifd.elements import AckMode, Phase, Section
from multifd.errors import LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.session.qemu_machine_type import MachineType

DEVICE_SUFFIX = "/vfio"
"""How names of sections end whose devices ask for acks."""
INIT_DATA_SENT = bytes.fromhex("ffffffffef100005")
"""The last eight bytes of a PART with which a device asks for an ack."""

CHOICES = ("off", "on", "legacy", "counted")
"""What a user can say; `on` is what the machine type asks for."""


@dataclass(frozen=True, slots=True)
class AckEvent:
    """An entry of the log: an ack was owed, or given, at this time."""

    kind: Literal["owed", "given"]
    at: float
    why: str


def choose_ack_mode(choice: str, machine: MachineType) -> AckMode:
    """The mode that a user's choice means for a source with this machine type.

    Raises `RefusedError` for `on` if the name doesn't tell, `LocalProtocolError` for what is no choice.
    """
    if choice not in CHOICES:
        raise LocalProtocolError("switchover-ack", f"one of {', '.join(CHOICES)}", choice)
    if choice != "on":
        return AckMode(choice)
    if machine.ack is None:
        raise RefusedError(
            (),
            f"machine type {machine.name!r:.80} has no version of QEMU, so nothing tells which acks its source waits "
            "for: in place of on say legacy for a QEMU up to 11.0, counted for 11.1 and newer",
        )
    return machine.ack


class AckKeeper:
    """Counts what is owed and says when it is due, `hold_s` after it is owed."""

    def __init__(self, mode: AckMode, hold_s: float) -> None:
        self.mode = mode
        self.log: list[AckEvent] = []
        self.owed = 0
        """In all, whether given or not."""
        self.given = 0
        self._hold_s = hold_s
        self._due: deque[tuple[float, str]] = deque()

    @property
    def wake_at(self) -> float | None:
        """When the next ack is due."""
        return self._due[0][0] if self._due else None

    def handle_return_path(self, now: float) -> None:
        """The return path is open, perhaps once more: the one ack of the legacy mode is owed from the first time on."""
        if self.mode is AckMode.LEGACY and not self.owed:
            self._owe("the return path was opened", now)

    def handle_section(self, section: Section, offset: int, now: float) -> None:
        """A section that ends at `offset` of main is loaded. Raises `RemoteProtocolError` beyond all measure."""
        if (
            self.mode is AckMode.COUNTED
            and section.phase is Phase.PART
            and section.header.name.endswith(DEVICE_SUFFIX)
            and section.body[-8:] == INIT_DATA_SENT
        ):
            if self.owed >= limits.QEMU_ACKS_MAX:
                raise RemoteProtocolError(
                    f"main at {offset}: {section.header.name}", f"at most {limits.QEMU_ACKS_MAX} requests for an ack"
                )
            self._owe(f"{section.header.name} {section.header.instance} has sent its initial data", now)

    def poll_ack(self, now: float) -> bool:
        """Whether one ack is to be given now; call it until it isn't."""
        if not self._due or now < self._due[0][0]:
            return False
        _, why = self._due.popleft()
        self.given += 1
        self.log.append(AckEvent("given", now, why))
        return True

    def _owe(self, why: str, now: float) -> None:
        self.owed += 1
        self.log.append(AckEvent("owed", now, why))
        self._due.append((now + self._hold_s, why))
