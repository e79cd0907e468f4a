"""Directories with certificates, made once for all tests of a process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import pytest

from multifd.engine.tls import Tls
from multifd.testing.certificates import make_tls_dir


def tls_dir(ca: str = "usual") -> Path:
    """For `localhost`, `127.0.0.1` and `::1`. Another `ca` is another CA, which does not know the others."""
    return _made(ca)


@functools.cache
def _made(ca: str) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command to make certificates with")
    made = tempfile.mkdtemp(prefix=f"multifd-tls-{ca}-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return make_tls_dir(Path(made))


@functools.cache
def server(ca: str = "usual") -> Tls:
    """Who listens."""
    return Tls.load(tls_dir(ca), server=True)


@functools.cache
def client(ca: str = "usual") -> Tls:
    """Who connects."""
    return Tls.load(tls_dir(ca), server=False)
