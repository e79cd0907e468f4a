"""What a machine type's name tells: versions of QEMU, and nothing where it has none."""

from __future__ import annotations

import pytest

from multifd.elements import AckMode, SyncDialect, ZeroPages
from multifd.session.qemu_machine_type import machine_type, parse_version


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("pc-q35-10.0", (10, 0)),
        ("pc-i440fx-7.2", (7, 2)),
        ("virt-9.1", (9, 1)),
        ("s390-ccw-virtio-8.0", (8, 0)),
        ("pc-q35-4.0.1", (4, 0)),
        ("pc-q35-11.10", (11, 10)),
    ],
)
def test_versions_of_qemu_are_read(name: str, version: tuple[int, int]) -> None:
    """Whatever the architecture, a name that ends with a version of QEMU has that version."""
    assert parse_version(name) == version


@pytest.mark.parametrize(
    "name",
    [
        "none", "isapc", "microvm", "", "pc-q35-noble", "pc-q35-noble-v2", "pc-q35-rhel9.4.0", "virt-rhel9.4.0",
        "pc-q35-10", "10.0", "pc-q35-10.0-hpb", "pc-q35-10.0\n", "pc-q35-9999.0",
    ],
)  # fmt: skip
def test_what_is_no_version_of_qemu_is_none(name: str) -> None:
    """Names without a version, and versions of distributions, which count otherwise, tell nothing; that is said."""
    facts = machine_type(name)
    assert facts.version is None
    assert facts.ack is None
    assert (facts.sync, facts.zero_pages) == (SyncDialect.PER_ROUND, ZeroPages.LEGACY)
    assert not facts.switchover_start
    assert "has no version of QEMU" in facts.assumed


@pytest.mark.parametrize(
    ("version", "sync", "ack", "zero_pages", "switchover_start"),
    [
        ("7.2", SyncDialect.PER_SECTION, AckMode.LEGACY, ZeroPages.LEGACY, False),
        ("8.0", SyncDialect.PER_SECTION, AckMode.LEGACY, ZeroPages.LEGACY, False),
        ("8.1", SyncDialect.PER_ROUND, AckMode.LEGACY, ZeroPages.LEGACY, False),
        ("8.2", SyncDialect.PER_ROUND, AckMode.LEGACY, ZeroPages.LEGACY, False),
        ("9.0", SyncDialect.PER_ROUND, AckMode.LEGACY, ZeroPages.MULTIFD, False),
        ("9.2", SyncDialect.PER_ROUND, AckMode.LEGACY, ZeroPages.MULTIFD, False),
        ("10.0", SyncDialect.PER_ROUND, AckMode.LEGACY, ZeroPages.MULTIFD, True),
        ("11.0", SyncDialect.PER_ROUND, AckMode.LEGACY, ZeroPages.MULTIFD, True),
        ("11.1", SyncDialect.PER_ROUND, AckMode.COUNTED, ZeroPages.MULTIFD, True),
        ("12.0", SyncDialect.PER_ROUND, AckMode.COUNTED, ZeroPages.MULTIFD, True),
    ],
)
def test_each_feature_begins_with_its_version(
    version: str, sync: SyncDialect, ack: AckMode, zero_pages: ZeroPages, switchover_start: bool
) -> None:
    """The versions on both sides of each border have what the border says, and assume nothing."""
    facts = machine_type(f"pc-q35-{version}")
    assert (facts.sync, facts.ack, facts.zero_pages) == (sync, ack, zero_pages)
    assert facts.switchover_start is switchover_start
    assert facts.assumed == ""
