"""Settings become the commands that each version and side understands, or an error before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multifd.testing.binaries import QemuError
from multifd.testing.settings import MigrationSettings, zero_page_modes

OLD, NEW = (7, 2, 22), (11, 1, 3)


def told(settings: MigrationSettings, version: tuple[int, int, int], *, incoming: bool) -> dict[str, Any]:
    return dict(settings.commands(version, incoming=incoming))


def test_both_sides_are_told_what_must_match() -> None:
    """Channels and compression go to both, bandwidth and the limit of the stop to the source alone."""
    settings = MigrationSettings(channels=3, compression="zstd")
    source, destination = told(settings, OLD, incoming=False), told(settings, OLD, incoming=True)
    match = {"multifd-channels": 3, "multifd-compression": "zstd"}
    assert destination["migrate-set-parameters"] == match
    assert source["migrate-set-parameters"].items() > match.items()
    assert {"max-bandwidth", "downtime-limit"} < set(source["migrate-set-parameters"])
    assert source["migrate-set-capabilities"] == destination["migrate-set-capabilities"]
    names = [item["capability"] for item in source["migrate-set-capabilities"]["capabilities"]]
    assert names == ["multifd", "return-path"]


def test_credentials_come_before_what_names_them() -> None:
    """Each side gets an object of its own role, and then the parameter that refers to it."""
    settings = MigrationSettings(tls_folder=Path("certificates"), tls_hostname="here")
    for incoming, role in ((True, "server"), (False, "client")):
        commands = list(settings.commands(NEW, incoming=incoming))
        assert commands[0][0] == "object-add"
        assert commands[0][1]["endpoint"] == role
        parameters = dict(commands)["migrate-set-parameters"]
        assert parameters["tls-creds"] == commands[0][1]["id"]
        assert ("tls-hostname" in parameters) is not incoming


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (MigrationSettings(switchover_ack=True), "switchover-ack"),
        (MigrationSettings(zero_pages="multifd"), "zero-page-detection"),
        (MigrationSettings(capabilities=("mapped-ram",)), "mapped-ram"),
    ],
)
def test_what_a_version_has_not_is_an_error(settings: MigrationSettings, what: str) -> None:
    """The error names version and setting; a newer version takes it."""
    with pytest.raises(QemuError, match=f"QEMU 7.2 has no {what}"):
        told(settings, OLD, incoming=False)
    assert told(settings, NEW, incoming=False)


def test_zero_page_modes_follow_the_version() -> None:
    """Before 9.0 there is nothing to choose."""
    assert zero_page_modes((8, 2, 0)) == (None,)
    assert zero_page_modes((9, 0, 0)) == ("multifd", "legacy", "none")
