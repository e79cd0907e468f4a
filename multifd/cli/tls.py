"""`--tls-dir` and `--tls-hostname`, for every command that connects or listens."""

from __future__ import annotations

import argparse

from multifd.cli.ending import UsageError
from multifd.engine.tls import Tls
from multifd.engine.transport import Address
from multifd.errors import CredentialsError


def add_tls_server(parser: argparse.ArgumentParser, prefix: str = "--tls") -> None:
    """The options of a command that listens."""
    parser.add_argument(
        f"{prefix}-dir",
        metavar="DIR",
        help="take only connections under TLS whose certificate is signed by DIR/ca-cert.pem, and show "
        "DIR/server-cert.pem (key: server-key.pem)",
    )


def add_tls_client(parser: argparse.ArgumentParser, prefix: str = "--tls") -> None:
    """The options of a command that connects."""
    parser.add_argument(
        f"{prefix}-dir",
        metavar="DIR",
        help="connect under TLS: the other side's certificate must be signed by DIR/ca-cert.pem and be for its host "
        "name; DIR/client-cert.pem (key: client-key.pem) is shown to it",
    )
    parser.add_argument(
        f"{prefix}-hostname",
        metavar="NAME",
        help="the name that its certificate must have (default: the host of the address; a unix socket has none)",
    )


def server_tls(directory: str | None) -> Tls | None:
    """What `add_tls_server`'s option asks for; None is plain. Raise `UsageError` for a directory that is of no use."""
    return _load(directory, server=True) if directory is not None else None


def client_tls(directory: str | None, hostname: str | None, address: str, prefix: str = "--tls") -> Tls | None:
    """What `add_tls_client`'s options ask for, to connect to `address`. Raise `UsageError` as above."""
    if directory is None:
        if hostname is not None:
            raise UsageError(f"{prefix}-hostname is of no use without {prefix}-dir; give both or none")
        return None
    tls = _load(directory, server=False, hostname=hostname)
    if not hostname and Address.parse(address).path:
        raise UsageError(
            f"{address} has no host name for the other side's certificate to be checked against; say which to expect, "
            f"by {prefix}-hostname"
        )
    return tls


def _load(directory: str, *, server: bool, hostname: str | None = None) -> Tls:
    try:
        return Tls.load(directory, server=server, hostname=hostname)
    except CredentialsError as error:
        raise UsageError(str(error)) from error
