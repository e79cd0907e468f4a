"""Opening the data channels of a source: each connects, says whose it is, and is handed to a worker. Loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multifd.engine.connection import Connection
from multifd.engine.encoding import payload_encoder
from multifd.engine.events import EventQueue
from multifd.engine.options import SourceOptions
from multifd.engine.sender import ChannelSender
from multifd.engine.transport import Address, SocketOptions
from multifd.session.actions import OpenChannels
from multifd.wire.preamble import DataPreamble


async def open_channels(
    address: Address,
    action: OpenChannels,
    *,
    options: SourceOptions,
    kinds: Mapping[str, int],
    codecs: Sequence[str],
    events: EventQueue[Any],
    opened: Callable[[ChannelSender], object],
) -> None:
    """All at the same time. `opened` is told of each at once, so that it is closed whatever becomes of the others.
    `kinds`: name to number; `codecs`: those that the destination admits. Raises what the first failure was.
    """
    socket_options = SocketOptions(options.congestion_control, options.socket_buffer)

    async def one(number: int) -> None:
        connection = await Connection.connect(address, socket_options, options.tls)
        try:
            connection.name = f"data channel {number}"
            connection.write(DataPreamble(action.session, action.secret, number).serialize())
            await connection.drain(0)
            encoder = payload_encoder(options.codec, codecs=codecs, channels=action.count)
            sender = ChannelSender(number, connection.detach(), kinds=kinds, encoder=encoder, events=events)
        except BaseException:
            connection.abort()
            raise
        opened(sender)

    try:
        async with asyncio.TaskGroup() as opening:  # which ends the others if one fails
            for number in range(1, action.count + 1):
                opening.create_task(one(number))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
