"""Messages from devices at the destination to those at the source, as both machines count them (proto/control.md
section 4). Knows neither what they say nor how they travel.
"""

from __future__ import annotations

from collections.abc import Container

from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.limits import DEVICE_MESSAGES_MAX
from multifd.messages import DEVICE_MESSAGES


class MessageCounts:
    """What the devices of one session have said, and what of it was heard. At most `DEVICE_MESSAGES_MAX` of a device
    are under way.
    """

    def __init__(self, features: Container[str], devices: int) -> None:
        """`features` are those in use. Devices count from 1."""
        self._in_use = DEVICE_MESSAGES in features
        self._said = [0] * devices
        self._heard = [0] * devices

    # -- destination

    def say(self, device: int) -> None:
        """A device says something. Raises `LocalProtocolError`."""
        if not self._in_use or self._unheard(device) >= DEVICE_MESSAGES_MAX:
            raise LocalProtocolError("DEVICE_MESSAGE", f"the feature, and less than {DEVICE_MESSAGES_MAX} unheard")
        self._said[device - 1] += 1

    def handle_heard(self, device: int, count: int) -> None:
        """The source says that so many were heard in all. Raises `RemoteProtocolError`."""
        self._check("DEVICE_HEARD", device)
        low, high = self._heard[device - 1] + 1, self._said[device - 1]
        if not low <= count <= high:
            raise RemoteProtocolError("DEVICE_HEARD.count", f"{low}..{high}, of what was said", count)
        self._heard[device - 1] = count

    # -- source

    def take(self, device: int) -> None:
        """A message has come. Raises `RemoteProtocolError`."""
        self._check("DEVICE_MESSAGE", device)
        if self._unheard(device) >= DEVICE_MESSAGES_MAX:
            raise RemoteProtocolError("DEVICE_MESSAGE", f"at most {DEVICE_MESSAGES_MAX} of a device unheard")
        self._said[device - 1] += 1

    def hear(self, device: int) -> int:
        """One more was dealt with; how many in all."""
        self._heard[device - 1] += 1
        return self._heard[device - 1]

    # -- inside

    def _unheard(self, device: int) -> int:
        return self._said[device - 1] - self._heard[device - 1]

    def _check(self, name: str, device: int) -> None:
        if not self._in_use:
            raise RemoteProtocolError(name, f"none without the feature {DEVICE_MESSAGES}")
        if not 1 <= device <= len(self._said):
            raise RemoteProtocolError(f"{name}.device", f"1..{len(self._said)}", device)
