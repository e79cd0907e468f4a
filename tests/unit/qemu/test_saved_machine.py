"""Machines that were saved: whole or absent, and the same when they are read."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from qemu_machines import EARLY, contents, device, memory_machine, state_of
from saved_samples import PAGE, digests, files, fill, ram, save, with_configuration

from multifd import elements as e
from multifd.errors import LocalProtocolError, StorageError
from multifd.limits import MIB, QEMU_EARLY_BYTES
from multifd.qemu import saved_folder, saved_writer
from multifd.qemu.origin import MachineOrigin
from multifd.qemu.saved import SavedMachine, SavingMachine
from multifd.qemu.target import MachineTarget

LIVE = (
    e.Section(e.Phase.START, e.SectionHeader(40, "0000:00:05.0/vfio", 0, 1), b"set-up"),
    e.Section(e.Phase.PART, e.SectionHeader(40, "0000:00:05.0/vfio", 0, 1), b"more"),
)
LIVE_END = e.Section(e.Phase.END, LIVE[0].header, b"the last of it")

STATES = {
    "plain": state_of(),
    "without description": state_of(described=False),
    "without early sections": state_of(early=()),
    "without SWITCHOVER_START": state_of("pc-i440fx-7.2"),
    "one page": state_of(pages=1),
    "65 pages": state_of(pages=65),
    "without UUID": dataclasses.replace(state_of(), uuid=bytes(16)),
    "UUID in the configuration": with_configuration(state_of(), uuid=bytes(range(16))),
    "no capabilities, listed": with_configuration(state_of(), capabilities=()),
    "large pages": dataclasses.replace(
        with_configuration(state_of(), page_bits=14), blocks=(e.RamBlock("mach-virt.ram", 300 << 14),)
    ),
    "a name beyond ASCII": dataclasses.replace(state_of(), blocks=(e.RamBlock("/rom@genroms/größe", PAGE),)),
    "a live device": dataclasses.replace(
        state_of(described=False), early=LIVE, sections=(LIVE_END, *state_of().sections)
    ),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_machine_comes_back_as_it_was(tmp_path: Path, state: e.MachineState) -> None:
    """State, RAM and digests of what is read are those of what was saved, bit by bit."""
    machine = save(tmp_path / "vm1", state)
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert saved.state == state
        assert ram(saved) == contents(machine)
        assert saved.digest() == saved.digests == digests(machine)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_the_file_alone_is_a_machine(tmp_path: Path, state: e.MachineState) -> None:
    """Without its manifest, as a QEMU would have saved it, all is there that a mapped-ram file tells."""
    machine = save(tmp_path / "vm1", state)
    with SavedMachine.open(tmp_path / "vm1" / "vm") as saved:
        uuid = state.configuration.uuid or bytes(16)
        plain = dataclasses.replace(state.configuration, capabilities=None)
        assert saved.state == dataclasses.replace(state, uuid=uuid, configuration=plain)
        assert ram(saved) == contents(machine)
        assert saved.digests == saved.received == {}


def test_they_fit_what_asks_for_them(tmp_path: Path) -> None:
    """A machine on its way is a target, one that was saved is an origin; its views can't be written to."""
    target: MachineTarget = SavingMachine(tmp_path / "vm1")
    target.abort()
    save(tmp_path / "vm1")
    origin: MachineOrigin = SavedMachine.open(tmp_path / "vm1")
    block = origin.contents("m")
    assert block is not None
    assert block.view.readonly
    assert len(block.view) == len(block.present) * PAGE
    assert origin.contents("nothing") is None


def test_nothing_has_the_name_before_all_is_there(tmp_path: Path) -> None:
    """While it comes there is a hidden folder; after `commit` there is the machine, and nothing else. It is its
    owner's alone.
    """
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    saving.flush()
    assert all(name.startswith(".vm1.part-") for name in files(tmp_path))
    saving.commit(machine.state)
    assert files(tmp_path) == {"vm1": 0o700, "vm1/vm": 0o600, "vm1/manifest.json": 0o600}
    saving.digest(lambda _: None)
    assert files(tmp_path / "vm1") == {"vm": 0o600, "manifest.json": 0o600, "digests.json": 0o600}


