"""QEMUs are found where they are looked for, oldest first, one of each build."""

from __future__ import annotations

from pathlib import Path

import pytest

from multifd.testing.binaries import PROGRAM, VARIABLE, QemuError, find_binaries, inspect_binary


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def qemu(path: Path, version: str) -> Path:
    return program(path, f"QEMU emulator version {version}")


@pytest.fixture(autouse=True)
def empty_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No QEMU of the machine's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(VARIABLE, raising=False)
    return folder


def test_a_version_is_read(tmp_path: Path) -> None:
    """Numbers, the whole text, and the newest machine types by full name."""
    found = inspect_binary(qemu(tmp_path / "q", "10.0.2 (Debian 1:10.0.2+ds-2)"))
    assert found.version == (10, 0, 2)
    assert found.text == "10.0.2 (Debian 1:10.0.2+ds-2)"
    assert (str(found), found.q35, found.i440fx) == ("10.0", "pc-q35-10.0", "pc-i440fx-10.0")


def test_what_is_no_qemu_is_refused(tmp_path: Path) -> None:
    """A program that says something else, and a file that can't be run, are errors with their names."""
    with pytest.raises(QemuError, match="is no QEMU"):
        inspect_binary(program(tmp_path / "other", "hello"))
    with pytest.raises(QemuError, match="can't be run"):
        inspect_binary(tmp_path / "nothing")


def test_the_oldest_comes_first(tmp_path: Path, empty_path: Path) -> None:
    """Proposed ones and that on PATH, by version as numbers; what can't be run is left out."""
    proposed = [qemu(tmp_path / "b", "10.0.2"), tmp_path / "nothing", qemu(tmp_path / "a", "9.2.1")]
    qemu(empty_path / PROGRAM, "7.2.22")
    assert [str(found) for found in find_binaries(proposed)] == ["7.2", "9.2", "10.0"]


def test_one_of_each_build_is_taken(tmp_path: Path) -> None:
    """Of two with the same text the first; another package of the same version is another build."""
    paths = [qemu(tmp_path / name, text) for name, text in [("a", "7.2.1"), ("b", "7.2.1"), ("c", "7.2.1 (Debian)")]]
    assert [found.path for found in find_binaries(paths)] == [paths[0], paths[2]]


def test_the_variable_says_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_path: Path) -> None:
    """With `MULTIFD_QEMU` nothing else is looked for, and what it names must run."""
    qemu(empty_path / PROGRAM, "7.2.22")
    mine = qemu(tmp_path / "mine", "11.2.0")
    monkeypatch.setenv(VARIABLE, f"{mine}:")
    assert [found.path for found in find_binaries([qemu(tmp_path / "a", "9.2.1")])] == [mine]
    monkeypatch.setenv(VARIABLE, f"{mine}:{tmp_path / 'gone'}")
    with pytest.raises(QemuError, match="gone"):
        find_binaries()


def test_there_may_be_none() -> None:
    """Nothing is found where nothing is."""
    assert find_binaries() == ()
