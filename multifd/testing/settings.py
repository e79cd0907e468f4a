"""What two QEMUs are told before a migration, as data: capabilities and parameters, and the first version of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multifd.testing.binaries import QemuError

CAPABILITY_SINCE: dict[str, tuple[int, int]] = {
    "postcopy-ram": (2, 6),
    "return-path": (2, 10),
    "pause-before-switchover": (2, 11),
    "multifd": (4, 0),
    "x-ignore-shared": (4, 0),
    "validate-uuid": (4, 2),
    "zero-copy-send": (7, 1),
    "switchover-ack": (8, 1),
    "mapped-ram": (9, 0),
}
"""Capabilities of a migration and the first version that has them."""

PARAMETER_SINCE: dict[str, tuple[int, int]] = {
    "max-bandwidth": (2, 4),
    "downtime-limit": (2, 4),
    "tls-creds": (2, 7),
    "tls-hostname": (2, 7),
    "multifd-channels": (4, 0),
    "multifd-compression": (5, 0),
    "zero-page-detection": (9, 0),
}
"""Parameters of a migration and the first version that has them."""

UNLIMITED_BYTES_PER_S = 1 << 40
"""For `max-bandwidth`, whose default of 128 MiB/s would be what a test measures."""


def zero_page_modes(version: tuple[int, int, int]) -> tuple[str | None, ...]:
    """What `zero-page-detection` can be set to; before 9.0 it can't be set, and is `legacy`."""
    return ("multifd", "legacy", "none") if has("zero-page-detection", version) else (None,)


def has(name: str, version: tuple[int, int, int]) -> bool:
    """Whether a QEMU of this version knows a capability or parameter of this module."""
    return (CAPABILITY_SINCE | PARAMETER_SINCE)[name] <= version[:2]


@dataclass(frozen=True)
class MigrationSettings:
    """For both sides alike; what concerns one side is set there alone."""

    channels: int = 2
    compression: str = "none"
    return_path: bool = True
    switchover_ack: bool = False
    zero_pages: str | None = None
    """`multifd`, `legacy` or `none` (source). None: what the machine type says."""
    capabilities: tuple[str, ...] = ()
    """More of them."""
    bandwidth: int = UNLIMITED_BYTES_PER_S
    """Bytes a second (source)."""
    downtime_ms: int = 300
    """(source)"""
    tls_folder: Path | None = None
    """Certificates under QEMU's names (`multifd.testing.certificates`)."""
    tls_hostname: str | None = None
    """Whom the destination's certificate must name (source); needed with unix sockets."""

    def commands(self, version: tuple[int, int, int], *, incoming: bool) -> Iterator[tuple[str, dict[str, object]]]:
        """QMP commands with their arguments. Raise `QemuError` for what this version does not know."""
        capabilities = ["multifd", *(["return-path"] if self.return_path else []), *self.capabilities]
        capabilities += ["switchover-ack"] if self.switchover_ack else []
        parameters: dict[str, object] = {
            "multifd-channels": self.channels,
            "multifd-compression": self.compression,
        }
        if not incoming:
            parameters |= {"max-bandwidth": self.bandwidth, "downtime-limit": self.downtime_ms}
            parameters |= {} if self.zero_pages is None else {"zero-page-detection": self.zero_pages}
            parameters |= {} if self.tls_hostname is None else {"tls-hostname": self.tls_hostname}
        if self.tls_folder is not None:
            parameters["tls-creds"] = "tls"
            yield "object-add", {
                "qom-type": "tls-creds-x509", "id": "tls", "dir": str(self.tls_folder),
                "endpoint": "server" if incoming else "client", "verify-peer": True,
            }  # fmt: skip
        unknown = [name for name in (*capabilities, *parameters) if not has(name, version)]
        if unknown:
            raise QemuError(f"QEMU {version[0]}.{version[1]} has no {', '.join(unknown)}")
        states = [{"capability": name, "state": True} for name in capabilities]
        yield "migrate-set-capabilities", {"capabilities": states}
        yield "migrate-set-parameters", parameters
