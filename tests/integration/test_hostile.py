"""Whatever strangers send to a listening destination, it goes on listening, stays small, and serves good sources."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import serving_host
from harness.wire_source import WAIT_S, WireSource

from multifd import BufferBlock, Source, SourceOptions, limits
from multifd import messages as m
from multifd.errors import Code
from multifd.wire.control import ControlReader, serialize
from multifd.wire.extents import pack
from multifd.wire.preamble import MAIN_PREAMBLE, DataPreamble
from multifd.wire.slots import SlotHeader, serialize_header

pytestmark = pytest.mark.slow

GROWTH_BYTES_MAX = 64 * limits.MIB
SILENT = 300
HELLO = m.Hello((1, 1), bytes(range(16)), bytes(16), (), 2, "stranger")
BLOCKS = (m.BlockInfo(serving_host.BLOCK, serving_host.BLOCK_BYTES, 4096),)


class Serving:
    """The process that is sent all this."""

    def __init__(self) -> None:
        script = Path(serving_host.__file__)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self.said()
        self.port = int(self.address.rpartition(":")[2])

    def _read(self) -> None:
        for line in self.output:
            self._lines.put(line.strip())

    def said(self) -> str:
        """The next line that it prints."""
        return self._lines.get(timeout=WAIT_S)

    @property
    def resident_bytes(self) -> int:
        """What it takes of memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    @property
    def connections(self) -> int:
        """Sockets that it holds, the listening one among them."""
        fds = Path(f"/proc/{self.process.pid}/fd")
        targets = []
        for fd in fds.iterdir():
            with contextlib.suppress(FileNotFoundError):
                targets.append(str(fd.readlink()))
        return sum(target.startswith("socket:") for target in targets)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(WAIT_S) == 0
        self.output.close()

    async def serve_a_good_source(self) -> None:
        """A whole migration, from this process."""
        memory = os.urandom(serving_host.BLOCK_BYTES)
        block = BufferBlock(serving_host.BLOCK, bytearray(memory), tracker="none")
        report = await Source(self.address, blocks=[block], options=SourceOptions(channels=2)).run()
        assert report.outcome.value == "completed"
        assert self.said() == "completed"

    @contextlib.contextmanager
    def attached(self, ends: str = "failed") -> Iterator[WireSource]:
        """A source that is written by hand, with its channels attached. Its session ends in this way, and it alone."""
        source = WireSource(self.port)
        try:
            source.attach(BLOCKS)
            yield source
        finally:
            source.close()
        assert self.said().startswith(ends)


@pytest.fixture(scope="module")
def process() -> Iterator[Serving]:
    """One for all tests here: each leaves it as it found it."""
    serving = Serving()
    yield serving
    serving.close()


@pytest.fixture
async def serving(process: Serving) -> Serving:
    """It has served one source before anything is measured."""
    await process.serve_a_good_source()
    return process


@contextlib.contextmanager
def connected(port: int, count: int, data: Callable[[int], bytes]) -> Iterator[list[socket.socket]]:
    """So many connections, each with its first bytes written; refused ones are none."""
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
            with contextlib.suppress(ConnectionError):  # it may be dropped while it is written to
                connection.sendall(data(number))
            made.append(connection)
        yield made


