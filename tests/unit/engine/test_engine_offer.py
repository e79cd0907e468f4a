"""What a source offers, held against what is here: every reason against it, not the first."""

from __future__ import annotations

from collections.abc import Sequence

from posted import SmallDevice

from multifd import limits
from multifd import messages as m
from multifd.engine.offer import Offer, Provider
from multifd.engine.offer import decide as decide_into
from multifd.errors import Code, StorageError
from multifd.memory import Block, BufferBlock
from multifd.session.actions import Decide
from multifd.slot import SlotKind

PAGE = 4096


def decide(
    action: Decide, blocks: Sequence[Block] | Provider, devices: Sequence[SmallDevice], kinds: Sequence[SlotKind]
) -> Offer:
    offer = Offer()
    decide_into(offer, action, blocks=blocks, devices=devices, kinds=kinds)
    return offer


class LogKind(SlotKind):
    """A user's kind."""

    name = "acme/log"

    def place(self, owner: int, meta: bytes, length: int) -> list[memoryview]:
        return []

    def commit(self, owner: int, meta: bytes, buffers: object) -> None: ...


class Closing(BufferBlock):
    """A block that counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


def block(name: str, length: int = PAGE) -> BufferBlock:
    return BufferBlock(name, bytearray(length), tracker="none")


def small(name: str, *, explicit: bool = True, check: object = None) -> SmallDevice:
    """A device that says `check` of any source's."""
    device = SmallDevice()
    device.id = name
    device.explicit_switchover = explicit

    def answer(token: str, schema_version: int) -> str | None:
        if isinstance(check, Exception):
            raise check
        assert check is None or isinstance(check, str)
        return check

    device.check = answer  # type: ignore[method-assign]
    return device


def info(name: str, *, explicit: bool = True) -> m.DeviceInfo:
    return m.DeviceInfo(name, 0, 1, "", explicit, None)


def offered(
    *, blocks: tuple[m.BlockInfo, ...] = (), devices: tuple[m.DeviceInfo, ...] = (), kinds: tuple[str, ...] = ()
) -> Decide:
    return Decide(blocks, devices, tuple(m.KindInfo(name) for name in kinds), preflight=False)


def test_what_fits_is_taken_in_the_order_of_the_offer() -> None:
    """Numbers are places in INVENTORY, whatever order things are here in."""
    here = [block("b"), block("a", 8192)]
    devices = [small("gpu"), small("nic")]
    offer = decide(
        offered(
            blocks=(m.BlockInfo("a", 8192, PAGE), m.BlockInfo("b", PAGE, PAGE)),
            devices=(info("nic"), info("gpu", explicit=False)),
            kinds=("ram", "zero", "device-chunk", "acme/log"),
        ),
        here,
        devices,
        [LogKind()],
    )
    refusals, verdicts = offer.verdict(explicit=True, credit=100)
    assert refusals == []
    assert verdicts == [m.DeviceVerdict(True, 100), m.DeviceVerdict(False, 100)]
    assert offer.blocks == here[::-1]
    assert offer.devices == devices[::-1]


def test_all_reasons_are_found_at_once() -> None:
    """Blocks, devices and kinds; what is missing here, what is missing there, and what does not fit."""
    sizes = {"missing": 1, "short": 2 * PAGE, "good": PAGE}
    offer = decide(
        offered(
            blocks=tuple(m.BlockInfo(name, size, PAGE) for name, size in sizes.items()),
            devices=(info("missing"), info("old"), info("unable"), info("broken"), info("good")),
            kinds=("ram", "acme/log", "acme/other"),
        ),
        [block("short"), block("good"), block("extra")],
        [
            small("old", check="version 1 here"),
            small("unable", explicit=False),
            small("broken", check=KeyError("model")),
            small("good"),
            small("extra"),
        ],
        [],
    )  # fmt: skip
    refusals, verdicts = offer.verdict(explicit=True, credit=100)
    assert [(each.what.name, each.name, each.code) for each in refusals] == [
        ("BLOCK", "missing", Code.REFUSED),
        ("BLOCK", "short", Code.REFUSED),
        ("BLOCK", "extra", Code.REFUSED),
        ("DEVICE", "extra/0", Code.REFUSED),
        ("KIND", "acme/log", Code.REFUSED),
        ("KIND", "acme/other", Code.REFUSED),
        ("DEVICE", "missing/0", Code.REFUSED),
        ("DEVICE", "old/0", Code.DEVICE),
        ("DEVICE", "unable/0", Code.FEATURE),
        ("DEVICE", "broken/0", Code.DEVICE),
    ]
    causes = {each.name: each.cause for each in refusals}
    assert causes["short"] == "8192 bytes at the source, 4096 here"
    assert causes["old/0"] == "version 1 here"
    assert causes["broken/0"] == "its check failed: KeyError: 'model'"
    assert [verdict.takes_part for verdict in verdicts] == [False, False, False, False, True]


