"""Received files get their names all together or not at all, and nothing that was there is touched."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from multifd.cli.incoming import IncomingFiles
from multifd.errors import StorageError
from multifd.memory import Block
from multifd.messages import BlockInfo


def offer(name: str, length: int = 5) -> BlockInfo:
    return BlockInfo(name, length, 4096)


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


def test_an_offer_made_again_takes_the_place_of_the_first(incoming: IncomingFiles, tmp_path: Path) -> None:
    """A preflight comes before the session: one temporary file for one name."""
    incoming.provide(offer("one")).close()
    write(incoming.provide(offer("one")), b"again")
    assert len(names(tmp_path)) == 1
    incoming.publish()
    assert (tmp_path / "one").read_bytes() == b"again"


def test_a_name_taken_meanwhile_takes_back_all_others(incoming: IncomingFiles, tmp_path: Path) -> None:
    """Published ones vanish, the stranger's file stays as it is."""
    for name in ("one", "two", "three"):
        write(incoming.provide(offer(name)), b"first")
    (tmp_path / "three").write_text("mine")
    with pytest.raises(StorageError, match=r"three.*nothing is overwritten"):
        incoming.publish()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["three"]
    incoming.close()
    assert names(tmp_path) == ["three"]
    assert (tmp_path / "three").read_text() == "mine"


def test_taking_back_spares_a_file_that_is_not_ours_any_more(incoming: IncomingFiles, tmp_path: Path) -> None:
    """Somebody replaced what was published just before it is taken back."""
    for name in ("one", "two"):
        write(incoming.provide(offer(name)), b"first")
    link = incoming._link

    def replace_one_then_fail(file: object) -> None:
        link(file)  # type: ignore[arg-type]
        if file is incoming.files["one"]:
            (tmp_path / "one").unlink()
            (tmp_path / "one").write_text("mine")
            (tmp_path / "two").write_text("mine too")

    incoming._link = replace_one_then_fail  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        incoming.publish()
    incoming.close()
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {"one": "mine", "two": "mine too"}


def test_a_directory_moved_away_meanwhile_is_still_the_one(tmp_path: Path) -> None:
    """The directory is a descriptor, not a path."""
    first = tmp_path / "first"
    first.mkdir()
    with IncomingFiles(first) as incoming:
        write(incoming.provide(offer("one")), b"first")
        first.rename(tmp_path / "second")
        first.symlink_to(tmp_path)
        incoming.publish()
    assert names(tmp_path / "second") == ["one"]


@pytest.mark.parametrize("directory", ["missing", "a file"])
def test_a_directory_that_can_not_be_used_is_told_at_once(tmp_path: Path, directory: str) -> None:
    """Not at the end of a transfer."""
    (tmp_path / "a file").touch()
    with pytest.raises(StorageError, match="can't open the directory"):
        IncomingFiles(tmp_path / directory)
