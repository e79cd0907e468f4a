"""The sending end of one channel of QEMU's dialect: a worker thread that turns pages into packets (proto/qemu.md
section 6) and packets into bytes on a socket.

All channels of a source draw from one queue of pages, so that whichever has room takes the next packet. Fields are
grouped by owner; counters are plain ints, written by the worker, read at any time.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from multifd import limits
from multifd.codec.streams import Encoder, create_encoder
from multifd.elements import Compression, Offsets, RamPacket
from multifd.engine.channel_worker import ChannelWorker
from multifd.engine.events import EventQueue
from multifd.engine.mailbox import Closed, Mailbox
from multifd.engine.transport import DataSocket
from multifd.qemu.memory_target import page_views
from multifd.qemu.packets import PageRun, Pages
from multifd.qemu.report import ChannelTally
from multifd.wire.qemu_packet import RunWriter, serialize_ram_header

_NO_PAGES: Offsets = np.empty(0, dtype=np.int64)
_ZEROS = memoryview(bytes(limits.QEMU_PACKET_BYTES))
_TASKS_MAX = 4  # a round and its SYNC, twice


class PageQueue:
    """*any*: the pages of a round, for all channels to draw from."""

    def __init__(self, pages: Iterator[Pages | PageRun]) -> None:
        self._pages = pages
        self._lock = threading.Lock()

    def take(self) -> Pages | PageRun | None:
        """The next; None when there are no more. Raises what making them raises."""
        with self._lock:
            return next(self._pages, None)


class PacketNumbers:
    """*any*: one counter over all channels."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def next(self) -> int:
        """The next number; one call is atomic."""
        return next(self._numbers)


@dataclass(frozen=True, slots=True)
class Sync:
    """To be sent after everything that was handed over before."""


Task = PageQueue | Sync


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A channel has written all that there was of a task."""

    channel: int
    sync: bool


@dataclass(frozen=True, slots=True)
class ChannelFailed:
    """The worker has ended with this error."""

    channel: int
    error: Exception


ChannelEvent = TaskDone | ChannelFailed


class QemuChannelSender(ChannelWorker):
    """One channel of a source of QEMU's dialect. The handshake has been sent when the worker begins."""

    def __init__(
        self,
        number: int,
        connection: DataSocket,
        *,
        page_size: int,
        compression: Compression,
        numbers: PacketNumbers,
        events: EventQueue[ChannelEvent],
    ) -> None:
        # set once
        super().__init__(number, connection, doing="qemu-send")
        self._page_size = page_size
        self._compression = compression
        self._numbers = numbers
        self._events = events
        self._tasks: Mailbox[Task] = Mailbox(_TASKS_MAX)
        # worker's; read by the loop
        self.tally = ChannelTally()
        self._encoder: Encoder | None = create_encoder(compression)
        self._runs = RunWriter(page_size)
        self._buffer = memoryview(bytearray(limits.QEMU_PACKET_BYTES))

    def put(self, task: Task) -> None:
        """*loop*: hand over a task."""
        self._tasks.put_now(task)

    def cancel(self, *, orderly: bool = False) -> None:
        """*loop*: end now, wherever it is; see `ChannelWorker.cancel`."""
        self._tasks.close(drop=True)
        super().cancel(orderly=orderly)

    # -- worker

    def _run(self) -> None:
        try:
            while True:
                for task in self._tasks.take():
                    if isinstance(task, Sync):
                        self._send_sync()
                    else:
                        self._drain(task)
                    self._events.post(TaskDone(self.number, isinstance(task, Sync)))
        except Closed:
            return
        except Exception as error:  # whatever it is, the loop must hear of it
            self._events.post(ChannelFailed(self.number, error))

    def _drain(self, queue: PageQueue) -> None:
        while (pages := queue.take()) is not None:
            if isinstance(pages, Pages):
                self._send_pages(pages)
            elif self._encoder is None:
                self._send_run(pages)
            else:
                for each in pages.packets(self._page_size):
                    self._send_pages(each)

    def _send_run(self, run: PageRun) -> None:
        """As `_send_pages` without compression, with less to do."""
        tally, contents = self.tally, run.contents
        for offset, length in run.pieces():
            header = self._runs.serialize(run.block, offset, length, number=self._numbers.next())
            if contents.file is None or contents.is_mapped:
                view = contents.view[offset : offset + length]
            else:
                view = self._buffer[:length]
                contents.file.read_run(offset, view)
            self._socket.send((header, view))
            tally.packets += 1
            tally.normal_pages += length // self._page_size
            tally.payload_bytes += length
            tally.wire_bytes += len(header) + length

    def _contents(self, pages: Pages) -> Sequence[memoryview]:
        """What is in its normal pages, neighbours joined."""
        contents = pages.contents
        if contents is None:
            return (_ZEROS[: len(pages.normal) * self._page_size],)
        if contents.file is None or (contents.is_mapped and self._encoder is None):
            return page_views(contents.view, pages.normal, self._page_size)
        return (contents.file.read(pages.normal, self._buffer),)

    def _send_pages(self, pages: Pages) -> None:
        views = self._contents(pages)
        payload: Sequence[memoryview | bytes] = views
        count = len(pages.normal)
        size = count * self._page_size
        if self._encoder is not None and count:
            payload = (self._encoder.encode(views),)
            size = len(payload[0])
        header = serialize_ram_header(
            RamPacket(
                pages.block,
                pages.normal,
                pages.zero,
                number=self._numbers.next(),
                compression=self._compression,
                payload_bytes=size,
            ),
            self._page_size,
        )
        self._socket.send((header, *payload))
        tally = self.tally
        tally.packets += 1
        tally.normal_pages += count
        tally.zero_pages += len(pages.zero)
        tally.payload_bytes += size
        tally.wire_bytes += len(header) + size

    def _send_sync(self) -> None:
        sync = RamPacket("", _NO_PAGES, _NO_PAGES, number=self._numbers.next(), sync=True)
        header = serialize_ram_header(sync, self._page_size)
        self._socket.send((header,))
        self.tally.syncs += 1
        self.tally.wire_bytes += len(header)
