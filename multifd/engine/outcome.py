"""Asking a destination what became of a session's COMMIT (proto/states.md section 5)."""

from __future__ import annotations

import asyncio

from multifd import limits
from multifd.engine.main_stream import MainStream
from multifd.engine.tls import Tls
from multifd.engine.transport import Address
from multifd.errors import MultifdError, RemoteProtocolError
from multifd.messages import AskOutcome, OutcomeIs
from multifd.wire.preamble import MAIN_PREAMBLE


async def ask_outcome(address: Address, question: AskOutcome, tls: Tls | None = None) -> OutcomeIs | str:
    """The destination's answer, or why there is none: after `OUTCOME_TRIES` tries, each on a connection of its own, or
    one that was connected and had no answer within `OUTCOME_ANSWER_DEADLINE_S`.
    """
    cause = ""
    for attempt in range(limits.OUTCOME_TRIES):
        if attempt:
            await asyncio.sleep(limits.OUTCOME_PAUSE_S)
        try:
            async with asyncio.timeout(limits.OUTCOME_DEADLINE_S):
                stream = await MainStream.open(address, MAIN_PREAMBLE, tls)
        except TimeoutError:
            cause = f"no connection to {address} within {limits.OUTCOME_DEADLINE_S:g} s"
            continue
        except MultifdError as error:
            cause = str(error)
            continue
        try:
            async with asyncio.timeout(limits.OUTCOME_ANSWER_DEADLINE_S):
                return await _ask_on(stream, question)
        except TimeoutError:
            return f"no answer from {address} within {limits.OUTCOME_ANSWER_DEADLINE_S:g} s"
        except MultifdError as error:
            cause = str(error)
    return cause


async def _ask_on(stream: MainStream, question: AskOutcome) -> OutcomeIs:
    try:
        stream.send(question)
        answer = await stream.receive()
    finally:
        await stream.close()
    if not isinstance(answer, OutcomeIs):
        raise RemoteProtocolError("the answer to OUTCOME", "OUTCOME_IS", answer)
    return answer
