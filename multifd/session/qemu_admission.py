"""What a destination does not take although it is well formed, each with a sentence that says what to do instead
(proto/qemu.md section 2). Pure functions.
"""

from __future__ import annotations

from multifd.elements import Configuration, DevicePacket
from multifd.errors import RefusedError

IGNORE_SHARED = "x-ignore-shared"
"""The capability with which main memory is not sent."""

NO_RETURN_PATH = "set capability return-path at the source: without it a destination cannot refuse"

_CAPABILITIES = {
    "mapped-ram": "capability mapped-ram is for files: turn it off at the source to migrate to a socket",
    IGNORE_SHARED: "capability x-ignore-shared is on at the source, so that main memory would not be sent: turn it "
    "off, or allow it here to have the machine without its RAM",
}


def refusal_of(configuration: Configuration, uuid: bytes | None, *, allow_ignore_shared: bool) -> RefusedError | None:
    """Why a machine is not taken; None if it is. `uuid` is what this side expects, if anything."""
    for name in configuration.capabilities or ():
        if name == IGNORE_SHARED and allow_ignore_shared:
            continue
        cause = _CAPABILITIES.get(name, f"capability {name!r:.80} is on at the source and unknown here: turn it off")
        return RefusedError((), cause)
    if uuid is not None and configuration.uuid is not None and configuration.uuid != uuid:
        cause = f"the source's UUID is {configuration.uuid.hex()}, not {uuid.hex()}: is it the right machine?"
        return RefusedError((), cause)
    return None


def device_packet_refusal(channel: int, packet: DevicePacket, offset: int) -> RefusedError:
    """A device's state on a channel: the form in which machines are saved has no place for it."""
    return RefusedError(
        (),
        f"channel {channel} at {offset}: device {packet.name!r:.80} sends its state over channels, for which a saved "
        "machine has no place: set x-migration-multifd-transfer=off for it at the source",
    )
