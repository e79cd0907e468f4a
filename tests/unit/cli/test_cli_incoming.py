"""Received files get their names all together or not at all, and nothing that was there is touched."""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from multifd.cli.incoming import IncomingFile, IncomingFiles
from multifd.errors import StorageError
from multifd.memory import Block
from multifd.messages import BlockInfo


def offer(name: str, length: int = 5) -> BlockInfo:
    return BlockInfo(name, length, 4096)


async def provide(incoming: IncomingFiles, *offered: str) -> list[Block]:
    """One offer, as the engine has it decided: in a helper thread, in a context of its own."""
    return await asyncio.to_thread(lambda: [incoming.provide(offer(name)) for name in offered])


def write(block: Block, content: bytes) -> None:
    view = block.target(0, len(content))
    view[:] = content
    block.written(0, view)


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()}


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.fixture
def incoming(tmp_path: Path) -> Iterator[IncomingFiles]:
    with IncomingFiles(tmp_path) as files:
        yield files


async def test_files_appear_together_whole_and_with_the_usual_mode(tmp_path: Path) -> None:
    """Before start only temporary names; after it the final ones only, with the umask's mode."""
    before = os.umask(0o027)
    try:
        with IncomingFiles(tmp_path) as incoming:
            for name, content in (("one", b"first"), ("zwei ü", b"other")):
                write(incoming.provide(offer(name)), content)
            incoming.provide(offer("empty", 0))
            assert all(name.startswith(".multifd-") and name.endswith(".part") for name in names(tmp_path))
            assert modes(tmp_path) == {0o600}
            await incoming.prepare()
            await incoming.start()
            assert names(tmp_path) == ["empty", "one", "zwei ü"]
    finally:
        os.umask(before)
    assert names(tmp_path) == ["empty", "one", "zwei ü"]
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"", b"first", b"other"]
    assert modes(tmp_path) == {0o640}


def test_without_start_nothing_is_left(tmp_path: Path) -> None:
    """A failure, a cancel, a peer that went away."""
    with IncomingFiles(tmp_path) as incoming:
        write(incoming.provide(offer("one")), b"first")
    incoming.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../evil", "", ".", "a/b", "x" * 256])
def test_a_bad_name_is_refused(incoming: IncomingFiles, tmp_path: Path, name: str) -> None:
    """With the reason, and with nothing made."""
    with pytest.raises(StorageError, match="the name"):
        incoming.provide(offer(name))
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_exists_is_refused(incoming: IncomingFiles, tmp_path: Path, kind: str) -> None:
    """Whatever it is."""
    there = tmp_path / "there"
    if kind == "file":
        there.write_text("mine")
    elif kind == "directory":
        there.mkdir()
    else:
        there.symlink_to("nowhere")
    with pytest.raises(StorageError, match="nothing is overwritten"):
        incoming.provide(offer("there"))
    assert names(tmp_path) == ["there"]


def test_a_file_that_can_not_be_that_long_is_refused(incoming: IncomingFiles, tmp_path: Path) -> None:
    """And its temporary file is gone."""
    for length in (2**63 - 1, 2**64 - 1):
        with pytest.raises(StorageError, match="bytes"):
            incoming.provide(offer("long", length))
    assert names(tmp_path) == []


async def test_a_name_offered_again_after_its_block_was_closed_is_taken(
    incoming: IncomingFiles, tmp_path: Path
) -> None:
    """A preflight comes before the session, and leaves nothing."""
    (await provide(incoming, "one"))[0].close()
    assert names(tmp_path) == []
    write((await provide(incoming, "one"))[0], b"again")
    await incoming.prepare()
    await incoming.start()
    assert (tmp_path / "one").read_bytes() == b"again"


def test_a_name_twice_in_one_offer_is_refused(incoming: IncomingFiles) -> None:
    """Which of them should win nobody can say."""
    incoming.provide(offer("one"))
    with pytest.raises(StorageError, match="two files"):
        incoming.provide(offer("one"))


