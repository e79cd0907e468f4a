"""Migrations under TLS: all that they do without it, between those alone who have certificates of one CA."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tls_directories
from harness.migration import bounded

import multifd
from multifd import DeviceState, EmulatedDevice, EmulatedOptions, Outcome, Tls, limits
from multifd import messages as m
from multifd.engine import tls_socket
from multifd.engine.outcome import ask_outcome
from multifd.engine.transport import Address

pytestmark = pytest.mark.usefixtures("nothing_left")

MEMORY_BYTES = 16 * limits.MIB
WAIT_S = 15.0


@pytest.fixture
async def listener() -> AsyncIterator[multifd.Listener]:
    """On loopback, under TLS."""
    made = await multifd.listen("tcp://127.0.0.1:0", tls_directories.server())
    yield made
    await made.close()


class Ends:
    """Both ends of a migration in this process: half random memory, half zero, and a device."""

    def __init__(self, address: str, listener: multifd.Listener, tls: Tls | None, **options: object) -> None:
        self.memory = bytearray(os.urandom(MEMORY_BYTES // 2) + bytes(MEMORY_BYTES // 2))
        self.there = bytearray(MEMORY_BYTES)
        state = EmulatedOptions(initial_bytes=limits.MIB, stop_copy_bytes=limits.MIB)
        self.devices = [
            EmulatedDevice("nic", state, state=each) for each in (DeviceState.RUNNING, DeviceState.RESUMING)
        ]
        chosen = multifd.SourceOptions(channels=3, tls=tls, **options)  # type: ignore[arg-type]
        self.source = multifd.Source(
            address,
            blocks=[multifd.BufferBlock("ram", self.memory, tracker="none")],
            devices=self.devices[:1],
            options=chosen,
        )
        self.destination = multifd.Destination(
            listener,
            blocks=[multifd.BufferBlock("ram", self.there, tracker="none")],
            devices=self.devices[1:],
        )

    async def migrate(self) -> tuple[multifd.Report, multifd.Report]:
        """Reports of source and destination, after memory and device were compared."""
        here, there = await asyncio.gather(self.source.run(), self.destination.run())
        assert self.there == self.memory
        assert self.devices[0].digest == self.devices[1].digest
        return here, there


@bounded
@pytest.mark.parametrize("codec", ["none", "zstd", "auto"])
async def test_a_migration_under_tls_completes(listener: multifd.Listener, codec: str) -> None:
    """Memory, zero pages and a device, over three channels; both reports say what was in use."""
    reports = await Ends(listener.address, listener, tls_directories.client(), codec=codec).migrate()
    for report in reports:
        assert report.outcome is Outcome.COMPLETED
        assert report.security.startswith("TLS 1.3, TLS_")
        assert report.to_json()["security"] == report.security
        assert report.codec == codec
        assert set(report.codecs) <= {"none", "lz4", "zstd", "zstd:3"}
        assert sum(tally.slots for tally in report.codecs.values()) > 0


@bounded
async def test_a_unix_socket_too(tmp_path: Path) -> None:
    """With the name that is to be checked."""
    listener = await multifd.listen(f"unix://{tmp_path}/socket", tls_directories.server())
    tls = Tls.load(tls_directories.tls_dir(), server=False, hostname="localhost")
    here, _ = await Ends(listener.address, listener, tls).migrate()
    assert here.security.startswith("TLS 1.")
    await listener.close()


@bounded
async def test_without_tls_the_report_says_plain() -> None:
    """On both sides: nobody has to guess."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    reports = await Ends(listener.address, listener, None).migrate()
    assert [report.security for report in reports] == ["plain", "plain"]
    await listener.close()


@bounded
async def test_channels_end_with_close_notify(listener: multifd.Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, after a migration that completed: for the peer that is no cut."""
    said: list[bool] = []
    real = tls_socket.say_end
    monkeypatch.setattr(tls_socket, "say_end", lambda connection: said.append(real(connection)))
    await Ends(listener.address, listener, tls_directories.client()).migrate()
    assert said == [True] * 3


async def refused(address: str, tls: Tls | None) -> str:
    """Why a source's migration failed."""
    source = multifd.Source(address, options=multifd.SourceOptions(tls=tls))
    with pytest.raises(multifd.MigrationFailedError) as raised:
        await source.run()
    return str(raised.value)


def of_another_ca() -> Tls:
    """A client that trusts the listener, and whose certificate is of another CA."""
    mixed = Tls.load(tls_directories.tls_dir(), server=False)
    other = tls_directories.tls_dir("other")
    mixed.context.load_cert_chain(other / "client-cert.pem", other / "client-key.pem")
    return mixed


@bounded
async def test_nobody_else_is_let_in(listener: multifd.Listener) -> None:
    """Neither of another CA, on either side, nor without TLS; all are told, and then a good one is served."""
    ends = Ends(listener.address, listener, tls_directories.client())
    receiving = asyncio.create_task(ends.destination.run())
    assert "the peer does not take this side's certificate" in await refused(listener.address, of_another_ca())
    assert "the peer's certificate is not signed by" in await refused(listener.address, tls_directories.client("other"))
    assert "perhaps it takes TLS only" in await refused(listener.address, None)
    assert not receiving.done()
    await ends.source.run()
    assert (await receiving).outcome is Outcome.COMPLETED


@bounded
async def test_a_plain_listener_is_told_from_one_with_tls() -> None:
    """By a source that has it: at once, and in words."""
    listener = await multifd.listen("tcp://127.0.0.1:0")
    words = await refused(listener.address, tls_directories.client())
    await listener.close()
    assert words.startswith(f"can't connect to {listener.address}: the peer ended TLS's handshake; perhaps it does not")


@bounded
async def test_strangers_that_never_shake_hands_keep_nobody_out(listener: multifd.Listener) -> None:
    """They cost a place among those that are not known yet, and no more."""
    port = int(listener.address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        for _ in range(limits.PENDING_CONNECTIONS_MAX + 20):
            stack.enter_context(await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port)))
        await Ends(listener.address, listener, tls_directories.client()).migrate()
        assert len(listener._pending) <= limits.PENDING_CONNECTIONS_MAX


