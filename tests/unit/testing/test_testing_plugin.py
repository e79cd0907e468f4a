"""The plugin says which QEMUs ran; without any, tests skip, and in CI they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from multifd.testing.binaries import VARIABLE

pytestmark = pytest.mark.slow

TESTS = """
def test_each(qemu_binary):
    assert str(qemu_binary) in ("7.2", "11.1")

def test_all(qemu_versions):
    assert [str(one) for one in qemu_versions] == ["7.2", "11.1"]

def test_one(qemu_of):
    assert qemu_of("11.1").version == (11, 1, 3)

def test_missing(qemu_of):
    qemu_of("10.0")
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of somebody else's, on a machine without a QEMU of its own."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None if name.startswith("qemu-system") else f"/usr/bin/{name}")
    pytester.makeconftest("pytest_plugins = ['multifd.testing.pytest_plugin']")
    pytester.makeini("[pytest]\nqemu_binaries = qemus/*/qemu\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(TESTS)
    return pytester


def add(project: pytest.Pytester, name: str, version: str) -> None:
    path = Path(project.path) / "qemus" / name / "qemu"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\n", encoding="utf-8")
    path.chmod(0o755)


def test_tests_run_with_each_version(project: pytest.Pytester) -> None:
    """The globs of the ini option are looked at, and a version that is not at hand skips."""
    add(project, "new", "11.1.3 (Debian)")
    add(project, "old", "7.2.22")
    result = project.runpytest_inprocess("-p", "no:cacheprovider", "-rs")
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines(["*no QEMU 10.0 at hand*"])
    result.stdout.fnmatch_lines(["*none ran in these tests*"])


def test_without_any_all_are_skipped_aloud(project: pytest.Pytester) -> None:
    """The reason is at the end, and so is that none ran."""
    result = project.runpytest_inprocess("-p", "no:cacheprovider", "-rs")
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(["*none ran in these tests*", f"*no QEMU found: name some in {VARIABLE}*"])


def test_without_any_ci_fails(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the skips of CI."""
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=4)