def test_without_the_feature_no_device_must_be_able_to_do_it() -> None:
    """Explicit switchover that is off is no reason against anybody."""
    offer = decide(offered(devices=(info("nic"),)), [], [small("nic", explicit=False)], [])
    assert offer.verdict(explicit=False, credit=7) == ([], [m.DeviceVerdict(False, 7)])


def test_devices_are_paired_by_id_and_instance() -> None:
    """The same id with another instance is another device."""
    second = m.DeviceInfo("nic", 1, 1, "", True, None)
    offer = decide(offered(devices=(second,)), [], [small("nic")], [])
    refusals, _ = offer.verdict(explicit=True, credit=1)
    assert [each.name for each in refusals] == ["nic/0", "nic/1"]


def test_a_provider_makes_blocks_and_refuses_with_its_reason() -> None:
    """All are asked for, whatever one says; what it made is closed with the session, and once."""
    made: list[Closing] = []

    def provide(wanted: m.BlockInfo) -> Block:
        if wanted.name == "bad":
            raise StorageError("no space left")
        made.append(Closing(wanted.name, bytearray(wanted.length), tracker="none"))
        return made[-1]

    infos = tuple(m.BlockInfo(name, PAGE, PAGE) for name in ("a", "bad", "b"))
    offer = decide(offered(blocks=infos), provide, [], [])
    assert [(each.name, each.code, each.cause) for each in offer.refusals] == [("bad", Code.STORAGE, "no space left")]
    assert [each.name for each in offer.blocks] == ["a", "b"]
    offer.release()
    assert [each.closed for each in made] == [1, 1]


def test_blocks_that_were_given_are_not_ours_to_close() -> None:
    """They belong to whoever made them."""
    given = Closing("a", bytearray(PAGE), tracker="none")
    offer = decide(offered(blocks=(m.BlockInfo("a", PAGE, PAGE),)), [given], [], [])
    offer.release()
    assert given.closed == 0


def test_a_provider_that_fails_otherwise_refuses_too() -> None:
    """Its own mistakes are reasons, in words; what it made before them is closed."""
    made: list[Closing] = []

    def provide(wanted: m.BlockInfo) -> Block:
        if wanted.name == "bad":
            raise ValueError("a page size of 3")
        made.append(Closing(wanted.name, bytearray(wanted.length), tracker="none"))
        return made[-1]

    offer = decide(offered(blocks=tuple(m.BlockInfo(name, PAGE, PAGE) for name in ("a", "bad", "b"))), provide, [], [])
    assert [(each.name, each.code, each.cause) for each in offer.refusals] == [
        ("bad", Code.INTERNAL, "its provider failed: ValueError: a page size of 3")
    ]
    offer.release()
    assert [each.closed for each in made] == [1, 1]


def test_an_offer_released_while_it_is_decided_keeps_nothing() -> None:
    """What was made is closed, what is being made is closed as soon as it is there, and nothing more is asked for."""
    made: list[Closing] = []
    offer = Offer()

    def provide(wanted: m.BlockInfo) -> Block:
        made.append(Closing(wanted.name, bytearray(wanted.length), tracker="none"))
        if wanted.name == "b":
            offer.release()  # as the loop does meanwhile
        return made[-1]

    infos = tuple(m.BlockInfo(name, PAGE, PAGE) for name in ("a", "b", "c"))
    decide_into(offer, offered(blocks=infos), blocks=provide, devices=[], kinds=[])
    offer.release()
    assert [(each.name, each.closed) for each in made] == [("a", 1), ("b", 1)]


def test_no_more_reasons_are_kept_than_fit_a_verdict() -> None:
    """However many names are offered that there are not here."""
    infos = tuple(m.BlockInfo(str(number), PAGE, PAGE) for number in range(limits.ITEMS_MAX + 1))
    assert len(decide(offered(blocks=infos), [], [], []).refusals) == limits.ITEMS_MAX
