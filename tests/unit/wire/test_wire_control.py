"""Frames of the main channel: bounds of memory, and what this side does not write. The vectors hold the messages."""

import msgpack  # type: ignore[import-untyped]
import pytest
import xxhash

from multifd import messages as m
from multifd.errors import Code, LocalProtocolError, RemoteProtocolError
from multifd.limits import FRAME_BYTES_MAX, ITEMS_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX
from multifd.wire.control import FRAME_HEAD_BYTES, ControlReader, serialize


def frame(body: bytes) -> bytes:
    """A frame made without our code."""
    length = len(body).to_bytes(4, "big")
    return length + xxhash.xxh3_64_intdigest(length + body).to_bytes(8, "big") + body


def buffered(reader: ControlReader) -> int:
    return len(reader._buffer)  # what the reader holds is the claim here


def test_length_is_refused_before_anything_is_kept() -> None:
    """Four bytes of a length above the bound are enough for the error, and nothing stays in memory."""
    reader = ControlReader()
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    assert caught.value.where == "frame.length"
    assert buffered(reader) == 0


def test_holds_one_frame_at_most() -> None:
    """What waits for more is never a whole frame, however much is fed at once."""
    reader = ControlReader()
    data = serialize(m.Commit())
    assert len(reader.feed(data * 1000 + data[:-1])) == 1000
    assert buffered(reader) == len(data) - 1
    assert reader.feed(data[-1:]) == [m.Commit()]
    assert buffered(reader) == 0


def test_frame_of_the_largest_length_is_read() -> None:
    """The bound of a body is inclusive, and its last byte completes it."""
    padding = [bytes(TEXT_BYTES_MAX)] * 255
    body = msgpack.packb({"type": 15, "x": padding, "y": b""})
    body = msgpack.packb({"type": 15, "x": padding, "y": bytes(FRAME_BYTES_MAX - len(body) - 1)})
    assert len(body) == FRAME_BYTES_MAX
    reader = ControlReader()
    assert reader.feed(frame(body)[:-1]) == []
    assert buffered(reader) == FRAME_HEAD_BYTES + FRAME_BYTES_MAX - 1
    assert reader.feed(body[-1:]) == [m.Commit()]


def refusing(cause_bytes: int) -> m.Verdict:
    """A VERDICT of about a mebibyte, each byte of the last cause being a byte of its body."""
    lengths = [TEXT_BYTES_MAX] * 253 + [2000, cause_bytes]
    refusals = [m.Refusal(m.What.BLOCK, "b", Code.REFUSED, "c" * length) for length in lengths]
    return m.Verdict(accepted=False, channels=0, refusals=tuple(refusals), devices=())