def is_dropped(connection: socket.socket) -> bool:
    """Whether the destination ends it (within `WAIT_S`, which is above all deadlines for strangers)."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True


def frame(length: int, body: bytes = b"") -> bytes:
    """A frame that says that it is so long."""
    return struct.pack(">IQ", length, 0) + body


def noise(number: int) -> bytes:
    return random.Random(number).randbytes(1 << 16)


STRANGERS: dict[str, Callable[[int], bytes]] = {
    "random bytes": noise,
    "a main that goes on with random bytes": lambda number: MAIN_PREAMBLE + noise(number),
    "a role that there is not": lambda _: MAIN_PREAMBLE[:6] + b"\x03\x00",
    "another version": lambda _: MAIN_PREAMBLE[:4] + b"\x00\x09" + MAIN_PREAMBLE[6:],
    "reserved bytes that are set": lambda _: MAIN_PREAMBLE[:7] + b"\x01",
    "a frame that is too long": lambda _: MAIN_PREAMBLE + frame(limits.FRAME_BYTES_MAX + 1),
    "a first frame that is too long": lambda _: MAIN_PREAMBLE + frame(limits.FRAME_BYTES_MAX, bytes(1 << 20)),
    "a frame of all ones": lambda _: MAIN_PREAMBLE + b"\xff" * 100,
    "a frame of nothing": lambda _: MAIN_PREAMBLE + frame(0),
    "a frame with a wrong checksum": lambda _: MAIN_PREAMBLE + frame(5, b"12345"),
    "a data channel of no session": lambda _: DataPreamble(bytes(16), bytes(16), 1).serialize(),
    "a data channel without a number": lambda _: DataPreamble(bytes(16), bytes(16), 1).serialize()[:40] + bytes(8),
    "COMMIT in place of HELLO": lambda _: MAIN_PREAMBLE + serialize(m.Commit()),
    "HELLO and then random bytes": lambda number: MAIN_PREAMBLE + serialize(HELLO) + noise(number),
    "HELLO twice": lambda _: MAIN_PREAMBLE + serialize(HELLO) * 2,
    "an OUTCOME that nobody knows": lambda _: MAIN_PREAMBLE + serialize(m.AskOutcome(bytes(16), bytes(16))),
}  # fmt: skip


@pytest.mark.parametrize("data", STRANGERS.values(), ids=STRANGERS.keys())
async def test_garbage_is_dropped_at_once(serving: Serving, data: Callable[[int], bytes]) -> None:
    """Each of twenty connections is ended, none costs anything afterwards, and a good source is served."""
    before = serving.resident_bytes
    with connected(serving.port, 20, data) as connections:
        for connection in connections:
            if data is STRANGERS["an OUTCOME that nobody knows"]:
                connection.shutdown(socket.SHUT_WR)
            assert is_dropped(connection)
    await serving.serve_a_good_source()
    assert serving.resident_bytes - before < GROWTH_BYTES_MAX


PATIENT: dict[str, bytes] = {
    "nothing": b"",
    "half a preamble": MAIN_PREAMBLE[:5],
    "half a data preamble": DataPreamble(bytes(16), bytes(16), 1).serialize()[:30],
    "half a HELLO": MAIN_PREAMBLE + serialize(HELLO)[:-1],
    "most of the longest frame": MAIN_PREAMBLE
    + frame(limits.FIRST_FRAME_BYTES_MAX, bytes(limits.FIRST_FRAME_BYTES_MAX - 1)),
}


@pytest.mark.parametrize("data", PATIENT.values(), ids=PATIENT.keys())
async def test_those_who_say_half_of_it_are_bounded(serving: Serving, data: bytes) -> None:
    """Three hundred that never come to an end: they are held for a while, and then they are not, and good sources are
    served meanwhile and afterwards.
    """
    before = serving.resident_bytes
    with connected(serving.port, SILENT, lambda _: data) as connections:
        await serving.serve_a_good_source()
        assert serving.connections <= limits.PENDING_CONNECTIONS_MAX + 10
        assert serving.resident_bytes - before < GROWTH_BYTES_MAX
        assert is_dropped(connections[0])
        assert is_dropped(connections[-1])
    await serving.serve_a_good_source()
    assert serving.resident_bytes - before < GROWTH_BYTES_MAX


async def test_those_who_say_hello_and_no_more_are_bounded(serving: Serving) -> None:
    """The oldest of them go; a session whose state flows is none of them, however many come after it."""
    before = serving.resident_bytes
    hello = MAIN_PREAMBLE + serialize(HELLO)
    with connected(serving.port, 3, lambda _: hello) as early, serving.attached() as good:
        for connection in early:
            connection.recv(1 << 16)  # its HELLO: they were first
        with connected(serving.port, 3 * limits.HANDSHAKES_MAX, lambda _: hello) as connections:
            assert is_dropped(early[0])
            assert is_dropped(connections[2 * limits.HANDSHAKES_MAX - 1])
            assert serving.connections <= limits.HANDSHAKES_MAX + 10
            good.tell(m.Sync("ram", 1, (0, 0)))
            assert good.until(m.SyncDone) == m.SyncDone("ram", 1)
            assert serving.resident_bytes - before < GROWTH_BYTES_MAX
    await serving.serve_a_good_source()


def hello_and_large_inventory() -> bytes:
    """As much as one INVENTORY may count, but for its last page."""
    count = limits.INVENTORY_BYTES_MAX // (limits.INVENTORY_ITEM_BYTES + 8)
    pages = -(-count // limits.ITEMS_MAX)
    made = [MAIN_PREAMBLE, serialize(HELLO)]
    for page in range(1, pages):
        names = range(page * limits.ITEMS_MAX, (page + 1) * limits.ITEMS_MAX)
        blocks = tuple(m.BlockInfo(f"{name:08}", 1 << 40, 4096) for name in names)
        made.append(serialize(m.Inventory(page, pages, blocks, (), (), preflight=False)))
    return b"".join(made)


async def test_large_inventories_are_bounded_in_all(serving: Serving) -> None:
    """Of three at a time two at least are dropped, however their pages interleave, and good sources are served."""
    before = serving.resident_bytes
    large = hello_and_large_inventory()
    with connected(serving.port, 3, lambda _: large) as connections:
        held = list(connections)
        while len(held) > 1:
            ready, _, _ = select.select(held, [], [], WAIT_S)
            assert ready, "more are held than there is room for"
            for connection in ready:
                if not has_more(connection):
                    held.remove(connection)
            assert serving.resident_bytes - before < GROWTH_BYTES_MAX
        await serving.serve_a_good_source()
    await serving.serve_a_good_source()
    assert serving.resident_bytes - before < GROWTH_BYTES_MAX


def has_more(connection: socket.socket) -> bool:
    """Whether something was received that is no end."""
    with contextlib.suppress(ConnectionError):
        return bool(connection.recv(1 << 16))
    return False


def slot(meta: bytes, payload_length: int, *, kind: int = 1, owner: int = 1, sequence: int = 1) -> bytes:
    """A header with its right checksum, and its meta."""
    header = SlotHeader(
        codec=1, live=False, kind=kind, owner=owner, sequence=sequence, meta_length=len(meta),
        payload_length=payload_length, length=payload_length, payload_checksum=0,
    )  # fmt: skip
    return serialize_header(header, meta) + meta


ATTACKS: dict[str, tuple[bytes, str]] = {
    "every length at its maximum": (slot(bytes(limits.META_BYTES_MAX), limits.SLOT_BYTES_MAX), "extent"),
    "every length beyond its maximum": (slot(b"", 0)[:24] + b"\xff" * 12 + bytes(28), "slot.meta_length"),
    "random bytes": (noise(1), "slot.magic"),
    "a block that there is not": (slot(bytes(8) + b"\0" * 7 + b"\1", 1, owner=9), "slot owner"),
    "a kind that there is not": (slot(b"", 0, kind=9), "slot.kind"),
    "a sequence that is not the next": (slot(b"", 0, sequence=2), "slot.sequence"),
    "zeros beyond the block": (slot(bytes(8) + b"\xff" * 8, 0, kind=2), "extent"),
}


@pytest.mark.parametrize(("data", "words"), ATTACKS.values(), ids=ATTACKS.keys())
async def test_a_source_that_attached_can_only_end_its_own_session(serving: Serving, data: bytes, words: str) -> None:
    """The session is aborted with what was wrong; nothing grows, and the next source is served."""
    before = serving.resident_bytes
    with serving.attached() as source:
        source.channels[0].sendall(data)
        aborted = source.until(m.Aborted)
        assert isinstance(aborted, m.Aborted)
        assert aborted.code is Code.PROTOCOL
        assert words in aborted.cause
    assert serving.resident_bytes - before < GROWTH_BYTES_MAX
    await serving.serve_a_good_source()


async def test_a_slot_that_never_ends_takes_no_memory(serving: Serving) -> None:
    """The largest slot is announced and stops half way on both channels: what is held is the block's own memory."""
    before = serving.resident_bytes
    half = limits.SLOT_BYTES_MAX // 2
    with serving.attached() as source:
        for number, channel in enumerate(source.channels):
            meta = pack(np.array([[number * limits.SLOT_BYTES_MAX, limits.SLOT_BYTES_MAX]], dtype=np.int64))
            channel.sendall(slot(meta, limits.SLOT_BYTES_MAX) + bytes(half))
        source.tell(m.Sync("ram", 1, (0, 0)))
        assert source.until(m.SyncDone) == m.SyncDone("ram", 1)
        assert serving.resident_bytes - before < GROWTH_BYTES_MAX
    await serving.serve_a_good_source()


