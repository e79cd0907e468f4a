"""What is tried with stock QEMUs, as data. `make test` runs the rows in `USUAL`, `make interop` all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from multifd.session.qemu_machine_type import parse_version
from multifd.testing.qemu import MANY_DEVICES

Value = tuple[str, str]
"""A factor and one of its values."""

DEFAULT = "default"
"""Of zero pages: nobody is told, and the machine type decides."""

BOARDS = ("pc-q35", "pc-i440fx")
ERAS = ("7.2 to 8.0", "8.1 to 8.2", "9.0 to 9.2", "10.0 to 11.0", "11.1")
"""Machine types whose sources talk alike: mark of sync points, zero pages, SWITCHOVER_START, acknowledgements."""
TYPES = {
    "7.2": ("7.2",),
    "10.0": ("7.2", "8.0", "8.2", "9.2", "10.0"),
    "11.1": ("7.2", "8.0", "8.2", "9.2", "10.0", "11.0", "11.1"),
}
"""Versions of machine types that must be tried with each QEMU; more are welcome."""
ZERO_PAGES = {"7.2": (DEFAULT,), "10.0": (DEFAULT, "multifd", "legacy", "none")}
ZERO_PAGES["11.1"] = ZERO_PAGES["10.0"]
COMPRESSIONS = ("none", "zlib", "zstd")
CHANNELS = ("1", "2", "8")
ADDRESSES = ("tcp", "unix")
SECURITIES = ("plain", "tls")
DEVICES = ("few", "many")
RECEIVERS = ("command", "library")


@dataclass(frozen=True)
class Link:
    """How two ends talk."""

    compression: str = "none"
    channels: int = 2
    address: str = "unix"
    security: str = "plain"

    def __str__(self) -> str:
        return f"{self.compression}-ch{self.channels}-{self.address}-{self.security}"


@dataclass(frozen=True)
class ReceiveRow:
    """A machine that is received from a QEMU."""

    qemu: str
    machine: str
    zero_pages: str
    devices: str
    receiver: str
    """command: `multifd qemu receive`; library: in the process of the tests."""
    link: Link

    def __str__(self) -> str:
        return f"{self.qemu}-{self.machine}-{self.zero_pages}-{self.devices}-{self.receiver}-{self.link}"

    @property
    def values(self) -> tuple[Value, ...]:
        """What the row has of each factor."""
        return (
            ("qemu", self.qemu),
            ("board", board_of(self.machine)),
            ("era", era_of(self.machine)),
            ("zero pages", self.zero_pages),
            ("devices", self.devices),
            ("receiver", self.receiver),
            ("compression", self.link.compression),
            ("channels", str(self.link.channels)),
            ("address", self.link.address),
            ("security", self.link.security),
        )


@dataclass(frozen=True)
class SendRow:
    """A machine that is received from one QEMU and sent to another."""

    source: str
    destination: str
    machine: str
    zero_pages: str
    """As we send them."""
    devices: str
    sender: str
    """command: `multifd qemu send`; library: in the process of the tests; file: that QEMU reads what was saved."""
    link: Link

    def __str__(self) -> str:
        name = f"{self.source}-to-{self.destination}-{self.machine}"
        return f"{name}-{self.zero_pages}-{self.devices}-{self.sender}-{self.link}"


RECEIVE_ROWS = (
    ReceiveRow("7.2", "pc-i440fx-7.2", "default", "many", "library", Link("none", 1, "unix", "tls")),
    ReceiveRow("7.2", "pc-q35-7.2", "default", "few", "command", Link("zlib", 2, "unix", "plain")),
    ReceiveRow("7.2", "pc-q35-7.2", "default", "few", "command", Link("zstd", 2, "tcp", "plain")),
    ReceiveRow("7.2", "pc-q35-7.2", "default", "many", "library", Link("zstd", 8, "unix", "tls")),
    ReceiveRow("10.0", "pc-q35-7.2", "multifd", "many", "library", Link("zlib", 1, "tcp", "plain")),
    ReceiveRow("10.0", "pc-i440fx-8.0", "legacy", "few", "library", Link("zstd", 8, "tcp", "tls")),
    ReceiveRow("10.0", "pc-q35-8.0", "legacy", "few", "library", Link("none", 8, "tcp", "plain")),
    ReceiveRow("10.0", "pc-q35-8.1", "default", "few", "library", Link("zlib", 8, "unix", "plain")),
    ReceiveRow("10.0", "pc-q35-8.1", "legacy", "many", "command", Link("none", 2, "unix", "plain")),
    ReceiveRow("10.0", "pc-q35-8.2", "multifd", "many", "command", Link("zstd", 1, "tcp", "tls")),
    ReceiveRow("10.0", "pc-q35-9.0", "multifd", "few", "library", Link("zstd", 2, "unix", "tls")),
    ReceiveRow("10.0", "pc-i440fx-9.2", "none", "many", "library", Link("none", 2, "unix", "plain")),
    ReceiveRow("10.0", "pc-q35-10.0", "legacy", "many", "command", Link("zlib", 2, "tcp", "tls")),
    ReceiveRow("10.0", "pc-q35-10.0", "none", "few", "command", Link("zlib", 1, "unix", "tls")),
    ReceiveRow("11.1", "pc-q35-7.2", "none", "many", "command", Link("zstd", 1, "tcp", "plain")),
    ReceiveRow("11.1", "pc-q35-8.0", "multifd", "few", "command", Link("none", 2, "unix", "tls")),
    ReceiveRow("11.1", "pc-i440fx-8.2", "none", "few", "library", Link("zlib", 2, "tcp", "tls")),
    ReceiveRow("11.1", "pc-i440fx-9.0", "legacy", "many", "command", Link("zlib", 1, "unix", "plain")),
    ReceiveRow("11.1", "pc-q35-9.2", "default", "many", "command", Link("none", 8, "tcp", "tls")),
    ReceiveRow("11.1", "pc-q35-10.0", "default", "few", "library", Link("none", 1, "tcp", "plain")),
    ReceiveRow("11.1", "pc-i440fx-11.0", "multifd", "few", "command", Link("zstd", 8, "unix", "plain")),
    ReceiveRow("11.1", "pc-i440fx-11.1", "default", "many", "library", Link("zstd", 2, "tcp", "plain")),
    ReceiveRow("11.1", "pc-q35-11.1", "legacy", "few", "library", Link("zstd", 1, "unix", "tls")),
    ReceiveRow("11.1", "pc-q35-11.1", "multifd", "many", "library", Link("zlib", 8, "unix", "plain")),
    ReceiveRow("11.1", "pc-q35-11.1", "none", "few", "command", Link("none", 8, "tcp", "tls")),
)
"""Every pair of values that can be had, in some row: `possible_pairs`."""

SEND_ROWS = (
    SendRow("7.2", "7.2", "pc-q35-7.2", "default", "few", "command", Link("zstd", 2, "unix", "plain")),
    SendRow("7.2", "7.2", "pc-i440fx-7.2", "none", "few", "library", Link("none", 8, "tcp", "tls")),
    SendRow("10.0", "10.0", "pc-q35-10.0", "multifd", "many", "library", Link("zlib", 8, "unix", "tls")),
    SendRow("10.0", "10.0", "pc-q35-8.0", "legacy", "few", "command", Link("none", 2, "tcp", "plain")),
    SendRow("11.1", "11.1", "pc-q35-11.1", "default", "many", "command", Link("zstd", 8, "tcp", "tls")),
    SendRow("11.1", "11.1", "pc-i440fx-11.1", "legacy", "few", "library", Link("zlib", 1, "unix", "plain")),
    SendRow("10.0", "11.1", "pc-q35-10.0", "legacy", "few", "library", Link("zstd", 1, "tcp", "tls")),
    SendRow("10.0", "11.1", "pc-i440fx-9.2", "none", "many", "command", Link("none", 2, "unix", "plain")),
    SendRow("11.1", "10.0", "pc-q35-10.0", "none", "few", "command", Link("none", 1, "unix", "tls")),
    SendRow("11.1", "10.0", "pc-q35-8.2", "default", "many", "library", Link("zlib", 2, "tcp", "plain")),
    SendRow("7.2", "10.0", "pc-q35-7.2", "multifd", "few", "library", Link("none", 8, "unix", "plain")),
    SendRow("7.2", "11.1", "pc-i440fx-7.2", "default", "few", "command", Link("zlib", 2, "tcp", "plain")),
    SendRow("10.0", "7.2", "pc-q35-7.2", "legacy", "few", "library", Link("zlib", 2, "unix", "tls")),
    SendRow("11.1", "7.2", "pc-q35-7.2", "default", "many", "library", Link("zstd", 1, "tcp", "plain")),
    SendRow("7.2", "10.0", "pc-q35-7.2", "default", "few", "file", Link("zstd", 2, "unix", "plain")),
    SendRow("10.0", "10.0", "pc-q35-10.0", "default", "many", "file", Link("none", 2, "unix", "plain")),
    SendRow("10.0", "11.1", "pc-i440fx-10.0", "default", "few", "file", Link("none", 8, "unix", "plain")),
    SendRow("11.1", "11.1", "pc-q35-11.1", "default", "few", "file", Link("zlib", 2, "unix", "plain")),
)
"""To the same version, up and down; each compression and each form of zero pages to each version that takes it."""

USUAL = frozenset(
    {RECEIVE_ROWS[0], RECEIVE_ROWS[13], RECEIVE_ROWS[23], *SEND_ROWS[2:4], *SEND_ROWS[12:14], SEND_ROWS[16]}
)


def devices_of(machine: str, devices: str) -> tuple[str, ...]:
    """For `Machine.devices`. i440fx has no PCI Express, and so no root ports."""
    if devices == "few":
        return ()
    if board_of(machine) == "pc-q35":
        return MANY_DEVICES
    return tuple(each.partition(",bus=port")[0] for each in MANY_DEVICES if not each.startswith("pcie-root-port"))


def board_of(machine: str) -> str:
    """`pc-q35-10.0` → `pc-q35`."""
    return machine.rpartition("-")[0]


def era_of(machine: str) -> str:
    """Of `ERAS`."""
    version = parse_version(machine)
    assert version is not None
    since = (era.partition(" ")[0] for era in reversed(ERAS))
    number = next(number for number, first in enumerate(since) if version >= tuple(map(int, first.split("."))))
    return ERAS[-1 - number]


def possible_pairs() -> Iterator[frozenset[Value]]:
    """Every two values of different factors that a QEMU can have at once, and every QEMU with each type of `TYPES`."""
    for qemu, versions in TYPES.items():
        eras = sorted({era_of(f"pc-q35-{version}") for version in versions})
        factors = {
            "qemu": (qemu,), "board": BOARDS, "era": eras, "zero pages": ZERO_PAGES[qemu], "devices": DEVICES,
            "receiver": RECEIVERS, "compression": COMPRESSIONS, "channels": CHANNELS, "address": ADDRESSES,
            "security": SECURITIES,
        }  # fmt: skip
        for (one, ones), (other, others) in combinations(factors.items(), 2):
            yield from (frozenset({(one, value), (other, second)}) for value in ones for second in others)
        yield from (frozenset({("qemu", qemu), ("type", version)}) for version in versions)


def pairs_of(row: ReceiveRow) -> Iterator[frozenset[Value]]:
    """Those that a row tries."""
    yield from map(frozenset, combinations(row.values, 2))
    yield frozenset({("qemu", row.qemu), ("type", row.machine.rpartition("-")[2])})
