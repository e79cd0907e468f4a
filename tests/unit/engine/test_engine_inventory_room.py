"""What strangers offer is bounded in all, and small offers find room whatever the large ones take."""

from __future__ import annotations

import pytest

from multifd import limits
from multifd import messages as m
from multifd.engine.inventory_room import InventoryRoom


def page(*names: str) -> m.Inventory:
    return m.Inventory(1, 1, tuple(m.BlockInfo(name, 1, 4096) for name in names), (), (), preflight=False)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INVENTORY_FREE_BYTES", 1000)
    monkeypatch.setattr(limits, "INVENTORIES_BYTES_MAX", 5000)


def test_the_newest_finds_no_room() -> None:
    """Whoever was there before keeps what it has; what it had can be had again when it is gone."""
    room = InventoryRoom()
    assert room.take("first", page("x" * 5000))
    assert not room.take("second", page("x" * 5000))
    assert not room.take("first", page("x" * 5000))
    assert room.take("third", page("x" * 500))
    room.give_back("first")
    room.give_back("first")
    assert room.take("second", page("x" * 5000))


def test_pages_of_a_session_add_up() -> None:
    """Many small ones are as good as a large one."""
    room = InventoryRoom()
    taken = 0
    while room.take("one", page("x" * 100)):
        taken += 1
    assert 15 < taken < 35


def test_wide_characters_count_as_what_they_take() -> None:
    """One character that is not ASCII makes all the others wider: four times as much memory as on the wire."""
    room = InventoryRoom()
    assert room.take("narrow", page("x" * 2000))
    assert not room.take("wide", page("x" * 2000 + "\U0001f600"))
