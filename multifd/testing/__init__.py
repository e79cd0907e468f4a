"""A peer for tests of migration: stock QEMUs with a tiny guest, and our own ends with faults, driven from Python
(docs/guides/testing-qemu.md). The fixtures are in `multifd.testing.pytest_plugin`.
"""

from multifd.testing.binaries import QemuBinary, QemuError, find_binaries
from multifd.testing.certificates import make_tls_dir
from multifd.testing.faults import FaultLine, Faults, Treatment
from multifd.testing.guest import Guest, counts
from multifd.testing.peers import DestinationPeer, SourcePeer
from multifd.testing.qemu import MANY_DEVICES, PCI_DEVICES, Machine, Qemu, differing_pages
from multifd.testing.settings import MigrationSettings, has, zero_page_modes

__all__ = [
    "MANY_DEVICES",
    "PCI_DEVICES",
    "DestinationPeer",
    "FaultLine",
    "Faults",
    "Guest",
    "Machine",
    "MigrationSettings",
    "Qemu",
    "QemuBinary",
    "QemuError",
    "SourcePeer",
    "Treatment",
    "counts",
    "differing_pages",
    "find_binaries",
    "has",
    "make_tls_dir",
    "zero_page_modes",
]