async def test_what_others_only_offer_is_never_published(incoming: IncomingFiles, tmp_path: Path) -> None:
    """Somebody's preflight is open while a session ends: same names, other names, it does not matter."""
    ours = await provide(incoming, "one", "empty")
    theirs = await provide(incoming, "one", "strange")
    write(ours[0], b"first")
    await incoming.prepare()
    await incoming.start()
    for block in (*ours, *theirs):
        block.close()
    assert names(tmp_path) == ["empty", "one"]
    assert incoming.published == {"one": 5, "empty": 5}
    assert (tmp_path / "one").read_bytes() == b"first"


async def test_two_offers_that_can_not_be_told_apart_fail(incoming: IncomingFiles, tmp_path: Path) -> None:
    """Nothing came for either, so nobody knows whose session this is."""
    for block_name in ("one", "two"):
        await provide(incoming, block_name)
    with pytest.raises(StorageError, match="several sources"):
        await incoming.prepare()


async def test_an_offer_of_nothing_publishes_nothing(incoming: IncomingFiles, tmp_path: Path) -> None:
    """And is no failure."""
    await incoming.prepare()
    await incoming.start()
    assert names(tmp_path) == []


async def test_a_name_taken_meanwhile_takes_back_all_others(incoming: IncomingFiles, tmp_path: Path) -> None:
    """Published ones vanish, the stranger's file stays as it is."""
    for name in ("one", "two", "three"):
        write(incoming.provide(offer(name)), b"first")
    (tmp_path / "three").write_text("mine")
    await incoming.prepare()
    with pytest.raises(StorageError, match=r"three.*nothing is overwritten"):
        await incoming.start()
    assert incoming.published == {}
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["three"]
    incoming.close()
    assert names(tmp_path) == ["three"]
    assert (tmp_path / "three").read_text() == "mine"


async def test_taking_back_spares_a_file_that_is_not_ours_any_more(tmp_path: Path) -> None:
    """Somebody replaced what was published just before it is taken back."""
    with IncomingFiles(tmp_path) as incoming:
        one = incoming.provide(offer("one"))
        assert isinstance(one, IncomingFile)
        one.publish()
        (tmp_path / "one").unlink()
        (tmp_path / "one").write_text("mine")
        one.take_back()
    assert names(tmp_path) == ["one"]
    assert (tmp_path / "one").read_text() == "mine"


async def test_a_directory_moved_away_meanwhile_is_still_the_one(tmp_path: Path) -> None:
    """The directory is a descriptor, not a path."""
    first = tmp_path / "first"
    first.mkdir()
    with IncomingFiles(first) as incoming:
        write(incoming.provide(offer("one")), b"first")
        first.rename(tmp_path / "second")
        first.symlink_to(tmp_path)
        await incoming.prepare()
        await incoming.start()
    assert names(tmp_path / "second") == ["one"]


@pytest.mark.parametrize("directory", ["missing", "a file"])
def test_a_directory_that_can_not_be_used_is_told_at_once(tmp_path: Path, directory: str) -> None:
    """Not at the end of a transfer."""
    (tmp_path / "a file").touch()
    with pytest.raises(StorageError, match="can't open the directory"):
        IncomingFiles(tmp_path / directory)


async def test_a_start_that_is_cancelled_leaves_nothing_published(
    incoming: IncomingFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends when its thread has, however often it is cancelled; what the thread published by then is taken back."""
    began, go = threading.Event(), threading.Event()
    real = IncomingFile.publish

    def publish(file: IncomingFile) -> None:
        real(file)
        began.set()
        assert go.wait(5)

    monkeypatch.setattr(IncomingFile, "publish", publish)
    await provide(incoming, "one", "two")
    await incoming.prepare()
    starting = asyncio.create_task(incoming.start())
    assert await asyncio.to_thread(began.wait, 5)
    for _ in range(2):
        starting.cancel()
        await asyncio.sleep(0)
        assert not starting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    assert incoming.published == {}


async def test_a_full_disk_names_the_file_that_was_sent(
    incoming: IncomingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the temporary one, of which nobody knows."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (block,) = await provide(incoming, "one")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"^can't write to one: No space left on device$"):
        write(block, b"first")