@pytest.mark.parametrize("steps", range(5))
def test_abort_leaves_nothing(tmp_path: Path, steps: int) -> None:
    """At any time, and as often as one likes: even what has its name is taken back."""
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    work: list[Callable[[], object]] = [
        lambda: saving.reserve(MIB),
        lambda: fill(saving, machine),
        lambda: saving.commit(machine.state),
        lambda: saving.digest(lambda _: None),
    ]
    for step in work[:steps]:
        step()
    saving.abort()
    assert files(tmp_path) == {}
    saving.abort()
    for late in work[2:]:
        with pytest.raises((StorageError, LocalProtocolError)):
            late()
    saving.flush()
    assert files(tmp_path) == {}


@pytest.mark.parametrize("hangs_at", range(4))
def test_abort_while_commit_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs_at: int) -> None:
    """Whoever aborts while a slow disk is waited for has the last word: `commit` raises, and nothing appears later."""
    machine = memory_machine(state_of(pages=5))
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    sync, calls = os.fsync, list[int]()

    def hang(fd: int) -> None:
        if len(calls) == hangs_at:
            saving.abort()
        calls.append(fd)
        sync(fd)

    monkeypatch.setattr(os, "fsync", hang)
    with pytest.raises(StorageError):
        saving.commit(machine.state)
    assert len(calls) > hangs_at, "it syncs the file, the manifest, the folder and its parent"
    assert files(tmp_path) == {}


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """A file, a folder, a link that leads nowhere: refused at once."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    before = files(tmp_path)
    for name in ("file", "folder", "link", ".", ""):
        with pytest.raises(StorageError, match="exists already"):
            SavingMachine(tmp_path / name)
    with pytest.raises(StorageError, match="exists already"):
        SavingMachine(Path("/"))
    assert files(tmp_path) == before


@pytest.mark.parametrize("exclusive", [True, False], ids=["renameat2", "rename"])
@pytest.mark.parametrize("kind", ["file", "folder", "full folder"])
def test_what_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, exclusive: bool
) -> None:
    """Somebody else takes the name while the machine comes: it is theirs, whatever the file system can promise."""

    def unable(source: str, target: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    if not exclusive:
        monkeypatch.setattr(saved_folder, "rename_exclusive", unable)
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    if kind == "file":
        (tmp_path / "vm1").write_text("theirs")
    else:
        (tmp_path / "vm1").mkdir()
    if kind == "full folder":
        (tmp_path / "vm1" / "vm").write_text("theirs")
    theirs = (tmp_path / "vm1").stat().st_ino
    with pytest.raises(StorageError, match="exists already; nothing is overwritten"):
        saving.commit(machine.state)
    saving.abort()
    assert (tmp_path / "vm1").stat().st_ino == theirs
    assert len(files(tmp_path)) == (2 if kind == "full folder" else 1)


def test_a_file_system_without_exclusive_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does with one that checks before."""

    def unable(source: str, target: str) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(saved_folder, "rename_exclusive", unable)
    machine = save(tmp_path / "vm1")
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert ram(saved) == contents(machine)


