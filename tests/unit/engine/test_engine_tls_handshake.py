"""TLS's handshake, and what TLS asks of a connection beside bytes: who is let in, who is told what, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import tls_directories
import uvloop
from connection_pair import connected

from multifd import limits
from multifd.engine.connection import Connection
from multifd.engine.tls import Tls
from multifd.engine.transport import Address
from multifd.errors import CredentialsError, LocalProtocolError, TransportError

WAIT_S = 5.0


class Contrary:
    """A TLS socket that wants to read in order to write and the other way round, once each."""

    def __init__(self, real: ssl.SSLSocket) -> None:
        self._real = real
        self.wants: dict[str, list[type[ssl.SSLError]]] = {
            "send": [ssl.SSLWantReadError, ssl.SSLWantReadError],
            "recv": [ssl.SSLWantWriteError, ssl.SSLWantWriteError],
        }

    def _want(self, what: str) -> None:
        if self.wants[what]:
            raise self.wants[what].pop(0)

    def send(self, data: memoryview) -> int:
        self._want("send")
        return self._real.send(data)

    def recv(self, n_max: int) -> bytes:
        self._want("recv")
        return self._real.recv(n_max)

    def close(self) -> None:
        self._real.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_reading_may_need_writing_and_writing_reading(run: Callable[[Awaitable[None]], None]) -> None:
    """As when keys are changed: each goes on when the socket can do what TLS wants, whatever it is called."""

    async def scenario() -> None:
        tls = tls_directories.client(), tls_directories.server()
        async with asyncio.timeout(WAIT_S), connected(*tls) as (ours, theirs):
            real = ours._socket
            assert isinstance(real, ssl.SSLSocket)
            contrary = Contrary(real)
            ours._socket = contrary  # type: ignore[assignment]
            ours.write(b"question")
            assert ours.backlog == 8
            for _ in range(2):  # something to read, each time that a write wants it
                reading = asyncio.create_task(ours.read(1))
                theirs.write(b"x")
                assert await reading == b"x"
            assert await theirs.read_exactly(8) == b"question"
            assert contrary.wants == {"send": [], "recv": []}
            ours._socket = real

    run(scenario())


def refusals(client: Tls | None, server: Tls | None) -> tuple[str, str]:
    """What both ends say of a connection that must not come about: on connecting, or on the first read."""
    said: dict[str, str] = {}

    async def one(name: str, made: Awaitable[Connection]) -> None:
        try:
            connection = await made
            try:
                assert await connection.read(100) != b""
            finally:
                connection.abort()
        except TransportError as error:
            said[name] = str(error)

    async def both() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            address = Address(host="127.0.0.1", port=listener.getsockname()[1])

            async def accept() -> Connection:
                accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                return await Connection.accept(accepted, server)

            async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
                group.create_task(one("client", Connection.connect(address, tls=client)))
                group.create_task(one("server", accept()))

    asyncio.run(both())
    return said["client"], said["server"]


def test_a_server_of_another_ca_is_not_trusted() -> None:
    """Each side says it in its own words, with its own file."""
    client, server = refusals(tls_directories.client(), tls_directories.server("other"))
    assert "the peer's certificate is not signed by " in client
    assert str(tls_directories.tls_dir() / "ca-cert.pem") in client
    assert client.startswith("can't connect to tcp://127.0.0.1:")
    assert "the peer does not take this side's certificate, " in server
    assert "server-cert.pem: it is not signed by a CA that the peer trusts" in server


def mixed(server_side: bool) -> Tls:
    """A side that trusts the usual CA, and shows a certificate of another."""
    mixed = Tls.load(tls_directories.tls_dir(), server=server_side)
    role = "server" if server_side else "client"
    other = tls_directories.tls_dir("other")
    mixed.context.load_cert_chain(other / f"{role}-cert.pem", other / f"{role}-key.pem")
    return mixed


def test_a_client_of_another_ca_is_not_trusted() -> None:
    """It hears of it in words, though by then its own handshake was done."""
    client, server = refusals(mixed(server_side=False), tls_directories.server())
    assert "the peer does not take this side's certificate, " in client
    assert "client-cert.pem: it is not signed by a CA that the peer trusts" in client
    assert "the peer's certificate is not signed by " in server


def test_a_client_without_certificate_is_not_admitted() -> None:
    """Mutual: that the channel is encrypted is not enough."""
    bare = Tls.load(tls_directories.tls_dir(), server=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls_directories.tls_dir() / "ca-cert.pem")
    client, server = refusals(Tls(bare.directory, False, None, context), tls_directories.server())
    assert "client-cert.pem: it got none" in client
    assert "the peer shows no certificate" in server


def test_the_name_of_the_server_must_be_in_its_certificate() -> None:
    """The one that was asked for, in place of the host's."""
    tls = Tls.load(tls_directories.tls_dir(), server=False, hostname="elsewhere.example")
    client, _ = refusals(tls, tls_directories.server())
    assert "the peer's certificate has another name" in client
    assert "elsewhere.example" in client
    assert "TLS hostname" in client


