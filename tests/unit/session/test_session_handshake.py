"""The set-up's decisions: version, features, INVENTORY in pages, and which devices are taken and take part."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from multifd import limits
from multifd.errors import Code, LocalProtocolError, RefusedError, RemoteProtocolError
from multifd.messages import BlockInfo, DeviceInfo, DeviceVerdict, Inventory, KindInfo, Refusal, What
from multifd.session.handshake import (
    PAGE_BYTES_MAX,
    DeviceOffer,
    InventoryBuilder,
    check_features,
    choose_version,
    decide_devices,
    fit_refusals,
    paginate,
)

BLOCK = BlockInfo("pc.ram", 1 << 30, 4096)
DEVICE = DeviceInfo("gpu", 0, 1, "acme/gpu;1", explicit_switchover=True, expected_bytes=None)
KIND = KindInfo("ram")
PAGE = Inventory(1, 1, (BLOCK,), (DEVICE,), (KIND,), preflight=False)


@pytest.mark.parametrize(
    ("ours", "theirs", "version"), [((1, 1), (1, 1), 1), ((1, 3), (2, 9), 3), ((2, 9), (1, 3), 3), ((1, 5), (2, 2), 2)]
)
def test_version_is_the_highest_common(ours: tuple[int, int], theirs: tuple[int, int], version: int) -> None:
    """The highest in both ranges."""
    assert choose_version(ours, theirs) == version


@pytest.mark.parametrize(("ours", "theirs"), [((1, 1), (2, 3)), ((4, 5), (2, 3))])
def test_no_common_version_names_both_ranges(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    """Refused with code version, and both ranges in the text."""
    with pytest.raises(RefusedError) as caught:
        choose_version(ours, theirs)
    (refusal,) = caught.value.refusals
    assert (refusal.what, refusal.name, refusal.code) == (What.SESSION, "version", Code.VERSION)
    for number in (*ours, *theirs):
        assert str(number) in refusal.cause


@pytest.mark.parametrize("theirs", [(2, 1), (0, 1), (0, 0)])
def test_malformed_version_range_is_the_peers_fault(theirs: tuple[int, int]) -> None:
    """A range upside down or from zero is no range."""
    with pytest.raises(RemoteProtocolError, match=r"HELLO\.versions"):
        choose_version((1, 1), theirs)


def test_every_missing_feature_is_named() -> None:
    """One refusal for each; features that only the destination has do not matter."""
    check_features([], ["lz4"])
    check_features(["lz4"], ["lz4", "zstd"])
    with pytest.raises(RefusedError) as caught:
        check_features(["zstd", "lz4", "explicit-switchover", "zstd"], ["lz4"])
    assert [refusal.name for refusal in caught.value.refusals] == ["explicit-switchover", "zstd"]
    assert {(refusal.what, refusal.code) for refusal in caught.value.refusals} == {(What.SESSION, Code.FEATURE)}


def test_builder_concatenates_pages() -> None:
    """Whole after the last page, in order."""
    builder = InventoryBuilder()
    more = replace(BLOCK, name="vga.ram")
    assert not builder.handle_page(Inventory(1, 2, (BLOCK,), (DEVICE,), (), preflight=True))
    assert builder.handle_page(Inventory(2, 2, (more,), (replace(DEVICE, instance=1),), (KIND,), preflight=True))
    assert builder.blocks == [BLOCK, more]
    assert [device.name for device in builder.devices] == ["gpu/0", "gpu/1"]
    assert builder.kinds == [KIND]
    assert builder.preflight


def test_builder_takes_an_empty_inventory() -> None:
    """A session may offer nothing at all."""
    builder = InventoryBuilder()
    assert builder.handle_page(Inventory(1, 1, (), (), (), preflight=False))
    assert (builder.blocks, builder.devices, builder.kinds) == ([], [], [])


@pytest.mark.parametrize(
    ("pages", "names"),
    [
        ([replace(PAGE, page=2, pages=2)], r"INVENTORY\.page:"),
        ([replace(PAGE, page=0)], r"INVENTORY\.page:"),
        ([replace(PAGE, pages=0)], r"INVENTORY\.pages"),
        ([replace(PAGE, pages=limits.INVENTORY_PAGES_MAX + 1)], r"INVENTORY\.pages"),
        ([PAGE, PAGE], "the last"),
        ([replace(PAGE, pages=3), Inventory(2, 2, (), (), (), preflight=False)], r"INVENTORY\.pages"),
        ([replace(PAGE, pages=2), Inventory(2, 2, (), (), (), preflight=True)], r"INVENTORY\.preflight"),
        ([replace(PAGE, pages=3), Inventory(3, 3, (), (), (), preflight=False)], r"INVENTORY\.page:"),
        ([replace(PAGE, pages=2), Inventory(1, 2, (), (), (), preflight=False)], r"INVENTORY\.page:"),
        ([replace(PAGE, pages=2), Inventory(2, 2, (BLOCK,), (), (), preflight=False)], r"INVENTORY\.blocks"),
        ([replace(PAGE, pages=2), Inventory(2, 2, (), (DEVICE,), (), preflight=False)], r"INVENTORY\.devices"),
        ([replace(PAGE, pages=2), Inventory(2, 2, (), (), (KIND,), preflight=False)], r"INVENTORY\.kinds"),
        ([replace(PAGE, blocks=(BLOCK, replace(BLOCK, length=1)))], r"INVENTORY\.blocks"),
    ],
)
def test_builder_refuses_wrong_pages(pages: list[Inventory], names: str) -> None:
    """Order, number of pages, preflight, and names that come twice: each is an error that names the field."""
    builder = InventoryBuilder()
    for page in pages[:-1]:
        builder.handle_page(page)
    with pytest.raises(RemoteProtocolError, match=names):
        builder.handle_page(pages[-1])


def test_builder_bounds_devices() -> None:
    """Over all pages no more devices than one VERDICT can answer."""
    builder = InventoryBuilder()
    devices = tuple(replace(DEVICE, instance=instance) for instance in range(limits.ITEMS_MAX))
    builder.handle_page(Inventory(1, 2, (), devices, (), preflight=False))
    with pytest.raises(RemoteProtocolError, match=r"INVENTORY\.devices"):
        builder.handle_page(Inventory(2, 2, (), (replace(DEVICE, id="nic"),), (), preflight=False))


def test_names_of_different_lists_may_be_the_same() -> None:
    """Uniqueness is within blocks, devices (id and instance) and kinds."""
    builder = InventoryBuilder()
    same = Inventory(1, 1, (BlockInfo("x", 0, 4096),), (replace(DEVICE, id="x"),), (KindInfo("x"),), preflight=False)
    assert builder.handle_page(same)


def rebuilt(pages: list[Inventory]) -> InventoryBuilder:
    builder = InventoryBuilder()
    assert [builder.handle_page(page) for page in pages] == [False] * (len(pages) - 1) + [True]
    return builder


def test_paginate_nothing_is_one_page() -> None:
    """An empty INVENTORY is one page, and says whether it is a preflight."""
    assert paginate([], [], [], preflight=True) == [Inventory(1, 1, (), (), (), preflight=True)]


def test_paginate_and_builder_are_a_pair() -> None:
    """What goes in comes out, in order, over as many pages as the number of items needs."""
    blocks = [replace(BLOCK, name=f"b{number}") for number in range(limits.ITEMS_MAX - 1)]
    devices = [replace(DEVICE, instance=number) for number in range(3)]
    pages = paginate(blocks, devices, [KIND], preflight=False)
    assert len(pages) == 2
    assert all(len(page.blocks) + len(page.devices) + len(page.kinds) <= limits.ITEMS_MAX for page in pages)
    builder = rebuilt(pages)
    assert (builder.blocks, builder.devices, builder.kinds) == (blocks, devices, [KIND])
    assert not builder.preflight


def test_paginate_keeps_pages_below_a_frame() -> None:
    """Long names and tokens, of more than one byte a character, make more pages."""
    token = "\u00e4" * (limits.TEXT_BYTES_MAX // 2)
    devices = [replace(DEVICE, token=token, instance=number) for number in range(500)]
    pages = paginate([], devices, [], preflight=False)
    assert max(sum(len(device.token.encode()) for device in page.devices) for page in pages) <= PAGE_BYTES_MAX
    assert len(pages) <= 6
    assert rebuilt(pages).devices == devices


@pytest.mark.parametrize(
    "call",
    [
        lambda: paginate([BLOCK, BLOCK], [], [], preflight=False),
        lambda: paginate([], [DEVICE, replace(DEVICE, token="")], [], preflight=False),
        lambda: paginate([], [replace(DEVICE, instance=i) for i in range(limits.ITEMS_MAX + 1)], [], preflight=False),
    ],
)
def test_paginate_refuses_what_a_destination_would(call: Callable[[], object]) -> None:
    """Names twice and too many devices are found before anything is sent."""
    with pytest.raises(LocalProtocolError):
        call()


def test_paginate_bounds_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pages than INVENTORY may have are this side's fault."""
    monkeypatch.setattr(limits, "INVENTORY_PAGES_MAX", 2)
    monkeypatch.setattr(limits, "ITEMS_MAX", 2)
    blocks = [replace(BLOCK, name=str(number)) for number in range(5)]
    assert len(paginate(blocks[:4], [], [], preflight=False)) == 2
    with pytest.raises(LocalProtocolError, match="pages"):
        paginate(blocks, [], [], preflight=False)