@bounded
async def test_what_became_of_a_session_is_asked_under_tls(listener: multifd.Listener) -> None:
    """The question goes the way that the session went; without TLS there is no answer."""
    address, question = Address.parse(listener.address), m.AskOutcome(b"s" * 16, b"k" * 16)
    answer = await ask_outcome(address, question, tls_directories.client())
    assert isinstance(answer, m.OutcomeIs)
    assert answer.outcome is m.Fate.UNKNOWN


@bounded
async def test_a_migration_that_is_cancelled_leaves_nothing(listener: multifd.Listener) -> None:
    """Workers inside TLS are woken; the memory is the caller's again."""
    ends = Ends(listener.address, listener, tls_directories.client(), bandwidth_limit=limits.MIB)
    receiving = asyncio.create_task(ends.destination.run())
    sending = asyncio.create_task(ends.source.run())
    async for progress in ends.source.progress():
        if progress.bytes_sent:
            break
    assert ends.source.cancel("enough")
    with pytest.raises(multifd.MigrationCancelledError):
        await sending
    with pytest.raises(multifd.MigrationFailedError):
        await receiving


@bounded
async def test_roles_are_checked_before_anything_is_done() -> None:
    """A client's credentials for a listener, a server's for a source."""
    with pytest.raises(ValueError, match="server=True"):
        await multifd.listen("tcp://127.0.0.1:0", tls_directories.client())
    with pytest.raises(ValueError, match="server=False"):
        multifd.SourceOptions(tls=tls_directories.server())


# -- the commands


def multifd_command(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "multifd", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_files_are_sent_under_tls(tmp_path: Path, scheme: str) -> None:
    """By `--tls-dir` on both sides, on a unix socket with `--tls-hostname`; the object says what was in use."""
    (tmp_path / "into").mkdir()
    (tmp_path / "file").write_bytes(os.urandom(limits.MIB))
    listen = "tcp://localhost:0" if scheme == "tcp" else f"unix:{tmp_path}/socket"
    tls: list[str | Path] = ["--tls-dir", tls_directories.tls_dir(), "--json"]
    named = ["--tls-hostname", "localhost"] if scheme == "unix" else []
    with multifd_command("receive", "--listen", listen, "--into", tmp_path / "into", *tls) as receiver:
        assert receiver.stderr is not None
        address = receiver.stderr.readline().removeprefix("listening on ").strip()
        with multifd_command("send", tmp_path / "file", "--to", address, *tls, *named) as sender:
            out, said = sender.communicate(timeout=WAIT_S)
            assert sender.returncode == 0, said
        receiver.communicate(timeout=WAIT_S)
        assert receiver.returncode == 0
    assert (tmp_path / "into" / "file").read_bytes() == (tmp_path / "file").read_bytes()
    assert json.loads(out)["security"].startswith("TLS 1.")


@pytest.mark.slow
def test_a_sender_of_another_ca_is_told_what_to_check(tmp_path: Path) -> None:
    """It fails with a sentence and a hint; the receiver goes on listening."""
    (tmp_path / "file").touch()
    here, other = tls_directories.tls_dir(), tls_directories.tls_dir("other")
    listen: list[str | Path] = ["--listen", "tcp://127.0.0.1:0", "--into", tmp_path, "--tls-dir", here]
    with multifd_command("receive", *listen) as receiver:
        assert receiver.stderr is not None
        address = receiver.stderr.readline().removeprefix("listening on ").strip()
        with multifd_command("send", tmp_path / "file", "--to", address, "--tls-dir", other) as sender:
            _, said = sender.communicate(timeout=WAIT_S)
        assert sender.returncode == 1
        assert "the peer's certificate is not signed by" in said
        assert "check the directories for TLS" in said
        assert receiver.poll() is None
        receiver.terminate()
        receiver.communicate(timeout=WAIT_S)
