"""Fixtures for tests of a whole way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from interop_ends import Receiver, ReceiverFactory, receiving


@pytest_asyncio.fixture
async def receive() -> AsyncIterator[ReceiverFactory]:
    """`await receive(receiver, link, into, **options)`: `receiving`, which ends when the test does."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*arguments: Any, **options: Any) -> Receiver:
            return await stack.enter_async_context(receiving(*arguments, **options))

        yield start
