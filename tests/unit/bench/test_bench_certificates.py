"""Certificates for a run: good for both sides, and told where there can be none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.certificates import certificates
from bench.errors import BenchError
from multifd import Tls


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_both_sides_can_load_theirs(tmp_path: Path) -> None:
    """The folder has what a server and a client need."""
    folder = certificates(tmp_path / "tls")
    assert [Tls.load(folder, server=server).server for server in (True, False)] == [True, False]


def test_without_openssl_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install, and what to do without."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"openssl is NOT INSTALLED .* without --tls"):
        certificates(tmp_path / "tls")
