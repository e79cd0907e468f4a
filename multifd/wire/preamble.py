"""The first bytes of every connection (proto/native.md section 1).

Does not know which sessions exist: the engine compares ids and secrets.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from multifd.errors import LocalProtocolError, RemoteProtocolError
from multifd.limits import CHANNELS_MAX

MAGIC = b"MFDP"
VERSION = 1
ID_BYTES = 16  # session ids and secrets

_COMMON = struct.Struct(">4sHBB")  # magic, version, role, reserved
_DATA = struct.Struct(">16s16sII")  # session, secret, channel, reserved
PREAMBLE_BYTES = _COMMON.size
"""What every connection begins with: 8. It tells the role, and with it whether more is to come."""
DATA_PREAMBLE_BYTES = _COMMON.size + _DATA.size
"""The whole preamble of a data channel: 48."""


class Role(enum.IntEnum):
    """What a connection is for."""

    MAIN = 1
    DATA = 2


MAIN_PREAMBLE: bytes = _COMMON.pack(MAGIC, VERSION, Role.MAIN, 0)
"""The whole preamble of a main connection."""


def parse_role(first8: bytes | bytearray | memoryview) -> Role:
    """Check the first `PREAMBLE_BYTES` of a connection and say what it is. Raises `RemoteProtocolError`."""
    if len(first8) != PREAMBLE_BYTES:
        raise RemoteProtocolError("preamble", f"{PREAMBLE_BYTES} bytes", len(first8))
    magic, version, role, reserved = _COMMON.unpack(first8)
    if magic != MAGIC:
        raise RemoteProtocolError("preamble.magic", repr(MAGIC), magic)
    if version != VERSION:
        raise RemoteProtocolError("preamble.version", str(VERSION), version)
    if role not in (Role.MAIN, Role.DATA):
        raise RemoteProtocolError("preamble.role", "1 (main) or 2 (data)", role)
    if reserved:
        raise RemoteProtocolError("preamble.reserved", "zero", reserved)
    return Role(role)


@dataclass(frozen=True, slots=True)
class DataPreamble:
    """The preamble of a data channel: `session` and `secret` of 16 bytes each, `channel` from 1 to `CHANNELS_MAX`.

    Whether the session is known, the secret right and the channel granted and free is for the receiver to ask.
    """

    session: bytes
    secret: bytes
    channel: int

    def serialize(self) -> bytes:
        """`DATA_PREAMBLE_BYTES` bytes. Raises `LocalProtocolError`."""
        for name, value in (("session", self.session), ("secret", self.secret)):
            if len(value) != ID_BYTES:
                raise LocalProtocolError(f"preamble.{name}", f"{ID_BYTES} bytes", len(value))
        if not 1 <= self.channel <= CHANNELS_MAX:
            raise LocalProtocolError("preamble.channel", f"1..{CHANNELS_MAX}", self.channel)
        return _COMMON.pack(MAGIC, VERSION, Role.DATA, 0) + _DATA.pack(self.session, self.secret, self.channel, 0)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> DataPreamble:
        """Read a whole data preamble, its first 8 bytes included. Raises `RemoteProtocolError`."""
        if len(data) != DATA_PREAMBLE_BYTES:
            raise RemoteProtocolError("preamble", f"{DATA_PREAMBLE_BYTES} bytes", len(data))
        role = parse_role(data[:PREAMBLE_BYTES])
        if role is not Role.DATA:
            raise RemoteProtocolError("preamble.role", "2 (data)", int(role))
        session, secret, channel, reserved = _DATA.unpack_from(data, PREAMBLE_BYTES)
        if not 1 <= channel <= CHANNELS_MAX:
            raise RemoteProtocolError("preamble.channel", f"1..{CHANNELS_MAX}", channel)
        if reserved:
            raise RemoteProtocolError("preamble.reserved", "zero", reserved)
        return cls(session, secret, channel)