@pytest.mark.parametrize("server", [False, True], ids=["client", "server"])
async def test_tls_on_one_side_alone_is_told(server: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the side that has it."""
    monkeypatch.setattr(limits, "LAST_WORDS_S", 0.02)
    ours, plain = socket.socketpair()
    ours.setblocking(False)
    plain.sendall(b"MFDP, and what follows")
    tls = tls_directories.server() if server else tls_directories.client()
    address = None if server else Address(host="localhost")
    assert "the peer does not speak TLS" in await failure(Connection._begin(ours, tls, address, "in vain"))
    plain.close()


async def failure(making: Awaitable[Connection]) -> str:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(TransportError) as raised:
            await making
    return str(raised.value)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_handshake_that_does_not_come_is_given_up(
    run: Callable[[Awaitable[None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its deadline, on both sides, with the socket closed."""
    monkeypatch.setattr(limits, "TLS_HANDSHAKE_DEADLINE_S", 0.02)
    monkeypatch.setattr(limits, "LAST_WORDS_S", 0.02)

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = Address(host="127.0.0.1", port=listener.getsockname()[1])
            words = await failure(Connection.connect(address, tls=tls_directories.client()))
            assert "no TLS handshake within 0.02 s" in words
            with socket.create_connection(listener.getsockname()) as silent:
                listener.accept()[0].close()  # the one before
                accepted, _ = listener.accept()
                assert "no TLS handshake" in await failure(Connection.accept(accepted, tls_directories.server()))
                assert accepted.fileno() == -1
                assert silent.recv(1) == b""

    run(scenario())


async def test_a_handshake_that_is_cancelled_closes_the_socket() -> None:
    """Nothing is left of it."""
    ours, theirs = socket.socketpair()
    accepting = asyncio.create_task(Connection.accept(ours, tls_directories.server()))
    await asyncio.sleep(0)
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)
    assert theirs.recv(1) == b""
    theirs.close()


async def test_a_unix_socket_needs_a_name_to_check() -> None:
    """It has no host of its own; given one, it is checked."""
    with pytest.raises(CredentialsError, match="no host name"):
        await Connection.connect(Address(path="/nowhere"), tls=tls_directories.client())
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    tls = Tls.load(tls_directories.tls_dir(), server=False, hostname="localhost")
    address = Address(path="/somewhere")
    async with asyncio.timeout(WAIT_S):
        ends = await asyncio.gather(
            Connection._begin(ours, tls, address, "can't connect"), Connection.accept(theirs, tls_directories.server())
        )
    assert ends[0].security == ends[1].security
    for each in ends:
        each.abort()


async def test_roles_are_not_mixed_up() -> None:
    """A client's credentials do not listen, and a server's do not connect."""
    with pytest.raises(LocalProtocolError, match="server=False"):
        await Connection.connect(Address(host="127.0.0.1", port=1), tls=tls_directories.server())
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(LocalProtocolError, match="server=True"):
        await Connection.accept(ours, tls_directories.client())


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "aborted"])
async def test_an_end_is_told_from_a_cut(orderly: bool) -> None:
    """Closing says so inside TLS, by close-notify; for a peer that insists on it anything else is an error."""
    ours, theirs = socket.socketpair()
    context = tls_directories.client().context

    def client() -> bytes:
        with context.wrap_socket(theirs, server_hostname="localhost", suppress_ragged_eofs=False) as insisting:
            return insisting.recv(100) + insisting.recv(100)

    reading = asyncio.create_task(asyncio.to_thread(client))
    connection = await Connection.accept(ours, tls_directories.server())
    connection.write(b"all")
    async with asyncio.timeout(WAIT_S):
        if orderly:
            await connection.close()
            assert await reading == b"all"
        else:
            connection.abort()
            with pytest.raises(ssl.SSLEOFError):
                await reading


def test_no_session_is_remembered() -> None:
    """A server sends no tickets: a client that only sends would never read them, and closing over them is a reset."""

    async def scenario() -> None:
        async with (
            asyncio.timeout(WAIT_S),
            connected(tls_directories.client(), tls_directories.server()) as (ours, theirs),
        ):
            ours.write(b"x")
            await theirs.read(1)
            assert ours._socket.session is None or not ours._socket.session.has_ticket  # type: ignore[attr-defined]
            with pytest.raises(BlockingIOError):
                socket.socket.recv(ours._socket, 1)

    asyncio.run(scenario())
