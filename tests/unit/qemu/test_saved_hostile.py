"""Saved machines that are damaged, or were made by somebody who means harm: `StorageError`, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu_machines import state_of
from saved_samples import save

from multifd import elements as e
from multifd.errors import StorageError
from multifd.limits import MIB, QEMU_MANIFEST_BYTES_MAX
from multifd.qemu.saved import SavedMachine
from multifd.qemu.saved_layout import Layout, tail
from multifd.qemu.saved_manifest import Manifest
from multifd.wire.qemu_serialize import serialize, serialize_mapped_block, serialize_total

PAGE = e.PAGE_BYTES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that is whole."""
    path = tmp_path_factory.mktemp("saved") / "vm1"
    save(path, state_of(pages=5))
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "vm1"))


def opens(path: Path) -> bool:
    """Whether it is taken. `StorageError` that says which machine it is about is the only way not to be."""
    try:
        SavedMachine.open(path).close()
    except StorageError as error:
        return str(path) not in str(error)
    return True


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes((value,)) + data[at + 1 :]


def places(vm: bytes) -> Iterator[int]:
    """All that is no page and no hole: what stands before the pages of each block, and what follows the last."""
    for mebibyte in range(0, len(vm), MIB):
        piece = vm[mebibyte : mebibyte + MIB]
        first_page = 0 if mebibyte == 0 else PAGE * {1: 5, 2: 16, 3: 1}[mebibyte // MIB]
        yield from (mebibyte + at for at in range(first_page, len(piece.rstrip(b"\0"))))


def test_every_byte_counts(folder: Path) -> None:
    """Any bit outside of pages, changed: the manifest tells, if the form does not."""
    vm = (folder / "vm").read_bytes()
    checked = list(places(vm))
    assert len(checked) > 2500
    for at in [*checked[:500:11], *checked[500::101]]:
        (folder / "vm").write_bytes(with_byte(vm, at, vm[at] ^ 1 << at % 8))
        assert not opens(folder), at


def test_cut_anywhere(folder: Path) -> None:
    """A file that ends too early is none; nor is one that goes on."""
    vm = (folder / "vm").read_bytes()
    ends = [*range(0, 700, 9), *range(MIB, len(vm), MIB // 3), *range(3 * MIB + PAGE, len(vm), 101), len(vm) - 1]
    for end in ends:
        (folder / "vm").write_bytes(vm[:end])
        assert not opens(folder), end
        assert not opens(folder / "vm"), end
    (folder / "vm").write_bytes(vm + b"\0")
    assert not opens(folder)
    assert not opens(folder / "vm")


@pytest.mark.parametrize(
    "value", [0, 1, PAGE - 1, 1 << 20, (1 << 20) + 1, 1 << 40, (1 << 62), (1 << 63), (1 << 64) - 1]
)
@pytest.mark.parametrize("field", ["total", "length", "page size", "bitmap", "pages"])
def test_numbers_at_their_extremes(folder: Path, field: str, value: int) -> None:
    """Lengths and places that are beyond the file, before their own header, or beyond what there can be."""
    vm = (folder / "vm").read_bytes()
    entry = vm.index(b"\x01m", vm.index(b"\x03ram")) + 2
    at = entry + {"total": -10, "length": 0, "page size": 12, "bitmap": 20, "pages": 28}[field]
    value += int.from_bytes(vm[at : at + 8], "big") == value
    spoilt = vm[:at] + value.to_bytes(8, "big") + vm[at + 8 :]
    (folder / "vm").write_bytes(spoilt)
    assert not opens(folder)
    assert not opens(folder / "vm") or (field, value) == ("bitmap", PAGE - 1), "which might be another bitmap's place"


@pytest.mark.slow
def test_a_giant_that_is_a_hole(tmp_path: Path) -> None:
    """A block of 4 TiB in a file of nothing: it is what it says, and takes no memory to speak of."""
    state = e.MachineState(
        e.Configuration("pc-q35-10.0", capabilities=("mapped-ram",)),
        (),
        e.SectionHeader(2, "ram", 0, 4),
        (),
        False,
        (),
        None,
    )
    length, at = 1 << 42, 1 << 30
    head = serialize(state.configuration, e.RamBegins(e.Phase.START, state.ram)) + (length | 4).to_bytes(8, "big")
    entry = b"\x01m" + length.to_bytes(8, "big") + (1).to_bytes(4, "big") + PAGE.to_bytes(8, "big")
    entry += (len(head) + 38).to_bytes(8, "big") + at.to_bytes(8, "big")
    ends = (0x10).to_bytes(8, "big") + b"\x7e" + (2).to_bytes(4, "big")
    device = e.Section(e.Phase.FULL, e.SectionHeader(3, "timer", 0, 2), b"x")
    with (tmp_path / "vm").open("wb") as file:
        file.write(head + entry)
        file.seek(at + length)
        file.write(ends + b"\x03" + (2).to_bytes(4, "big") + ends + serialize(device, e.EndOfState()))
    before = resident_kib()
    with SavedMachine.open(tmp_path / "vm") as saved:
        assert saved.state.blocks == (e.RamBlock("m", length),)
        block = saved.contents("m")
        assert block is not None
        assert not block.present[:: 1 << 20].any()
    assert resident_kib() - before < 1 << 20


def resident_kib() -> int:
    """Of this process, whatever ran in it before."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


NOT_TEXT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no JSON": lambda text: text[:-20],
    "no UTF-8": lambda text: text.replace(b"pc-q35", b"\xff\xfe"),
    "a list": lambda _: b"[]",
    "nested": lambda _: b"[" * 100_000,
    "a number": lambda _: b"1" * 10_000,
    "too long": lambda text: text + b" " * QEMU_MANIFEST_BYTES_MAX,
}


@pytest.mark.parametrize("name", ["manifest.json", "digests.json"])
@pytest.mark.parametrize("spoil", NOT_TEXT.values(), ids=NOT_TEXT)
def test_manifests_that_are_none(folder: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    """Whatever stands in their place."""
    spoilt = spoil((folder / name).read_bytes())
    if (
        name == "digests.json"
        and b"pc-q35" not in (folder / name).read_bytes()
        and spoilt == (folder / name).read_bytes()
    ):
        spoilt += b"\xff"
    (folder / name).write_bytes(spoilt)
    assert not opens(folder)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda top: top.update(format=2),
    "a format in words": lambda top: top.update(format="1"),
    "another machine": lambda top: top.update(machine="pc-q35-10.1"),
    "no machine": lambda top: top.pop("machine"),
    "a UUID that is none": lambda top: top.update(uuid="11112222"),
    "a UUID in the configuration": lambda top: top["configuration"].update(uuid=top["uuid"]),
    "a page size": lambda top: top["configuration"].update(page_bits=14),
    "capabilities that are none": lambda top: top["configuration"].update(capabilities="mapped-ram"),
    "no SWITCHOVER_START": lambda top: top.update(switchover_start=False),
    "SWITCHOVER_START as a number": lambda top: top.update(switchover_start=1),
    "no description": lambda top: top.update(description=None),
    "another description": lambda top: top["description"].update(sha256="0" * 64),
    "a description without length": lambda top: top["description"].pop("bytes"),
    "a block more": lambda top: top["blocks"].append(dict(top["blocks"][0], name="n")),
    "a block less": lambda top: top["blocks"].pop(),
    "another block": lambda top: top["blocks"][0].update(name="n"),
    "a longer block": lambda top: top["blocks"][0].update(bytes=6 * PAGE),
    "a block that is none": lambda top: top["blocks"].append(7),
    "an address in words": lambda top: top["blocks"][0].update(address="0"),
    "a section more": lambda top: top["sections"].append(top["sections"][0]),
    "a section less": lambda top: top["sections"].pop(),
    "sections in another order": lambda top: top["sections"].reverse(),
    "another section": lambda top: top["sections"][1].update(sha256="0" * 64),
    "an early section": lambda top: top["sections"][-1].update(early=True),
    "another version": lambda top: top["sections"][-1].update(version=9),
    "another length": lambda top: top.update(vm_bytes=top["vm_bytes"] + 1),
    "received as a list": lambda top: top.update(received=[]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_manifests_that_say_something_else(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """What a manifest says of the file is held against it, and the rest must make sense."""
    top = json.loads((folder / "manifest.json").read_text())
    edit(top)
    (folder / "manifest.json").write_text(json.dumps(top))
    assert not opens(folder)


def test_a_block_without_a_place(folder: Path) -> None:
    """With x-ignore-shared a file may have none for a block: not where the manifest says that it has its contents."""
    ram, block = e.SectionHeader(2, "ram", 0, 4), e.RamBlock("m", 2 * MIB, address=0, mapped=e.MappedRam(PAGE, 0, 0))
    configuration = e.Configuration("pc-q35-10.0", capabilities=("x-ignore-shared", "mapped-ram"))
    device = e.Section(e.Phase.FULL, e.SectionHeader(3, "timer", 0, 2), b"x")
    state = e.MachineState(configuration, (), ram, (block,), False, (device,), None)
    head = serialize(configuration, e.RamBegins(e.Phase.START, ram)) + serialize_total([block])
    end = b"".join(tail(Layout(configuration, ram, (block,), 0), state))
    vm = head + serialize_mapped_block(block) + end
    (folder / "vm").write_bytes(vm)
    for absent in (frozenset[str](), frozenset({"m"})):
        digest = hashlib.sha256(vm).hexdigest()
        manifest = Manifest.of(state, absent=absent, vm_bytes=len(vm), frame_sha256=digest)
        (folder / "manifest.json").write_bytes(manifest.to_json())
        assert opens(folder) == bool(absent)


def test_what_newer_manifests_may_add(folder: Path) -> None:
    """Keys that are not known are no fault."""
    top = json.loads((folder / "manifest.json").read_text())
    top["new"] = {"anything": 1}
    top["sections"][0]["new"] = 1
    (folder / "manifest.json").write_text(json.dumps(top))
    assert opens(folder)


def test_places_that_hold_no_machine(folder: Path, tmp_path: Path) -> None:
    """A folder without manifest, or without its file; nothing at all; a pipe; a device; text; a stream of a socket."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "nothing").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stream").write_bytes(serialize(e.Configuration("pc-q35-10.0")) + b"\x01")
    for name in ("empty", "text", "nothing", "pipe", "stream", "missing", "text/vm"):
        assert not opens(tmp_path / name), name
    assert not opens(Path("/dev/null"))
    with pytest.raises(StorageError, match="save it with mapped-ram"):
        SavedMachine.open(tmp_path / "stream")
    for name in ("vm", "manifest.json"):
        (folder / name).rename(tmp_path / "away")
        assert not opens(folder)
        (tmp_path / "away").rename(folder / name)
    (folder / "digests.json").unlink()
    assert opens(folder)
