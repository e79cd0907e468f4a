"""TLS's files: what is missing or of no use is named, with what to do; and TLS's errors in words."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tls_directories

from multifd.engine.tls import Tls
from multifd.engine.transport import Address
from multifd.errors import Code, CredentialsError

WAIT_S = 5.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that a test may spoil."""
    return shutil.copytree(tls_directories.tls_dir(), tmp_path / "tls")


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_a_whole_directory_serves_both_roles(folder: Path, server: bool) -> None:
    """TLS 1.2 at least, and in both roles the peer must show a certificate."""
    tls = Tls.load(str(folder), server=server)
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.context.verify_mode == ssl.CERT_REQUIRED
    assert tls.context.check_hostname is not server
    assert tls.certificate == folder / ("server-cert.pem" if server else "client-cert.pem")


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    """And what a directory has to hold."""
    (folder / name).unlink()
    with pytest.raises(
        CredentialsError, match=f"{name}: No such file or directory; a directory for TLS holds "
    ) as raised:
        Tls.load(folder, server=True)
    assert raised.value.code is Code.TRANSPORT
    Tls.load(tls_directories.tls_dir(), server=False)  # the other role's files are not looked at


def test_a_directory_is_no_file(folder: Path) -> None:
    """The system's reason is told."""
    (folder / "client-key.pem").unlink()
    (folder / "client-key.pem").mkdir()
    with pytest.raises(CredentialsError, match=r"client-key\.pem: Is a directory"):
        Tls.load(folder, server=False)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("ca-cert.pem", "", "ca-cert.pem holds no CA certificate"),
        ("ca-cert.pem", "nothing of the kind", "ca-cert.pem holds no CA certificate"),
        ("client-cert.pem", "nothing of the kind", "are not a certificate and a key in PEM form"),
        ("client-key.pem", "", "are not a certificate and a key in PEM form"),
        ("ca-crl.pem", "nothing of the kind", "ca-crl.pem can't be used"),
    ],
)
def test_a_file_of_no_use_is_named(folder: Path, name: str, text: str, words: str) -> None:
    """Whatever is in it."""
    (folder / name).write_text(text)
    with pytest.raises(CredentialsError, match=words):
        Tls.load(folder, server=False)


def test_a_certificate_that_signs_nobody_is_no_ca(folder: Path) -> None:
    """One's own certificate in the CA's place."""
    shutil.copy(folder / "client-cert.pem", folder / "ca-cert.pem")
    with pytest.raises(CredentialsError, match="holds no CA certificate"):
        Tls.load(folder, server=False)


def test_a_key_of_another_certificate_is_named(folder: Path) -> None:
    """Both files are right by themselves."""
    shutil.copy(folder / "server-key.pem", folder / "client-key.pem")
    with pytest.raises(CredentialsError, match=r"client-key\.pem is not the key of .*client-cert\.pem"):
        Tls.load(folder, server=False)


def test_nobody_is_asked_for_a_password(folder: Path) -> None:
    """An encrypted key is refused: a service has nobody at its terminal."""
    openssl("pkey", "-in", folder / "client-key.pem", "-aes128", "-passout", "pass:x", "-out", folder / "locked.pem")
    (folder / "locked.pem").replace(folder / "client-key.pem")
    with pytest.raises(CredentialsError, match=r"client-key\.pem is encrypted; store it without a password"):
        Tls.load(folder, server=False)


def test_a_revoked_certificate_is_refused(folder: Path, tmp_path: Path) -> None:
    """By a list in `ca-crl.pem`, which is looked at because it is there."""
    config = tmp_path / "ca.cnf"
    config.write_text(
        f"[ca]\ndefault_ca = ca\n[ca]\ndatabase = {tmp_path}/index\ndefault_md = sha256\ndefault_crl_days = 1\n"
    )
    (tmp_path / "index").touch()
    signer = ("-config", config, "-cert", folder / "ca-cert.pem", "-keyfile", folder / "ca-key.pem")
    openssl("ca", *signer, "-gencrl", "-out", folder / "ca-crl.pem")
    assert handshake(Tls.load(folder, server=False), Tls.load(folder, server=True)) is None
    openssl("ca", *signer, "-revoke", folder / "client-cert.pem")
    openssl("ca", *signer, "-gencrl", "-out", folder / "ca-crl.pem")
    server = Tls.load(folder, server=True)
    error = handshake(Tls.load(folder, server=False), server)
    assert error is not None
    assert server.explain(error) == f"the peer's certificate is revoked by {folder}/ca-crl.pem"


def test_a_certificate_for_the_other_role_is_refused(folder: Path) -> None:
    """A client's can't stand for the server, so that no client can pretend to be it."""
    for what in ("cert", "key"):
        shutil.copy(folder / f"client-{what}.pem", folder / f"server-{what}.pem")
    client = Tls.load(folder, server=False)
    error = handshake(client, Tls.load(folder, server=True), of="client")
    assert error is not None
    assert client.explain(error) == "the peer's certificate is not meant for its role (server or client)"


def test_the_name_to_check_is_the_host_or_what_is_given() -> None:
    """A unix socket has no host: without a name there is nothing to check, and that is an error."""
    host, path = Address(host="there", port=1), Address(path="/run/socket")
    assert tls_directories.client().name_of(host) == "there"
    given = Tls.load(tls_directories.tls_dir(), server=False, hostname="given.example")
    assert given.name_of(host) == given.name_of(path) == "given.example"
    with pytest.raises(CredentialsError, match="unix:///run/socket has no host name"):
        tls_directories.client().name_of(path)


@pytest.mark.parametrize("code", [9, 10])
def test_dates_are_told(code: int) -> None:
    """Not yet, or no more; what to do differs."""
    error = ssl.SSLCertVerificationError("x")
    error.verify_code, error.verify_message = code, "said by OpenSSL"
    assert ("has expired" if code == 10 else "is not valid yet") in tls_directories.client().explain(error)


def test_what_has_no_words_of_its_own_is_told_in_openssls() -> None:
    """Its reason, without underscores; of a verification what it found."""
    error = ssl.SSLError(1, "[SSL] something (_ssl.c:1)")
    error.reason = "SOMETHING_ODD"
    assert tls_directories.client().explain(error) == "TLS: something odd"
    unverified = ssl.SSLCertVerificationError("x")
    unverified.verify_code, unverified.verify_message = 77, "odd."
    assert tls_directories.client().explain(unverified) == "the peer's certificate is refused: odd"


@pytest.mark.parametrize("error", [ssl.SSLWantReadError(), ssl.SSLWantWriteError(), ConnectionResetError(104, "reset")])
def test_what_is_no_failure_of_tls_passes(error: OSError) -> None:
    """What to wait for, and the system's own errors."""
    with pytest.raises(type(error)) as raised, tls_directories.client().explained():
        raise error
    assert raised.value is error


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=WAIT_S)


def handshake(client: Tls, server: Tls, of: str = "server") -> ssl.SSLError | None:
    """What one side finds wrong with it."""
    found: dict[str, ssl.SSLError] = {}
    ours, theirs = socket.socketpair()

    def one(name: str, wrap: Callable[[], ssl.SSLSocket]) -> None:
        try:
            with wrap() as wrapped:
                wrapped.do_handshake()
        except ssl.SSLError as error:
            found[name] = error

    other = threading.Thread(target=one, args=("server", lambda: server.wrap(theirs, None)))
    other.start()
    one("client", lambda: client.wrap(ours, Address(host="localhost")))
    other.join(WAIT_S)
    return found.get(of)
