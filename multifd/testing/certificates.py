"""Certificates for tests, as both QEMU and multifd read them: a directory with a CA of its own and both roles.

Made by the `openssl` command (3.0 or later), on P-256: about a twentieth of a second in all.
"""

from __future__ import annotations

import ipaddress
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"  # nothing of the machine's own
_DAYS = "2"


def make_tls_dir(path: Path, hostnames: Sequence[str] = ("localhost", "127.0.0.1", "::1")) -> Path:
    """Fill the directory `path` with a new CA, a server's certificate for `hostnames` (names and IP addresses) and a
    client's: QEMU's `tls-creds-x509` with `dir=PATH`. Returns `path`.

    Raises `FileNotFoundError` if there is no `openssl`, `subprocess.CalledProcessError` if it fails.
    """
    path.mkdir(parents=True, exist_ok=True)
    _make_ca(path)
    names = ",".join(f"{_kind(name)}:{name}" for name in hostnames)
    _issue(path, "server", "extendedKeyUsage=serverAuth", f"subjectAltName={names}")
    _issue(path, "client", "extendedKeyUsage=clientAuth")
    return path


def _make_ca(path: Path) -> None:
    extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    _request(path, "ca", extensions)


def _issue(path: Path, role: str, *extensions: str) -> None:
    signer = ("-CA", str(path / "ca-cert.pem"), "-CAkey", str(path / "ca-key.pem"))
    # QEMU 10.0 asks for key encipherment, which no key on a curve can do, and refuses a certificate without it.
    usual = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature,keyEncipherment")
    _request(path, role, (*usual, *extensions), *signer)


def _request(path: Path, role: str, extensions: Sequence[str], *more: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as config:
        config.write(_CONFIG)
        config.flush()
        command = ["openssl", "req", "-x509", "-config", config.name, "-newkey", "ec"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256", "-days", _DAYS]
        command += ["-subj", f"/CN=multifd test {role}", *more]
        for extension in extensions:
            command += ["-addext", extension]
        command += ["-keyout", str(path / f"{role}-key.pem"), "-out", str(path / f"{role}-cert.pem")]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # no shell, and only what is above


def _kind(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP"