@pytest.mark.parametrize(
    ("explicit", "at_source", "here", "takes_part", "refused"),
    [
        (True, True, True, True, False),
        (True, True, False, False, True),
        (True, False, True, False, False),
        (True, False, False, False, False),
        (False, True, True, False, False),
        (False, True, False, False, False),
        (False, False, True, False, False),
        (False, False, False, False, False),
    ],
)
def test_who_takes_part(*, explicit: bool, at_source: bool, here: bool, takes_part: bool, refused: bool) -> None:
    """All cases of feature, source's device and destination's device."""
    offer = DeviceOffer(replace(DEVICE, explicit_switchover=at_source), here, None)
    verdicts, refusals = decide_devices([offer], explicit=explicit, credit=100)
    assert verdicts == [DeviceVerdict(takes_part, 0 if refused else 100)]
    assert [(refusal.name, refusal.code) for refusal in refusals] == ([("gpu/0", Code.FEATURE)] if refused else [])


def test_every_reason_against_every_device() -> None:
    """Unknown devices, the device's own words, and switchover: all named, in order, one verdict for each device."""
    offers = [
        DeviceOffer(replace(DEVICE, id="a"), None, None),
        DeviceOffer(replace(DEVICE, id="b"), False, "token 'x' at the source"),
        DeviceOffer(replace(DEVICE, id="c"), True, None),
    ]
    verdicts, refusals = decide_devices(offers, explicit=True, credit=7)
    assert verdicts == [DeviceVerdict(False, 0), DeviceVerdict(False, 0), DeviceVerdict(True, 7)]
    assert [(refusal.name, refusal.code) for refusal in refusals] == [
        ("a/0", Code.REFUSED),
        ("b/0", Code.DEVICE),
        ("b/0", Code.FEATURE),
    ]
    assert refusals[1].cause == "token 'x' at the source"


