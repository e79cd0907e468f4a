"""The listener between sessions: who asks for an outcome is answered, by what is known and to whom it may be told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from multifd import limits
from multifd import messages as m
from multifd.engine.listener import Listener, listen
from multifd.engine.main_stream import MainStream
from multifd.engine.outcome import ask_outcome
from multifd.engine.transport import Address
from multifd.errors import Code, LocalProtocolError
from multifd.wire.preamble import MAIN_PREAMBLE

WAIT_S = 5.0
SESSION, OTHER, SECRET = b"s" * 16, b"o" * 16, b"k" * 16


class Session:
    """A session that a test decides."""

    def __init__(self, listener: Listener) -> None:
        self.secret = SECRET
        self.decided = asyncio.Event()
        self.task = asyncio.current_task()
        self.asked = asyncio.Event()
        self.decides: m.Fate | None = m.Fate.ABORTED
        """What the question makes of it; None: it goes on."""
        self._listener = listener

    def attach(self, _channel: int, _connection: object) -> bool:
        return False

    def outcome_asked(self) -> None:
        self.asked.set()
        if self.decides is not None:
            self.end(self.decides)

    def end(self, fate: m.Fate, session: bytes = SESSION) -> None:
        self._listener.decide(session, fate, "the cause")
        self.decided.set()


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    """On a socket of its own."""
    made = await listen(f"unix://{tmp_path}/socket")
    yield made
    await made.close()


async def ask(listener: Listener, secret: bytes = SECRET, session: bytes = SESSION) -> m.OutcomeIs:
    async with asyncio.timeout(WAIT_S):
        answer = await ask_outcome(Address.parse(listener.address), m.AskOutcome(session, secret))
    assert isinstance(answer, m.OutcomeIs)
    return answer


async def test_a_session_that_nobody_knows_is_unknown(listener: Listener) -> None:
    """That settles nothing."""
    assert (await ask(listener)).outcome is m.Fate.UNKNOWN


async def test_the_question_aborts_a_session_before_commit(listener: Listener) -> None:
    """The session hears of it first, and what it decides is the answer, now and later."""
    session = Session(listener)
    assert listener.open_session(SESSION, session)
    assert await ask(listener) == m.OutcomeIs(m.Fate.ABORTED, "the cause")
    listener.close_session(SESSION, confirmed=True)
    assert await ask(listener) == m.OutcomeIs(m.Fate.ABORTED, "the cause")


async def test_the_answer_waits_for_a_session_that_is_starting(listener: Listener) -> None:
    """Until it is decided; others are served meanwhile."""
    session = Session(listener)
    session.decides = None
    listener.open_session(SESSION, session)
    asking = asyncio.create_task(ask(listener))
    assert (await ask(listener, secret=bytes(16))).outcome is m.Fate.UNKNOWN
    await session.asked.wait()
    assert not asking.done()
    session.end(m.Fate.STARTED)
    assert (await asking).outcome is m.Fate.STARTED


async def test_a_wrong_secret_learns_and_changes_nothing(listener: Listener) -> None:
    """A stranger can't abort a session by asking for it."""
    session = Session(listener)
    listener.open_session(SESSION, session)
    assert (await ask(listener, secret=b"x" * 16)).outcome is m.Fate.UNKNOWN
    assert not session.asked.is_set()
    session.end(m.Fate.STARTED)
    assert (await ask(listener, secret=b"x" * 16)).outcome is m.Fate.UNKNOWN


async def test_an_id_is_used_once(listener: Listener) -> None:
    """Neither while it is open nor afterwards: a second session must not get the first one's fate."""
    first = Session(listener)
    assert listener.open_session(SESSION, first)
    assert not listener.open_session(SESSION, Session(listener))
    first.end(m.Fate.ABORTED)
    listener.close_session(SESSION, confirmed=True)
    assert not listener.open_session(SESSION, Session(listener))


async def test_nobody_to_receive_is_said(listener: Listener) -> None:
    """HELLO while no destination runs: busy, in words, and the connection ends in order."""
    stream = await MainStream.open(Address.parse(listener.address), MAIN_PREAMBLE)
    stream.send(m.Hello((1, 1), SESSION, bytes(16), (), 1, "test"))
    async with asyncio.timeout(WAIT_S):
        aborted = await stream.receive()
        assert isinstance(aborted, m.Aborted)
        assert aborted.code is Code.BUSY
        assert await stream.receive() is None
        await stream.close()


async def test_one_destination_at_a_time(listener: Listener) -> None:
    """A second one on the same listener is a mistake, and says so."""

    class Host:
        async def serve(self, stream: MainStream, hello: m.Hello) -> None: ...

    with listener.hosted_by(Host()), pytest.raises(LocalProtocolError), listener.hosted_by(Host()):
        pass


async def test_closing_waits_for_every_source_that_may_still_ask(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has asked is no reason to leave the next one alone."""
    monkeypatch.setattr(limits, "OUTCOME_LINGER_S", WAIT_S)
    for number in (SESSION, OTHER):
        session = Session(listener)
        listener.open_session(number, session)
        session.end(m.Fate.STARTED, number)
        listener.close_session(number, confirmed=False)
        if number == SESSION:
            assert (await ask(listener)).outcome is m.Fate.STARTED
            await asyncio.gather(*listener._serving)  # until the answer is known to have been read
    closing = asyncio.create_task(listener.close())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not closing.done()
    assert (await ask(listener, session=OTHER)).outcome is m.Fate.STARTED
    async with asyncio.timeout(WAIT_S):
        await closing


async def test_a_source_that_asked_before_the_session_closed_has_its_answer(listener: Listener) -> None:
    """Closing does not wait for it: it knows."""
    session = Session(listener)
    session.decides = m.Fate.STARTED
    listener.open_session(SESSION, session)
    assert (await ask(listener)).outcome is m.Fate.STARTED
    await asyncio.gather(*listener._serving)
    listener.close_session(SESSION, confirmed=False)
    async with asyncio.timeout(WAIT_S):
        await listener.close()


async def test_closing_removes_the_path(tmp_path: Path) -> None:
    """Of its own socket; what somebody else has put there stays."""
    path = tmp_path / "gone"
    await (await listen(f"unix://{path}")).close()
    assert not path.exists()
    made = await listen(f"unix://{path}")
    path.unlink()
    path.write_text("precious")
    await made.close()
    assert path.read_text() == "precious"


def test_a_flood_of_connections_leaves_others_their_turn(tmp_path: Path) -> None:
    """On asyncio's own loop too, where accept does not suspend while there is a connection: each is accepted in a turn
    of its own.
    """

    async def flooded() -> int:
        listener = await listen(f"unix://{tmp_path}/socket")
        accepted = 0
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                stranger = stack.enter_context(socket.socket(socket.AF_UNIX))
                stranger.connect(f"{tmp_path}/socket")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            accepted = len(listener._pending)
            await listener.close()
        return accepted

    assert asyncio.run(flooded()) < 10