async def test_a_main_connection_out_of_turn_ends_its_own_session(serving: Serving) -> None:
    """Messages that no state admits, and frames that are none, after the channels are attached."""
    for data in (serialize(m.Commit()), serialize(m.Sync("ram", 9, (0, 0))), frame(limits.FRAME_BYTES_MAX + 1)):
        with serving.attached() as source:
            source.main.sendall(data)
            aborted = source.until(m.Aborted)
            assert isinstance(aborted, m.Aborted)
            assert aborted.code is Code.PROTOCOL
    await serving.serve_a_good_source()


async def test_nobody_else_attaches_to_a_session(serving: Serving) -> None:
    """With a wrong secret, a number that was not granted, or one that is attached: dropped; the session goes on."""
    with serving.attached() as source:
        for secret, channel in ((bytes(16), 1), (source.secret, 3), (source.secret, 1)):
            preamble = DataPreamble(source.session, secret, channel).serialize()
            with connected(serving.port, 1, lambda _, preamble=preamble: preamble) as (stranger,):  # type: ignore[misc]
                assert is_dropped(stranger)
        source.tell(m.Sync("ram", 1, (0, 0)))
        assert source.until(m.SyncDone) == m.SyncDone("ram", 1)
    await serving.serve_a_good_source()


COMMIT = serialize(m.Commit())
CANCEL = serialize(m.Cancel(Code.CANCELLED, "after all"))