def test_refusals_fit_a_verdict() -> None:
    """Long texts are cut within their bound at whole characters, and the list to what a frame holds."""
    long = Refusal(What.DEVICE, "n" * 2000, Code.DEVICE, "\u20ac" * 3000)
    fitting = fit_refusals([long] * 1000)
    assert 0 < len(fitting) < 1000
    assert len(fitting[0].name.encode()) <= limits.NAME_BYTES_MAX
    assert limits.TEXT_BYTES_MAX - 6 <= len(fitting[0].cause.encode()) <= limits.TEXT_BYTES_MAX
    assert fitting[0].cause.endswith("\u20ac...")
    assert sum(len(refusal.name) + len(refusal.cause.encode()) for refusal in fitting) <= PAGE_BYTES_MAX
    short = [Refusal(What.KIND, "k", Code.REFUSED, "no")] * (limits.ITEMS_MAX + 1)
    assert fit_refusals(short) == tuple(short[: limits.ITEMS_MAX])


def test_an_inventory_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As proto/control.md counts them: what one side may send the other takes, and no more."""
    monkeypatch.setattr(limits, "INVENTORY_BYTES_MAX", 3 * (limits.INVENTORY_ITEM_BYTES + 2))
    monkeypatch.setattr(limits, "ITEMS_MAX", 1)
    blocks = [replace(BLOCK, name=f"b{number}") for number in range(3)]
    assert rebuilt(paginate(blocks, [], [], preflight=False)).blocks == blocks
    with pytest.raises(LocalProtocolError, match="INVENTORY"):
        paginate(blocks, [], [replace(KIND, name="k")], preflight=False)
    builder = InventoryBuilder()
    for number in range(3):
        builder.handle_page(Inventory(number + 1, 4, (blocks[number],), (), (), preflight=False))
    with pytest.raises(RemoteProtocolError, match="INVENTORY"):
        builder.handle_page(Inventory(4, 4, (), (), (KIND,), preflight=False))
