"""A/B: what is said of two revisions, and where they are taken from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bench_results import series

from bench import compare
from bench.errors import BenchError


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own with two commits of a library."""
    root = tmp_path / "repository"
    (root / "multifd").mkdir(parents=True)
    monkeypatch.setattr("bench.compare.ROOT", root)
    git(root, "init", "--quiet")
    for words in ("old", "new"):
        (root / "multifd" / "__init__.py").write_text(words, encoding="utf-8")
        (root / "other").write_text(words, encoding="utf-8")
        git(root, "add", ".")
        git(root, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", words)
    return root


def test_samples_that_do_not_overlap_differ() -> None:
    """Five runs each, all of B faster: it says so, and by how much; time that is the same is no difference."""
    a, b = series("A", 1, 5, 5.1, 5.2, 5.3, 5.4), series("B", 1, 6, 6.1, 6.2, 6.3, 6.4)
    rate, time = compare.verdicts((a, b))
    assert (
        rate == "memory-1GiB-1ch-512KiB-none-cubic-loopback, GB/s: B DIFFERS: it is at 1.192 of A (medians, p = 0.0079)"
    )
    assert "CPU s/GB: no difference shown (B is at 1.000 of A by medians, p = 1)" in time


def test_samples_that_overlap_do_not() -> None:
    """A median that is higher proves nothing by itself."""
    rate, _time = compare.verdicts((series("A", 1, 5, 6, 7), series("B", 1, 5.5, 6.5, 7.5)))
    assert "no difference shown" in rate


def test_only_the_library_is_taken(repository: Path) -> None:
    """The worktree of a revision has its library and nothing else; it is gone afterwards, from git's list too."""
    with compare.checked_out("HEAD~1") as tree:
        assert (tree / "multifd" / "__init__.py").read_text(encoding="utf-8") == "old"
        assert not (tree / "other").exists()
    assert not tree.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (repository / "multifd" / "__init__.py").read_text(encoding="utf-8") == "new"


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("revision", ["nowhere", "--help", ""])
def test_a_revision_that_is_not_there_is_told(revision: str) -> None:
    """In git's words, whatever it looks like."""
    with pytest.raises(BenchError, match="git rev-parse: "):
        compare.short(revision)