@pytest.mark.parametrize(
    "more",
    [CANCEL, COMMIT, frame(limits.FRAME_BYTES_MAX + 1), b"x" * 99],
    ids=["CANCEL", "COMMIT", "a frame that is too long", "random bytes"],
)
async def test_nothing_that_follows_commit_undoes_it(serving: Serving, more: bytes) -> None:
    """The destination starts, and says so, or never saw COMMIT, and says so: what it says is what it does."""
    with contextlib.closing(WireSource(serving.port)) as source:
        source.attach(BLOCKS)
        source.load()
        source.main.sendall(COMMIT + more)
        answer = source.next()
    assert isinstance(answer, m.Started | m.Aborted)
    assert serving.said().split()[0] == ("completed" if isinstance(answer, m.Started) else "failed")
    assert isinstance(answer, m.Started) or more not in (CANCEL, COMMIT)
    await serving.serve_a_good_source()


async def test_a_source_that_crashes_after_commit_finds_the_answer(serving: Serving) -> None:
    """Main is reset with COMMIT on it, before STARTED can be written: it starts all the same, and can be asked."""
    with serving.attached(ends="completed") as source:
        source.load()
        source.tell(m.Commit())
        source.reset()
        question = MAIN_PREAMBLE + serialize(m.AskOutcome(source.session, source.secret))
        with connected(serving.port, 1, lambda _: question) as (asking,):
            (answer,) = ControlReader().feed(asking.recv(1 << 16))
    assert answer == m.OutcomeIs(m.Fate.STARTED, "")
    await serving.serve_a_good_source()