def test_body_beyond_the_bound_is_not_written() -> None:
    """A body of the largest length is written and read; with one byte more it is this side's error."""
    room = FRAME_BYTES_MAX + FRAME_HEAD_BYTES - len(serialize(refusing(256)))
    verdict = refusing(256 + room)
    assert ControlReader().feed(serialize(verdict)) == [verdict]
    with pytest.raises(LocalProtocolError) as caught:
        serialize(refusing(256 + room + 1))
    assert caught.value.where == "VERDICT"


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (m.Hello((2, 1), bytes(16), bytes(16), (), 1, ""), "HELLO.versions"),
        (m.Hello((1, 1), bytes(15), bytes(16), (), 1, ""), "HELLO.session"),
        (m.Hello((1, 1), bytes(16), bytes(16), ("",), 1, ""), "HELLO.features[0]"),
        (m.Hello((1, 1), bytes(16), bytes(16), [], 1, ""), "HELLO.features"),  # type: ignore[arg-type]
        (m.Inventory(2, 1, (), (), (), preflight=False), "INVENTORY.page"),
        (m.Inventory(1, 1, (m.BlockInfo("b", 0, 1000),), (), (), preflight=False), "INVENTORY.blocks[0].page_size"),
        (m.Inventory(1, 1, (m.KindInfo("b"),), (), (), preflight=False), "INVENTORY.blocks[0]"),  # type: ignore[arg-type]
        (m.Inventory(1, 1, (), (), (m.KindInfo("k"),) * (ITEMS_MAX + 1), preflight=False), "INVENTORY.kinds"),
        (m.Inventory(1, 1, (), (), (m.KindInfo("é" * 513),), preflight=False), "INVENTORY.kinds[0].name"),
        (m.Verdict(accepted=True, channels=0, refusals=(), devices=()), "VERDICT.channels"),
        (m.Attached(0), "ATTACHED.channels"),
        (m.Sync("", 1, (1,)), "SYNC.class"),
        (m.SyncDone("ram", 0), "SYNC_DONE.round"),
        (m.Settled((True,)), "SETTLED.counts[0]"),
        (m.Resend(1, 2**64), "RESEND.sequence"),
        (m.Credit(1, -1), "CREDIT.bytes"),
        (m.DeviceStatus(1, 1, 1, 0, 0.0, 0.0, ""), "DEVICE_STATUS.ready"),  # type: ignore[arg-type]
        (m.DeviceStatus(1, 1, True, 0, float("nan"), 0.0, ""), "DEVICE_STATUS.load_s"),
        (m.DeviceStatus(1, 1, True, 0, 0.0, 1e9 + 1, ""), "DEVICE_STATUS.setup_s"),
        (m.DeviceStatus(1, 1, True, 0, 0.0, 0.0, "\ud800"), "DEVICE_STATUS.doing"),
        (m.SwitchoverReady({0: 1}), "SWITCHOVER_READY.epochs[0]"),
        (m.StopCopy({1: 0}), "STOP_COPY.epochs[1]"),
        (m.StopCopy(None), "STOP_COPY.epochs"),  # type: ignore[arg-type]
        (m.End((1,), dict.fromkeys(range(1, ITEMS_MAX + 2), 1), 0), "END.chunks"),
        (m.Loaded({"x": "1"}), "LOADED.parts['x']"),  # type: ignore[dict-item]
        (m.Started({"x" * (NAME_BYTES_MAX + 1): 1.0}), "STARTED.parts['xxx"),
        (m.Aborted(9, "x"), "ABORTED.code"),  # type: ignore[arg-type]
        (m.Cancel(Code.CANCELLED, "x" * (TEXT_BYTES_MAX + 1)), "CANCEL.cause"),
        (m.AskOutcome(b"", bytes(16)), "OUTCOME.session"),
        (m.OutcomeIs(m.What.BLOCK, ""), "OUTCOME_IS.outcome"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_does_not_write_what_it_would_refuse(message: m.Message, where: str) -> None:
    """A value out of its bounds is this side's error, by message and key."""
    with pytest.raises(LocalProtocolError) as caught:
        serialize(message)
    assert caught.value.where.startswith(where)


def test_every_number_is_read_at_its_bounds() -> None:
    """Bounds are inclusive on both ends, in both directions."""
    for message in (
        m.Hello((1, 65535), bytes(16), bytes(16), ("x" * NAME_BYTES_MAX,), 2**32 - 1, "x" * TEXT_BYTES_MAX),
        m.Inventory(64, 64, (m.BlockInfo("é" * 512, 2**64 - 1, 2**30),), (), (), preflight=False),
        m.Settled((0,) * 64),
        m.Settled((2**64 - 1,)),
        m.Resend(64, 2**64 - 1),
        m.StopCopy({2**32 - 1: 2**32 - 1}),
        m.StopCopy({n: n for n in range(1, ITEMS_MAX + 1)}),
        m.DeviceStatus(1, 1, True, 0, 0.0, 1e9, ""),
    ):
        assert ControlReader().feed(serialize(message)) == [message]


def test_deep_nesting_is_refused_however_deep() -> None:
    """Half a million nested arrays are an error, not a crash: neither the decoder nor the message about it recurses."""
    for depth in (9, 600, 1500, FRAME_BYTES_MAX // 2):
        body = b"\x82\xa4type\x0f\xa1x" + b"\x91" * depth + b"\x01"
        for whole in (body, b"\x91" * depth + b"\x01"):
            with pytest.raises(RemoteProtocolError) as caught:
                ControlReader().feed(frame(whole))
            assert caught.value.where == "frame.body"
            assert len(str(caught.value)) < 300
