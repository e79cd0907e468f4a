"""The listener tells main from channels by their first bytes, drops what is neither, and never stops for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tls_directories import client, server

from multifd import limits
from multifd.elements import Handshake
from multifd.engine.connection import Connection
from multifd.engine.transport import Address
from multifd.errors import LocalProtocolError, RemoteProtocolError, TransportError
from multifd.qemu.listener import QemuListener
from multifd.wire.qemu_packet import serialize_handshake

WAIT_S = 10.0
UUID = bytes(range(16))
CHANNEL = serialize_handshake(Handshake(UUID, 5))


class Host:
    """A destination that takes everything, unless it is told to refuse."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[Connection, bytes | Handshake]] = asyncio.Queue()
        self.refuses = False

    def _take(self, connection: Connection, what: bytes | Handshake) -> None:
        if self.refuses:
            raise RemoteProtocolError("handshake", "another one")
        self.came.put_nowait((connection, what))

    def take_main(self, connection: Connection, first: bytes) -> None:
        self._take(connection, first)

    def take_channel(self, connection: Connection, handshake: Handshake) -> None:
        self._take(connection, handshake)

    async def next(self) -> tuple[Connection, bytes | Handshake]:
        return await asyncio.wait_for(self.came.get(), WAIT_S)


@pytest.fixture
async def listener() -> AsyncIterator[QemuListener]:
    listener = QemuListener.open("tcp:127.0.0.1:0")
    yield listener
    await listener.close()


async def connect(listener: QemuListener, said: bytes) -> Connection:
    connection = await Connection.connect(listener.address)
    connection.write(said)
    return connection


async def closed(connection: Connection) -> None:
    """The listener closes it, and says nothing."""
    with contextlib.suppress(TransportError):
        assert await asyncio.wait_for(connection.read(1), WAIT_S) == b""
    connection.abort()


async def test_main_and_channels_are_told_apart(listener: QemuListener) -> None:
    """Main comes with the bytes that were read of it and nothing more; a channel with its handshake alone."""
    host = Host()
    with listener.hosted_by(host):
        sources = [await connect(listener, CHANNEL + b"packets")]
        channel, handshake = await host.next()
        sources.append(await connect(listener, b"QEVM\0\0\0\3"))
        main, first = await host.next()
    assert (handshake, first) == (Handshake(UUID, 5), b"QEVM")
    assert await channel.read_exactly(7) == b"packets"
    assert await main.read_exactly(4) == b"\0\0\0\3"
    for connection in (main, channel, *sources):
        connection.abort()


async def test_a_handshake_may_come_in_pieces(listener: QemuListener) -> None:
    """Byte by byte, while another connection is known at once."""
    host = Host()
    with listener.hosted_by(host):
        slow = await connect(listener, CHANNEL[:1])
        fast = await connect(listener, b"QEVM")
        main, _ = await host.next()
        for at in range(1, len(CHANNEL)):
            slow.write(CHANNEL[at : at + 1])
            await asyncio.sleep(0)
        channel, handshake = await host.next()
    assert handshake == Handshake(UUID, 5)
    for connection in (slow, fast, main, channel):
        connection.abort()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "first bytes"),
        (b"\0\0\0\0", "first bytes"),
        (CHANNEL[:4] + b"\0\0\0\2" + CHANNEL[8:], "version"),
        (CHANNEL[:24] + b"\xff" + CHANNEL[25:], "channel"),
    ],
)
async def test_what_is_neither_is_dropped(listener: QemuListener, said: bytes, why: str) -> None:
    """It is closed and told why, and the next one is served."""
    host = Host()
    with listener.hosted_by(host):
        await closed(await connect(listener, said))
        assert listener.dropped == 1
        assert why in listener.last_dropped
        source = await connect(listener, CHANNEL)
        connection, _ = await host.next()
    connection.abort()
    source.abort()


