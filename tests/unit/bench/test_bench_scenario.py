"""Scenarios: their names are made of their values."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from bench_results import SCENARIO

from bench.scenario import Scenario, exact_size
from multifd.limits import GIB, KIB, MIB

OTHERS: dict[str, Any] = {
    "work": "guest-ram", "size": GIB + 1, "piece_bytes": MIB, "congestion": "reno", "channels": 2,
    "compression": "zstd", "link": "1gbit", "security": "tls", "cold": True,
}  # fmt: skip


def test_a_name_has_every_value() -> None:
    """Work, sizes, channels, compression, congestion control and link, in this order; then TLS and cold, if so."""
    assert SCENARIO.name == "memory-1GiB-1ch-512KiB-none-cubic-loopback"
    assert SCENARIO.family.name == "memory-1GiB-512KiB-none-cubic-loopback"
    unusual = dataclasses.replace(SCENARIO, security="tls", cold=True)
    assert unusual.name == f"{SCENARIO.name}-tls-cold"


def test_scenarios_that_differ_have_names_that_differ() -> None:
    """Whichever value it is: no two scenarios have one name."""
    assert set(OTHERS) == {field.name for field in dataclasses.fields(Scenario)}
    names = {dataclasses.replace(SCENARIO, **{name: value}).name for name, value in OTHERS.items()}
    assert len(names | {SCENARIO.name}) == len(OTHERS) + 1


@pytest.mark.parametrize(
    ("size", "words"), [(4 * GIB, "4GiB"), (1536 * MIB, "1536MiB"), (512 * KIB, "512KiB"), (GIB + 17, "1073741841B")]
)
def test_sizes_are_exact(size: int, words: str) -> None:
    """The largest unit that needs no rounding."""
    assert exact_size(size) == words


def test_values_survive_json() -> None:
    """What is read is what was written, and the name plays no part."""
    assert Scenario.from_json({**SCENARIO.to_json(), "name": "another"}) == SCENARIO


def test_older_values_are_read() -> None:
    """Those of a bench that knew neither TLS nor cold memory are of a scenario without; other objects are refused."""
    older = {name: value for name, value in SCENARIO.to_json().items() if name not in ("security", "cold")}
    assert Scenario.from_json(older) == SCENARIO
    with pytest.raises(TypeError):
        Scenario.from_json({"work": "memory"})
