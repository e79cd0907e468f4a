"""Contents of memory: the same for the same seed, as long as asked for, and as empty as their names say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bench import contents
from bench.contents import GUEST_WORKS, WORKS, pieces
from bench.memory_kinds import PAGE_BYTES
from bench.scenario import MEMORY
from multifd.limits import KIB

SIZE = 1000 * PAGE_BYTES + 17


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces, and an image that is shorter than what is made of it."""
    monkeypatch.setattr(contents, "PIECE_BYTES", 400 * KIB)
    monkeypatch.setattr(contents, "IMAGE_BYTES", 1200 * KIB)


def made(work: str, seed: int = 1) -> npt.NDArray[np.uint8]:
    return np.concatenate([piece.copy() for piece in pieces(work, SIZE, seed)])


@pytest.mark.parametrize("work", WORKS)
def test_both_sides_make_the_same(work: str) -> None:
    """Twice the same bytes, as many as asked for, also where no piece and no page divides the size."""
    one = made(work)
    assert one.size == SIZE
    assert np.array_equal(one, made(work))


@pytest.mark.parametrize(("work", "pages"), [("zeros", 0), ("sparse-1", 10), ("sparse-10", 100), ("ram", 1000)])
def test_as_many_pages_hold_something_as_the_name_says(work: str, pages: int) -> None:
    """None, one in a hundred, one in ten, or all of the whole pages."""
    whole = made(work)[: 1000 * PAGE_BYTES].reshape(-1, PAGE_BYTES)
    assert np.count_nonzero(whole.any(axis=1)) == pages


def test_another_seed_is_other_memory() -> None:
    """Other bytes, and other pages that hold some."""
    assert not np.array_equal(made("ram", 1), made("ram", 2))
    one, two = (made("sparse-10", seed)[: 1000 * PAGE_BYTES].reshape(-1, PAGE_BYTES).any(axis=1) for seed in (1, 2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("work", ["text", "mixed"])
def test_an_image_is_repeated(work: str) -> None:
    """What is longer than the image begins with it again."""
    one = made(work)
    assert np.array_equal(one[: SIZE - 1200 * KIB], one[1200 * KIB :])


def test_a_guest_has_what_is_looked_at() -> None:
    """All works but that of plain memory are with detection of zeros, and can be a guest's RAM."""
    assert set(WORKS) - set(GUEST_WORKS) == {MEMORY}
