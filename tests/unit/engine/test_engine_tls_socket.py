"""Data channels under TLS: the same whole reads and writes as on plain ones, and ends that are told from cuts."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import tls_directories

from multifd import limits
from multifd.engine.tls_socket import TlsDataSocket, say_end
from multifd.engine.transport import Address

WAIT_S = 5.0
Ends = tuple[TlsDataSocket, TlsDataSocket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends of a data channel: who connected, who accepted."""
    ours, theirs = socket.socketpair()
    client, server = tls_directories.client(), tls_directories.server()
    with ThreadPoolExecutor(1) as pool:
        accepted = server.wrap(theirs, None)
        shaking = pool.submit(accepted.do_handshake)
        connected = client.wrap(ours, Address(host="localhost"))
        connected.do_handshake()
        shaking.result(WAIT_S)
    both = TlsDataSocket(connected, client), TlsDataSocket(accepted, server)
    yield both
    for each in both:
        each.shut()
        each.close()


def test_pieces_of_any_size_arrive_as_one_stream(ends: Ends) -> None:
    """Empty, small ones that are joined, and large ones between them; received into other pieces."""
    ours, theirs = ends
    random.seed(1)
    sizes = [0, 1, 64, 4096, limits.MIB, 0, 16383, 16384, 16385, *(random.randrange(9000) for _ in range(200)), 0]
    pieces = [os.urandom(size) for size in sizes]
    got = bytearray(sum(sizes))
    cuts = sorted(random.randrange(len(got)) for _ in range(100))
    targets = [memoryview(got)[a:b] for a, b in zip([0, *cuts], [*cuts, len(got)], strict=True)]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(ours.send, [memoryview(each) for each in pieces])
        assert theirs.receive(targets)
        sending.result(WAIT_S)
    assert got == b"".join(pieces)


def test_it_says_what_is_in_use(ends: Ends) -> None:
    """Version and cipher, the same on both sides; there is no congestion control on a unix socket."""
    assert ends[0].security == ends[1].security
    assert ends[0].security.startswith("TLS 1.3, TLS_")
    assert ends[0].congestion_control == ""


def test_nothing_to_receive_is_no_end(ends: Ends) -> None:
    """Buffers of no bytes are full already."""
    assert ends[1].receive([memoryview(bytearray())])


@pytest.mark.parametrize("cut", [False, True], ids=["close-notify", "cut"])
def test_an_end_between_two_slots_is_an_end(ends: Ends, cut: bool) -> None:
    """With close-notify, or cut, as older QEMUs do: nothing was begun."""
    ours, theirs = ends
    if cut:
        ours.shut()
    ours.close()
    assert theirs.receive([memoryview(bytearray(64))]) is False


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_end_inside_a_slot_is_an_error(ends: Ends, pieces: int) -> None:
    """One byte came, and no more."""
    ours, theirs = ends
    ours.send([b"x"])
    ours.close()
    with pytest.raises(EOFError, match="inside a slot"):
        theirs.receive([memoryview(bytearray(32)) for _ in range(pieces)])


@pytest.mark.parametrize("shut", [False, True], ids=["closed", "shut"])
def test_closing_sends_close_notify_unless_it_was_shut(ends: Ends, shut: bool) -> None:
    """As a peer sees it that insists on it."""
    ours, theirs = ends
    if shut:
        ours.shut()
    ours.close()
    theirs._session.suppress_ragged_eofs = False  # type: ignore[attr-defined]
    if shut:
        with pytest.raises(ssl.SSLEOFError):
            theirs._session.recv(1)
    else:
        assert theirs._session.recv(1) == b""


def test_closing_over_unread_bytes_resets_nothing(ends: Ends) -> None:
    """What the peer said and nobody here reads (a server's tickets, say) does not take what was sent with it."""
    ours, theirs = ends
    theirs.send([b"a ticket"])
    ours.send([b"payload"])
    ours.close()
    got = bytearray(7)
    assert theirs.receive([memoryview(got)])
    assert got == b"payload"
    assert theirs.receive([memoryview(bytearray(1))]) is False


@pytest.mark.parametrize("sending", [True, False], ids=["sending", "receiving"])
def test_shut_wakes_a_blocked_worker(ends: Ends, sending: bool) -> None:
    """Inside OpenSSL, on a socket that takes or gives nothing; closing afterwards leaves TLS alone."""
    ours, _ = ends
    began = threading.Event()

    def work() -> bool | str:
        began.set()
        try:
            if sending:
                ours.send([bytes(64 * limits.MIB)])
            return ours.receive([memoryview(bytearray(64))])
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert began.wait(WAIT_S)
        ours.shut()
        ended = working.result(WAIT_S)
    assert ended is False if not sending else "Broken pipe" in str(ended) or "ended the connection" in str(ended)
    ours.shut()  # again, and harmless
    ours.close()


def test_a_record_that_was_changed_under_way_is_refused(ends: Ends) -> None:
    """In words, as an error of the connection."""
    ours, theirs = ends
    socket.socket.send(ours._session, b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(OSError, match="a record was changed under way"):
        theirs.receive([memoryview(bytearray(1))])


def test_close_notify_waits_for_room(ends: Ends) -> None:
    """While the socket takes nothing it can't be said; afterwards it can."""
    ours, theirs = ends
    ours._session.setblocking(False)
    with contextlib.suppress(ssl.SSLWantWriteError):
        while ours._session.send(bytes(16384)):
            pass
    assert not say_end(ours._session)
    theirs._session.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        while theirs._session.recv(65536):
            pass
    assert say_end(ours._session)