async def test_what_the_host_refuses_is_dropped(listener: QemuListener) -> None:
    """A channel that is there already, say."""
    host = Host()
    host.refuses = True
    with listener.hosted_by(host):
        await closed(await connect(listener, CHANNEL))
        await closed(await connect(listener, b"QEVM"))
    assert listener.dropped == 2


async def test_silence_has_a_deadline(listener: QemuListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whoever says nothing, or half of it."""
    monkeypatch.setattr(limits, "QEMU_FIRST_BYTES_DEADLINE_S", 0.02)
    with listener.hosted_by(Host()):
        await closed(await connect(listener, b""))
        await closed(await connect(listener, CHANNEL[:63]))
    assert "did not say what it is" in listener.last_dropped


async def test_too_many_silent_ones(listener: QemuListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes for the newest."""
    monkeypatch.setattr(limits, "QEMU_PENDING_CONNECTIONS_MAX", 2)
    host = Host()
    with listener.hosted_by(host):
        silent = [await connect(listener, b"QE") for _ in range(3)]
        await closed(silent[0])
        silent[2].write(b"VM")
        main, _ = await host.next()
    await closed(silent[1])
    silent[2].abort()
    main.abort()


async def test_whoever_comes_early_waits(listener: QemuListener) -> None:
    """Before there is a destination connections stay in the system's queue; what is not known at its end is dropped."""
    early = await connect(listener, b"QEVM")
    host = Host()
    with listener.hosted_by(host):
        main, _ = await host.next()
        silent = [await connect(listener, b"Q") for _ in range(5)]  # hardly all of them are accepted yet
        with pytest.raises(LocalProtocolError), listener.hosted_by(Host()):
            pass
    for each in silent:
        await closed(each)
    main.abort()
    early.abort()


async def test_nothing_runs_after_close(listener: QemuListener) -> None:
    """The tasks that accept, of every destination there was, have ended when it returns."""
    before = asyncio.all_tasks()
    for _ in range(2):
        with listener.hosted_by(Host()):
            await asyncio.sleep(0)
            assert asyncio.all_tasks() > before
    await listener.close()
    assert asyncio.all_tasks() == before


async def test_a_unix_path_is_removed(tmp_path: Path) -> None:
    """But not what somebody else has put there meanwhile."""
    path = tmp_path / "socket"
    listener = QemuListener.open(f"unix:{path}")
    assert (listener.uri, listener.address) == (f"unix:{path}", Address(path=str(path)))
    await listener.close()
    assert not path.exists()
    listener = QemuListener.open(f"unix:{path}")
    path.unlink()
    path.write_text("theirs", encoding="utf-8")
    await listener.close()
    assert path.exists()


async def test_addresses_in_qemus_words(listener: QemuListener) -> None:
    """`uri` is what `migrate` takes."""
    assert listener.uri == f"tcp:127.0.0.1:{listener.address.port}"
    with socket.socket(socket.AF_INET6) as probe:
        if probe.connect_ex(("::1", 9)) == 99:  # no IPv6 here
            return
    other = QemuListener.open("tcp:[::1]:0")
    assert other.uri == f"tcp:[::1]:{other.address.port}"
    await other.close()


async def test_under_tls_the_first_bytes_are_decrypted_ones() -> None:
    """A connection without TLS is dropped; one that speaks it is told apart as any other."""
    with pytest.raises(LocalProtocolError):
        QemuListener.open("tcp:127.0.0.1:0", client())
    listener = QemuListener.open("tcp:127.0.0.1:0", server())
    host = Host()
    with listener.hosted_by(host):
        plain = await connect(listener, CHANNEL)
        with contextlib.suppress(TransportError):
            while await asyncio.wait_for(plain.read(4096), WAIT_S):  # an alert
                pass
        plain.abort()
        source = await Connection.connect(listener.address, tls=client())
        source.write(CHANNEL)
        channel, handshake = await host.next()
    assert handshake == Handshake(UUID, 5)
    assert channel.security.startswith("TLS 1.3")
    assert listener.dropped == 1
    channel.abort()
    source.abort()
    await listener.close()
