"""What can't be sent is told before anything is; what changes while it is sent is never taken for whole."""

import os
from pathlib import Path

import pytest

from multifd.cli.ending import UsageError
from multifd.cli.outgoing import OutgoingFiles
from multifd.errors import OwnerError


def test_a_block_for_each_file_under_its_base_name(tmp_path: Path) -> None:
    """Empty ones too."""
    (tmp_path / "deep").mkdir()
    paths = [tmp_path / "deep" / "a b", tmp_path / "é"]
    paths[0].write_bytes(b"12345")
    paths[1].touch()
    with OutgoingFiles(map(str, paths)) as outgoing:
        blocks = outgoing.blocks()
        assert [(block.name, block.length) for block in blocks] == [("a b", 5), ("é", 0)]
        assert outgoing.length == 5


def test_two_of_one_name_are_both_named(tmp_path: Path) -> None:
    """Which of them should win nobody can say."""
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same").touch()
    with pytest.raises(UsageError, match=r"x/same and .*y/same"):
        OutgoingFiles([str(tmp_path / "x" / "same"), str(tmp_path / "y" / "same")])


def test_one_file_twice_is_told_as_such(tmp_path: Path) -> None:
    """However its path is written."""
    (tmp_path / "one").touch()
    with pytest.raises(UsageError, match=r"one is given twice"):
        OutgoingFiles([str(tmp_path / "one"), f"{tmp_path}/./one"])


def test_what_is_no_regular_file_is_told(tmp_path: Path) -> None:
    """A directory, a FIFO (without waiting for its writer), a missing one, a name that is not UTF-8."""
    os.mkfifo(tmp_path / "fifo")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff")).touch()
    for path, words in (
        (tmp_path, "it is a directory; pack it with tar"),
        (tmp_path / "fifo", "not a regular file"),
        (tmp_path / "missing", "No such file"),
        (Path(os.fsdecode(bytes(tmp_path) + b"/\xff")), "not valid UTF-8"),
        (Path("/"), "the name is empty"),
    ):
        with pytest.raises(UsageError, match=words):
            OutgoingFiles([str(path)])


@pytest.mark.parametrize("change", ["content", "length"])
async def test_a_file_that_was_changed_fails_the_stop(tmp_path: Path, change: str) -> None:
    """Before COMMIT, so nothing half old and half new gets a name."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with OutgoingFiles([str(path)]) as outgoing:
        await outgoing.stop()
        with path.open("r+b") as file:
            file.write(b"x" if change == "content" else b"123456")
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1000))
        with pytest.raises(OwnerError, match="was changed"):
            await outgoing.stop()
