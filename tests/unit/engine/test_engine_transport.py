"""Addresses, whole reads and writes on data channels, and the system's errors in our words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from multifd import limits
from multifd.engine.transport import (
    Address,
    DataSocket,
    SocketOptions,
    congestion_control,
    connect,
    listen_socket,
    translated,
    tune,
)
from multifd.errors import TransportError
from multifd.limits import MIB

WAIT_S = 5.0


# -- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:4444", Address(host="127.0.0.1", port=4444)),
        ("tcp://host.example:0", Address(host="host.example", port=0)),
        ("tcp://[::1]:65535", Address(host="::1", port=65535)),
        ("unix:///run/multifd.sock", Address(path="/run/multifd.sock")),
    ],
)
def test_good_addresses_are_read_and_written(text: str, address: Address) -> None:
    """What was read is written the same."""
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("tcp:127.0.0.1:4444", "tcp://127.0.0.1:4444"),
        ("tcp:host.example:0", "tcp://host.example:0"),
        ("tcp:[::1]:65535", "tcp://[::1]:65535"),
        ("unix:/run/multifd.sock", "unix:///run/multifd.sock"),
        ("unix:multifd.sock", f"unix://{Path.cwd()}/multifd.sock"),
    ],
)
def test_qemus_forms_are_read_too(text: str, usual: str) -> None:
    """They mean the same as ours, in which they are written."""
    address = Address.parse(text)
    assert str(address) == usual
    assert Address.parse(usual) == address


@pytest.mark.parametrize(
    "text",
    [
        "tcp:host", "tcp::4444", "tcp:host:4444,ipv6=on", "tcp:::1:4444", "tcp:", "tcp:/host:1",
        "", "127.0.0.1:4444", "tcp://", "tcp://host", "tcp://:4444", "tcp://host:", "tcp://host:65536", "tcp://host:-1",
        "tcp://host:ssh", "tcp://host:1/path", "http://host:1", "unix://", "unix://host/path", "unix:", "tcp://[::1",
        "tcp://[::1]", "tcp://::1:4444:", "fd:3",
    ],
)  # fmt: skip
def test_bad_addresses_say_what_is_expected(text: str) -> None:
    """A `ValueError` that shows both forms and what was given, and nothing else."""
    with pytest.raises(ValueError, match="tcp://HOST:PORT or unix:///PATH") as raised:
        Address.parse(text)
    assert repr(text) in str(raised.value)


# -- the system's errors


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "reading: Connection reset by peer"),
        (EOFError("inside a slot"), "reading: inside a slot"),
        (EOFError(), "reading: EOFError"),
        (TimeoutError(), "reading: TimeoutError"),
        (OSError("no strerror"), "reading: no strerror"),
    ],
)
def test_errors_of_the_system_become_transport_errors(error: Exception, text: str) -> None:
    """With what was being done and the reason; the original is the cause."""
    with pytest.raises(TransportError) as raised, translated("reading"):
        raise error
    assert str(raised.value) == text
    assert raised.value.__cause__ is error


def test_other_errors_pass() -> None:
    """What is no trouble with a connection is not called so."""
    with pytest.raises(KeyError), translated("reading"):
        raise KeyError("x")


# -- data channels


@pytest.fixture
def ends() -> Iterator[tuple[DataSocket, socket.socket]]:
    """A data channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = DataSocket(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def test_many_buffers_arrive_as_one_stream(ends: tuple[DataSocket, socket.socket]) -> None:
    """A thousand pieces and a header, sent with one call, received into other pieces."""
    channel, peer = ends
    pieces = [bytes([number % 256]) * (number % 7) for number in range(limits.EXTENTS_MAX + 1)]
    channel.send(pieces)
    whole = b"".join(pieces)
    assert peer.recv(len(whole) + 1) == whole


def test_sends_that_are_cut_short_go_on(ends: tuple[DataSocket, socket.socket]) -> None:
    """However little the socket takes at a time, everything arrives once, in order."""
    channel, peer = ends
    real = channel._socket
    taken: list[int] = []

    class Stingy:
        """Takes seven bytes at a time."""

        def sendmsg(self, buffers: list[bytes | memoryview]) -> int:
            joined = b"".join(buffers)[:7]
            real.sendall(joined)
            taken.append(len(joined))
            return len(joined)

    channel._socket = Stingy()  # type: ignore[assignment]
    try:
        channel.send([b"abc", b"", b"defghijklmnop", memoryview(b"qrstuvw"), b"xyz"])
    finally:
        channel._socket = real
    assert peer.recv(100) == b"abcdefghijklmnopqrstuvwxyz"
    assert taken == [7, 7, 7, 5]


def test_receives_that_are_cut_short_go_on(ends: tuple[DataSocket, socket.socket]) -> None:
    """The buffers are filled to their end, whatever comes at a time."""
    channel, peer = ends
    real = channel._socket

    class Stingy:
        """Gives five bytes at a time."""

        def recv_into(self, buffer: memoryview, _size: int, _flags: int) -> int:
            return real.recv_into(buffer[:5])

        def recvmsg_into(self, buffers: list[memoryview], _space: int, _flags: int) -> tuple[int, None, None, None]:
            left, cut = 5, []
            for buffer in buffers:
                cut.append(buffer[:left])
                left -= len(cut[-1])
            return real.recvmsg_into(cut)[0], None, None, None

    peer.sendall(b"abcdefghijklmnopqrstuvwxyz")
    buffers = [bytearray(3), bytearray(0), bytearray(13), bytearray(10)]
    channel._socket = Stingy()  # type: ignore[assignment]
    try:
        assert channel.receive([memoryview(each) for each in buffers])
    finally:
        channel._socket = real
    assert b"".join(buffers) == b"abcdefghijklmnopqrstuvwxyz"


def test_a_large_slot_goes_through_a_small_socket(ends: tuple[DataSocket, socket.socket]) -> None:
    """More than any socket buffer holds: the sender waits for the receiver."""
    channel, peer = ends
    payload = bytes(range(256)) * (limits.SLOT_BYTES_MAX // 256)
    other = DataSocket(peer)
    got = bytearray(len(payload))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(channel.send, [b"header", payload])
        header = bytearray(6)
        assert other.receive([memoryview(header), memoryview(got)[:1000], memoryview(got)[1000:]])
        sending.result(WAIT_S)
    assert bytes(header) == b"header"
    assert got == payload


def test_an_end_between_two_slots_is_an_end(ends: tuple[DataSocket, socket.socket]) -> None:
    """False, and no error: nothing was begun."""
    channel, peer = ends
    peer.close()
    assert channel.receive([memoryview(bytearray(64))]) is False


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_end_inside_a_slot_is_an_error(ends: tuple[DataSocket, socket.socket], pieces: int) -> None:
    """One byte came, and no more: the rest is missing."""
    channel, peer = ends
    peer.sendall(b"x")
    peer.close()
    with pytest.raises(EOFError, match="inside a slot"):
        channel.receive([memoryview(bytearray(32)) for _ in range(pieces)])


def test_nothing_to_receive_is_no_end(ends: tuple[DataSocket, socket.socket]) -> None:
    """Buffers of no bytes are full already: an empty payload waits for nobody."""
    channel, _ = ends
    assert channel.receive([memoryview(bytearray())])


def test_what_was_given_back_comes_first(ends: tuple[DataSocket, socket.socket]) -> None:
    """A look at what is there loses nothing: it is received again, in pieces of any size, and then what follows."""
    ours, theirs = ends
    theirs.sendall(b"header-rest")
    looked = memoryview(bytearray(8))
    assert ours.receive_some(looked) == 8
    ours.give_back(looked[:8])
    first, second = memoryview(bytearray(3)), memoryview(bytearray(6))
    assert ours.receive((first,))
    assert ours.receive_some(looked) == 5
    assert bytes(looked[:5]) == b"der-r"
    ours.give_back(looked[:5])
    assert ours.receive((second[:2], second[2:]))
    assert bytes(first) + bytes(second) == b"header-re"
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive((memoryview(bytearray(3)),))


def test_an_end_after_what_was_given_back_is_an_error(ends: tuple[DataSocket, socket.socket]) -> None:
    """Something of a slot had come; an end before anything is an end."""
    ours, theirs = ends
    theirs.sendall(b"ab")
    theirs.close()
    looked = memoryview(bytearray(8))
    got = ours.receive_some(looked)
    ours.give_back(looked[:got])
    with pytest.raises(EOFError):
        ours.receive((memoryview(bytearray(8)),))
    assert ours.receive_some(looked) == 0


@pytest.mark.parametrize("sending", [True, False], ids=["sending", "receiving"])
def test_shut_wakes_a_blocked_worker(ends: tuple[DataSocket, socket.socket], sending: bool) -> None:
    """A worker inside a send or a receive that can't go on comes back, and the worker's next call ends as well."""
    channel, _ = ends
    began = threading.Event()
    payload = bytes(64 * limits.MIB)

    def work() -> bool | str:
        began.set()
        try:
            if sending:
                channel.send([payload])
            return channel.receive([memoryview(bytearray(64))])
        except (OSError, EOFError) as error:
            return type(error).__name__

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert began.wait(WAIT_S)
        channel.shut()
        assert working.result(WAIT_S) == ("BrokenPipeError" if sending else False)
    channel.shut()  # again, and harmless


def test_a_lost_connection_is_an_os_error(ends: tuple[DataSocket, socket.socket]) -> None:
    """The worker hears of it at its next send."""
    channel, peer = ends
    peer.close()
    with pytest.raises(OSError, match="Broken pipe"):
        channel.send([b"x"])


# -- sockets


def test_options_are_set_on_tcp_alone() -> None:
    """Congestion control and buffers are what was asked for; a unix socket has neither."""
    with socket.socket() as connection:
        tune(connection, SocketOptions(congestion_control="reno", buffer=100_000))
        assert congestion_control(connection) == "reno"
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 100_000
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    with socket.socket(socket.AF_UNIX) as local:
        tune(local, SocketOptions(congestion_control="reno"))
        assert congestion_control(local) == ""


def test_buffers_within_a_host_are_fixed() -> None:
    """What is accepted from the same host has a fixed buffer, unless another is asked for; what is not connected yet is
    left to the system.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as lone:
        tune(lone, SocketOptions())
        usual = lone.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        with socket.create_connection(listener.getsockname()) as near, listener.accept()[0] as accepted:
            tune(accepted, SocketOptions())
            fixed = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            tune(near, SocketOptions(buffer=100_000))
            assert usual != fixed
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 100_000  # the kernel doubles it
            assert fixed == min(2 * MIB, 2 * int(Path("/proc/sys/net/core/rmem_max").read_text()))


def test_an_unknown_congestion_control_is_an_os_error() -> None:
    """It is not passed over."""
    with socket.socket() as connection, pytest.raises(OSError, match="choose one of"):
        tune(connection, SocketOptions(congestion_control="nonesuch"))


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:0", "tcp://[::1]:0"])
async def test_listening_on_port_zero_tells_the_port(text: str) -> None:
    """The address that comes back can be connected to."""
    listener, address = listen_socket(Address.parse(text))
    with listener:
        assert address.port != 0
        connection = await connect(address)
        connection.close()


async def test_a_socket_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    """One that somebody listens on, and any other file, is left alone."""
    address = Address.parse(f"unix://{tmp_path}/socket")
    first, _ = listen_socket(address)
    with pytest.raises(TransportError, match="Address already in use"):
        listen_socket(address)
    (await connect(address)).close()
    first.close()
    second, _ = listen_socket(address)
    second.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(TransportError, match="in use"):
        listen_socket(Address.parse(f"unix://{tmp_path}/file"))
    assert (tmp_path / "file").read_text() == "precious"


async def test_connecting_to_nobody_names_the_address() -> None:
    """And the reason, in the system's words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"can't connect to tcp://127.0.0.1:{port}: .*refused"):
            await connect(Address(host="127.0.0.1", port=port))
