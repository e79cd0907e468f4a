"""`--tls-dir` and `--tls-hostname`: what can't be is told before anything is done."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import tls_directories

from multifd.cli import main
from multifd.cli.ending import ExitCode, UsageError
from multifd.cli.hints import hint_of
from multifd.cli.tls import add_tls_client, add_tls_server, client_tls, server_tls
from multifd.errors import CredentialsError, TransportError

TCP, UNIX = "tcp://localhost:1", "unix:///run/socket"


def test_without_options_there_is_no_tls() -> None:
    """Plain is what one gets by asking for nothing."""
    assert server_tls(None) is None
    assert client_tls(None, None, UNIX) is None


def test_a_directory_makes_either_role() -> None:
    """And a name is kept."""
    folder = str(tls_directories.tls_dir())
    server, client = server_tls(folder), client_tls(folder, "there.example", UNIX)
    assert server is not None
    assert client is not None
    assert (server.server, client.server, client.hostname) == (True, False, "there.example")
    assert client_tls(folder, None, TCP) is not None


def test_a_name_without_a_directory_makes_no_sense() -> None:
    """Nothing would be checked against it."""
    with pytest.raises(UsageError, match="--tls-hostname is of no use without --tls-dir"):
        client_tls(None, "there.example", TCP)


def test_a_unix_socket_needs_a_name() -> None:
    """It is said by which option."""
    with pytest.raises(UsageError, match=r"unix:///run/socket has no host name .* --tls-hostname"):
        client_tls(str(tls_directories.tls_dir()), None, UNIX)


@pytest.mark.parametrize("command", ["send", "receive"])
def test_a_directory_of_no_use_is_a_usage_error(tmp_path: Path, command: str) -> None:
    """The file that is missing is named, and nothing is begun."""
    (tmp_path / "file").touch()
    rest = [str(tmp_path / "file"), "--to", TCP] if command == "send" else ["--listen", TCP, "--into", str(tmp_path)]
    ending = main.run([command, *rest, "--tls-dir", str(tmp_path)])
    assert ending.code is ExitCode.USAGE
    assert f"can't read {tmp_path}/ca-cert.pem: No such file or directory" in ending.fault


def test_a_command_with_two_sides_has_options_for_each() -> None:
    """By a prefix."""
    parser = argparse.ArgumentParser()
    add_tls_server(parser, "--near-tls")
    add_tls_client(parser, "--far-tls")
    chosen = parser.parse_args(["--near-tls-dir", "a", "--far-tls-dir", "b", "--far-tls-hostname", "c"])
    assert (chosen.near_tls_dir, chosen.far_tls_dir, chosen.far_tls_hostname) == ("a", "b", "c")


def test_what_to_do_about_tls_is_hinted() -> None:
    """Not that the link broke; files that are of no use say themselves what to do."""
    with pytest.raises(TransportError) as raised:
        raise TransportError("the main connection was lost: it got none") from OSError(71, "it got none")
    assert hint_of(raised.value) == "check the directories for TLS and the certificates on both sides"
    assert hint_of(CredentialsError("can't read x; make it")) == ""