def test_a_folder_that_was_moved_away_is_not_taken_back(tmp_path: Path) -> None:
    """What has the name by now is somebody else's, and stays; so does what they moved."""
    save(tmp_path / "theirs")
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    saving.commit(machine.state)
    (tmp_path / "vm1").rename(tmp_path / "mine")
    (tmp_path / "theirs").rename(tmp_path / "vm1")
    saving.abort()
    for name in ("vm1", "mine"):
        SavedMachine.open(tmp_path / name).close()


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    """A parent that is missing, or is a file, or a name that is too long: said before a source is there."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r'there is no directory ".*missing"'):
        SavingMachine(tmp_path / "missing" / "vm1")
    with pytest.raises(StorageError, match="Not a directory"):
        SavingMachine(tmp_path / "file" / "vm1")
    with pytest.raises(StorageError, match="File name too long"):
        SavingMachine(tmp_path / ("x" * 250))
    assert files(tmp_path).keys() == {"file"}


def test_a_folder_that_cannot_be_opened_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without descriptors makes no folder that nobody knows of."""

    def unable(*_arguments: object, **_names: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", unable)
        with pytest.raises(StorageError, match="Too many open files"):
            SavingMachine(tmp_path / "vm1")
    assert files(tmp_path) == {}


def test_a_disk_that_fills_up_in_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is being written then: `StorageError` with the reason, and after `abort` nothing is left."""
    machine = memory_machine(state_of(pages=5))
    writes = 0

    def full(fd: int, data: bytes | memoryview, offset: int) -> None:
        nonlocal writes
        writes += 1
        if writes == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_at(fd, data, offset)

    write_at = saved_folder.write_at
    monkeypatch.setattr(saved_writer, "write_at", full)
    monkeypatch.setattr(saved_folder, "write_at", full)
    causes = set()
    for fails_at in range(1, 100):
        writes = 0
        saving = SavingMachine(tmp_path / "vm1")
        fill(saving, machine)
        try:
            saving.commit(machine.state)
        except StorageError as error:
            causes.add(str(error))
        saving.abort()
        assert files(tmp_path) == {}
        if writes < fails_at:
            break
    assert causes == {f'can\'t save to "{tmp_path / "vm1"}": No space left on device'}
    assert writes > 10


def test_a_machine_that_the_form_cannot_hold(tmp_path: Path) -> None:
    """Block page sizes of postcopy, and early sections that outgrow their room, are refused in words."""
    state = state_of()
    saving = SavingMachine(tmp_path / "vm1")
    with pytest.raises(StorageError, match="no RAM"):
        saving.begin(state.configuration, state.ram, ())
    with pytest.raises(StorageError, match="turn postcopy-ram off"):
        saving.begin(state.configuration, state.ram, (e.RamBlock("m", 2 * MIB, page_size=2 * MIB),))
    many = (device("early", bytes(QEMU_EARLY_BYTES + MIB)),)
    machine = memory_machine(state_of(early=many))
    fill(saving, machine)
    with pytest.raises(StorageError, match="room for 262144 bytes of early sections"):
        saving.commit(machine.state)


def test_early_sections_have_their_room(tmp_path: Path) -> None:
    """As much as is promised is taken, even if the first block's bitmap would have gone right below its pages."""
    early = (device("early", bytes(QEMU_EARLY_BYTES - 100), number=90),)
    for pages in (1, 6_000_000):
        state = dataclasses.replace(state_of(early=early, described=False), blocks=(e.RamBlock("m", pages * PAGE),))
        saving = SavingMachine(tmp_path / f"vm{pages}")
        saving.begin(state.configuration, state.ram, state.blocks)["m"].place(np.array([0], dtype=np.int64))[0][:] = (
            b"p" * PAGE
        )
        saving.commit(state)
        with SavedMachine.open(tmp_path / f"vm{pages}") as saved:
            assert saved.state == state
            block = saved.contents("m")
            assert block is not None
            assert block.view[:PAGE] == b"p" * PAGE
            assert np.flatnonzero(block.present).tolist() == [0]


def test_another_machine_is_not_committed(tmp_path: Path) -> None:
    """What is committed is what was begun; without `begin` there is nothing."""
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    with pytest.raises(LocalProtocolError):
        saving.commit(machine.state)
    fill(saving, machine)
    with pytest.raises(LocalProtocolError):
        saving.commit(dataclasses.replace(machine.state, blocks=machine.state.blocks[:1]))
    assert not (tmp_path / "vm1").exists()


def test_memory_that_is_shared_is_not_there(tmp_path: Path) -> None:
    """With x-ignore-shared a block of which nothing came has no contents, and its machine comes back with capability
    and addresses. The file itself says neither: any QEMU loads it, and leaves that memory as it is.
    """
    state = with_configuration(state_of(), capabilities=("x-ignore-shared",))
    state = dataclasses.replace(
        state,
        blocks=tuple(dataclasses.replace(block, address=number << 20) for number, block in enumerate(state.blocks)),
    )
    machine = save(tmp_path / "vm1", state, leave_out=frozenset({"m"}))
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert saved.state == state
        assert saved.contents("m") is None
        assert saved.digests == {name: value for name, value in digests(machine).items() if name != "m"}
    with SavedMachine.open(tmp_path / "vm1" / "vm") as saved:
        assert saved.state.configuration.capabilities is None
        assert [block.address for block in saved.state.blocks] == [None, None, None]
        block = saved.contents("m")
        assert block is not None
        assert not block.present.any()


def test_a_block_without_pages_is_all_zero(tmp_path: Path) -> None:
    """Where nothing is shared, what never came is zero."""
    save(tmp_path / "vm1", leave_out=frozenset({"m"}))
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert ram(saved)["m"] == bytes(700 * PAGE)


def test_a_page_that_became_zero_is_zero(tmp_path: Path) -> None:
    """Whatever the file still has in its place: for who reads it, and for its digest."""
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    saving.begin(machine.state.configuration, machine.state.ram, machine.state.blocks)
    for name in machine.blocks:
        numbers = np.flatnonzero(machine.blocks[name].present)[::2] * PAGE
        machine.blocks[name].zero(numbers)
    fill(saving, machine)
    saving.commit(machine.state)
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert ram(saved) == contents(machine)
        assert saved.digest() == saving.digest(lambda _: None) == digests(machine)


@pytest.mark.parametrize("length", [1, MIB, 700 * PAGE, 8 * MIB])
def test_storage_reserved_ahead(tmp_path: Path, length: int) -> None:
    """Too little, enough or too much: the machine is the same, and its file no longer than without."""
    machine = memory_machine()
    save(tmp_path / "plain")
    saving = SavingMachine(tmp_path / "vm1")
    saving.reserve(length)
    fill(saving, machine)
    saving.commit(machine.state)
    assert (tmp_path / "vm1" / "vm").stat().st_size == (tmp_path / "plain" / "vm").stat().st_size
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert ram(saved) == contents(machine)


def test_reserving_ahead_can_be_ended(tmp_path: Path) -> None:
    """Nobody waits for storage that is not wanted any more."""
    saving = SavingMachine(tmp_path / "vm1")
    saving.reserve(1 << 40, lambda: False)
    [part] = tmp_path.glob(".vm1.part-*/vm")
    assert part.stat().st_blocks * 512 < MIB


def test_how_it_came_is_kept(tmp_path: Path) -> None:
    """What the receiver knows, and when it was, are in the manifest."""
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    saving.received.update({"channels": 4, "compression": "zstd", "tls": None})
    saving.commit(machine.state)
    with SavedMachine.open(tmp_path / "vm1") as saved:
        assert saved.received["channels"] == 4
        assert saved.received["tls"] is None
        assert saved.received["began"] <= saved.received["ended"]


def test_digests_can_be_ended(tmp_path: Path) -> None:
    """What `done` raises ends the work, and no digests appear; it hears of every byte."""
    machine = memory_machine()
    saving = SavingMachine(tmp_path / "vm1")
    fill(saving, machine)
    saving.commit(machine.state)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saving.digest(stop)
    assert not (tmp_path / "vm1" / "digests.json").exists()
    heard: list[int] = []
    saving.digest(heard.append)
    assert sum(heard) == sum(block.length for block in machine.state.blocks)


def test_early_sections_come_before_ram(tmp_path: Path) -> None:
    """As a QEMU writes them: what they tell must be known before a file's RAM is loaded, all at once."""
    save(tmp_path / "vm1")
    data = (tmp_path / "vm1" / "vm").read_bytes()
    assert 0 < data.index(EARLY[0].body) < data.index(b"\x03ram") < data.index(b"\x01m") < MIB
