"""Certificates of both sides, for a run of the bench alone. Made by the `openssl` command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.errors import BenchError
from multifd.testing.certificates import make_tls_dir


def certificates(folder: Path) -> Path:
    """In this folder, with the names that both QEMU and ours know. Raise `BenchError`."""
    try:
        return make_tls_dir(folder)
    except FileNotFoundError as error:
        raise BenchError("openssl is NOT INSTALLED (Debian: apt-get install openssl): measure without --tls") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"openssl failed: {error.stderr.decode(errors='replace').strip()[:500]}") from error
