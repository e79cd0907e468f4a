"""What a relay's far end is to the rest of the relay: a `Connection` and `DataSocket`s to a QEMU, or what goes through
another relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from multifd.slot import Buffer


class FarMain(Protocol):
    """Main, as far as it is written."""

    @property
    def backlog(self) -> int:
        """*loop*: bytes that were written and have not left."""

    def write(self, data: Buffer) -> None:
        """*loop*: send it, in order, without waiting. Raises `TransportError`."""

    async def drain(self, left: int = 0) -> None:
        """*loop*: wait until at most `left` bytes have not left. Raises `TransportError`."""

    def abort(self) -> None:
        """*loop*: end it at once."""

    async def close(self) -> None:
        """*loop*: end it in good order."""


class FarChannel(Protocol):
    """A channel, as far as it is written. Its handshake is done."""

    @property
    def congestion_control(self) -> str:
        """*any*: what is in use; empty if there is none."""

    def send(self, buffers: Sequence[Buffer]) -> None:
        """*worker*: send all of it. Raises `OSError`."""

    def shut(self) -> None:
        """*any*: end it, and wake the worker."""

    def close(self) -> None:
        """*loop*: after the worker has ended."""
