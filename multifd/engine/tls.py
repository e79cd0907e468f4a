"""TLS for every connection, of both dialects: who this side is, whom it trusts, and TLS's errors in plain words.

Both sides show a certificate (mutual x509), in files named as QEMU names them, so that one directory serves both:
`ca-cert.pem`, and `server-cert.pem` with `server-key.pem` or `client-cert.pem` with `client-key.pem`; if there is a
`ca-crl.pem`, what it revokes is refused. Whoever connects is the client, and checks the server's name.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multifd.engine.transport import Address
from multifd.errors import CredentialsError

CA, CRL = "ca-cert.pem", "ca-crl.pem"
_HINT = "a directory for TLS holds ca-cert.pem, and {0}-cert.pem with {0}-key.pem"


@dataclass(frozen=True, slots=True)
class Tls:
    """How this side does TLS in one role. Made by `load`; may be used for any number of connections and threads."""

    directory: Path
    server: bool
    """Whether it accepts connections; else it makes them."""
    hostname: str | None
    """A client's: the name that the server's certificate must have; None is the host that it connects to."""
    context: ssl.SSLContext = field(repr=False, compare=False)

    @classmethod
    def load(cls, directory: str | Path, *, server: bool, hostname: str | None = None) -> Tls:
        """Read the files of one role, and check that they belong together. Raises `CredentialsError`, which names the
        file and says what to do.
        """
        folder = Path(directory)
        role = "server" if server else "client"
        cert, key = folder / f"{role}-cert.pem", folder / f"{role}-key.pem"
        for path in (folder / CA, cert, key):
            _check_readable(path, role)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_RENEGOTIATION
        if server:
            context.num_tickets = 0  # nobody resumes; a client that only sends would close over them, which is a reset
        _trust(context, folder)
        _show(context, cert, key)
        return cls(folder, server, hostname or None, context)

    @property
    def certificate(self) -> Path:
        """What this side shows."""
        return self.directory / ("server-cert.pem" if self.server else "client-cert.pem")

    def name_of(self, address: Address) -> str:
        """The name that the server at `address` must have. Raises `CredentialsError` if there is none."""
        name = self.hostname or address.host
        if not name:
            raise CredentialsError(
                f"{address} has no host name for the peer's certificate to be checked against; give one as TLS hostname"
            )
        return name

    def wrap(self, connection: socket.socket, address: Address | None) -> ssl.SSLSocket:
        """Take a connected socket over, its handshake not done; `address` is what a client connected to. Raises
        `OSError`, `CredentialsError`.
        """
        return self.context.wrap_socket(
            connection,
            server_side=self.server,
            server_hostname=None if address is None else self.name_of(address),
            do_handshake_on_connect=False,
        )

    def shake_hands(self, connection: ssl.SSLSocket) -> None:
        """Go on with the handshake of a non-blocking connection. Raises `OSError` with what went wrong, or what to wait
        for.
        """
        with self.explained():
            try:
                connection.do_handshake()
            except (ConnectionError, ssl.SSLEOFError) as error:
                raise OSError(errno.EPROTO, _ENDED) from error

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn TLS's errors into an `OSError` that a person understands. Those that only say what to wait for pass."""
        try:
            yield
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            raise OSError(errno.EPROTO, self.explain(error)) from error

    def explain(self, error: ssl.SSLError) -> str:
        """What went wrong, and with which file."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._explain_verification(error)
        if isinstance(error, ssl.SSLEOFError):
            return "the peer ended the connection"
        reason = error.reason or ""
        if reason in _REFUSED:
            return f"the peer does not take this side's certificate, {self.certificate}: {_REFUSED[reason]}"
        return _REASONS.get(reason) or f"TLS: {(reason or str(error)).replace('_', ' ').lower()}"

    def _explain_verification(self, error: ssl.SSLCertVerificationError) -> str:
        what = _UNVERIFIED.get(error.verify_code, "is refused: {message}")
        said = {"ca": self.directory / CA, "crl": self.directory / CRL, "message": error.verify_message.rstrip(".")}
        return "the peer's certificate " + what.format(**said)


def _check_readable(path: Path, role: str) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise CredentialsError(f"can't read {path}: {error.strerror}; {_HINT.format(role)}") from error


def _trust(context: ssl.SSLContext, folder: Path) -> None:
    try:
        context.load_verify_locations(folder / CA)
        if not context.get_ca_certs():
            raise ssl.SSLError("none")
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError(f"{folder / CA} holds no CA certificate in PEM form; put one there") from error
    if not (folder / CRL).exists():
        return
    try:
        context.load_verify_locations(folder / CRL)
    except OSError as error:
        raise CredentialsError(
            f"{folder / CRL} can't be used as a list of revoked certificates; repair or remove it"
        ) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _show(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    def encrypted() -> str:  # asked only for such a key; else OpenSSL would ask at the terminal
        raise CredentialsError(
            f"{key} is encrypted; store it without a password (openssl pkey), readable for you alone"
        )

    try:
        context.load_cert_chain(cert, key, password=encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CredentialsError(f"{key} is not the key of {cert}; make both anew") from error
        raise CredentialsError(f"{cert} and {key} are not a certificate and a key in PEM form") from error


_ENDED = "the peer ended TLS's handshake; perhaps it does not speak TLS, or does not take this side's certificate"
_OTHER_NAME = "has another name: {message}; connect by a name that it has, or give that name as TLS hostname"
_NOT_SIGNED = "is not signed by {ca}; both sides need certificates of one CA"
_UNVERIFIED = {
    2: _NOT_SIGNED,
    3: "can't be checked: {crl} is not of its CA",
    9: "is not valid yet; look at both clocks",
    10: "has expired; make a new one",
    12: "can't be checked: {crl} has expired",
    18: _NOT_SIGNED,
    19: _NOT_SIGNED,
    20: _NOT_SIGNED,
    21: _NOT_SIGNED,
    23: "is revoked by {crl}",
    26: "is not meant for its role (server or client)",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""OpenSSL's verify codes."""

_REFUSED = {
    "SSLV3_ALERT_BAD_CERTIFICATE": "it finds it bad",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is not meant for this role",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it is revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not say why",
    "TLSV1_ALERT_UNKNOWN_CA": "it is not signed by a CA that the peer trusts",
    "TLSV1_ALERT_ACCESS_DENIED": "it is denied access",
    "TLSV1_ALERT_DECRYPT_ERROR": "its signature is wrong",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it got none",
}
"""Alerts of the peer about our certificate, by OpenSSL's names."""

_NO_TLS = "the peer does not speak TLS; give both sides a directory for it, or none"
_NO_CIPHER = "the peer has no cipher in common with this side, or other credentials than x509"
_OLD = "the peer speaks no TLS from version 1.2 on"
_REASONS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "NO_SHARED_CIPHER": _NO_CIPHER,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_CIPHER,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate; it needs one of the CA of this side",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "a record was changed under way",
    "SSLV3_ALERT_BAD_RECORD_MAC": "a record was changed under way",
}
"""Other reasons, by OpenSSL's names."""
