"""Closing a listener leaves no connection behind, whatever each of them was doing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import warnings

import pytest

import multifd
from multifd import messages as m
from multifd.wire.control import serialize
from multifd.wire.preamble import MAIN_PREAMBLE

HELLO = m.Hello((1, 1), bytes(16), bytes(16), (), 1, "a test")
TURNS = 20  # of the event loop, for the listener to take the connection: two or three would do
DEADLINE_S = 5.0  # a guard against hanging


@pytest.mark.slow  # a closing connection gives the peer LAST_WORDS_S
@pytest.mark.parametrize(
    "said",
    [b"", MAIN_PREAMBLE[:3], MAIN_PREAMBLE, MAIN_PREAMBLE + serialize(HELLO)],
    ids=["nothing", "half-a-preamble", "a-preamble", "hello"],
)
async def test_connections_end_with_the_listener(said: bytes) -> None:
    """Who is connected when a listener closes sees the connection's end, and no socket is left to the collector."""
    loop = asyncio.get_running_loop()
    with warnings.catch_warnings(record=True) as found, socket.socket() as client:
        warnings.simplefilter("always")
        client.setblocking(False)
        listener = await multifd.listen("tcp://127.0.0.1:0")
        receiving = asyncio.create_task(multifd.Destination(listener).run())
        host, port = listener.address.removeprefix("tcp://").split(":")
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, said)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert listener._pending or listener._serving
        await listener.close()
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionResetError):
                while await loop.sock_recv(client, 4096):
                    pass
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        del listener
        gc.collect()
    assert [str(warning.message) for warning in found] == []
