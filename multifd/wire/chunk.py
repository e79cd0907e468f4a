"""The meta of a device chunk (proto/native.md section 3.3).

Knows no device: phases are numbers here, `device.interface` names them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from multifd.errors import LocalProtocolError, ProtocolError, RemoteProtocolError

_META = struct.Struct(">IBBHQQ")  # epoch, phase, flags, reserved, index, reserved
CHUNK_META_BYTES = _META.size
"""24, always."""
_LAST = 1
_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class ChunkMeta:
    """Where a chunk belongs.

    `epoch` counts from 1; `phase` is 1 initial, 2 live or 3 stop-copy; `last` marks the last chunk of this pass of the
    phase; `index` counts from 0 through all phases of the session.
    """

    epoch: int
    phase: int
    last: bool
    index: int

    def pack(self) -> bytes:
        """`CHUNK_META_BYTES` bytes. Raises `LocalProtocolError`."""
        self._check(LocalProtocolError)
        return _META.pack(self.epoch, self.phase, _LAST if self.last else 0, 0, self.index, 0)

    @classmethod
    def parse(cls, meta: bytes | bytearray | memoryview) -> ChunkMeta:
        """Read a meta. Raises `RemoteProtocolError`."""
        if len(meta) != CHUNK_META_BYTES:
            raise RemoteProtocolError("device-chunk", f"a meta of {CHUNK_META_BYTES} bytes", len(meta))
        epoch, phase, flags, reserved, index, reserved_end = _META.unpack(meta)
        if flags & ~_LAST:
            raise RemoteProtocolError("device-chunk.flags", "no flag but LAST", flags)
        if reserved or reserved_end:
            raise RemoteProtocolError("device-chunk.reserved", "zero", reserved or reserved_end)
        chunk = cls(epoch, phase, flags == _LAST, index)
        chunk._check(RemoteProtocolError)
        return chunk

    def _check(self, error: type[ProtocolError]) -> None:
        if not 1 <= self.epoch <= _U32_MAX:
            raise error("device-chunk.epoch", f"1..{_U32_MAX}", self.epoch)
        if not 1 <= self.phase <= 3:
            raise error("device-chunk.phase", "1, 2 or 3", self.phase)
        if not 0 <= self.index <= _U64_MAX:
            raise error("device-chunk.index", f"0..{_U64_MAX}", self.index)
