"""Fixtures of the tests between two processes. Nothing here is used unless a test asks for it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from harness.leftovers import left_over, left_since
from harness.remote import DestinationHost


@pytest.fixture(scope="session")
def host() -> Iterator[DestinationHost]:
    """A process for destinations; a test may kill it, the next gets a new one."""
    host = DestinationHost()
    host.start()
    yield host
    host.close()


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Fail a test that leaves a thread of the library, a socket or a task behind."""
    before = left_over()
    yield
    gc.collect()  # what was not closed says so now, and not in a later test
    left = await left_since(before)
    assert not left
