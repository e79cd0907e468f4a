"""What to do about an error, in a few words. Pure; knows the errors of the library and the words they begin with."""

from __future__ import annotations

import errno
import re

from multifd.errors import (
    Code,
    CredentialsError,
    MigrationError,
    MultifdError,
    PeerError,
    TrackingError,
    TransportError,
)

_BY_CODE = {
    Code.VERSION: "install versions of multifd that overlap on both sides",
    Code.FEATURE: "choose options that both sides have",
    Code.BUSY: "try again when the other session there has ended",
    Code.CONVERGENCE: "allow a longer stop or more time, or give it more bandwidth",
    Code.STORAGE: "make room or move what is in the way at the destination, then try again",
}
_UNREADABLE = "check that this is the right path, and that what is there is whole and may be read"
_CONNECT = "check the address, and that the other side is running and reachable"
_LOST = "the other side died or the link broke; start both again"
_TLS = "check the directories for TLS and the certificates on both sides"
_LISTEN = {
    errno.EADDRINUSE: "take another address or port; port 0 takes a free one",
    errno.EADDRNOTAVAIL: "listen on an address of this host; 0.0.0.0 stands for all of them",
    errno.EACCES: "take a port from 1024, or a path in a directory that you may write to",
    errno.ENOENT: "make the socket's directory first",
    errno.ENOTDIR: "the socket's path must lead through directories",
}
_LISTEN_OTHERWISE = "take another address"
_NOT_TO_BE_READ = re.compile(r"can't (read|use) |there is no |\".*\" is (damaged: |no capture: )", re.DOTALL)
_EXPLAINED = ("has cancelled or died", "its stderr says why", "see its own log")  # who, and where to look


def hint_of(error: BaseException) -> str:
    """What to do about `error`, or nothing. What is behind a failed migration counts, not that it failed."""
    origin = error.__cause__ if isinstance(error, MigrationError) else error
    if not isinstance(origin, MultifdError):
        return ""
    if isinstance(origin, TrackingError | CredentialsError):  # its own text says what to ask for instead
        return ""
    text = str(origin)
    if origin.code is not Code.TRANSPORT:
        unreadable = origin.code is Code.STORAGE and _NOT_TO_BE_READ.match(text)
        return _UNREADABLE if unreadable else _BY_CODE.get(origin.code, "")
    return _hint_of_connection(origin, text)


def _hint_of_connection(origin: MultifdError, text: str) -> str:
    behind = origin.__cause__
    number = behind.errno if isinstance(behind, OSError) else None
    if number == errno.EPROTO:  # of TLS, see `Tls.explained`
        return _TLS
    if isinstance(origin, TransportError) and text.startswith("can't listen on "):
        return _LISTEN.get(number or 0, _LISTEN_OTHERWISE)
    if any(words in text for words in _EXPLAINED):
        return ""
    if text.removeprefix("the far relay: ").startswith("can't connect to "):
        return _TLS if "certificate" in text else _CONNECT
    return _LOST


def called_off_by_peer(error: MigrationError) -> bool:
    """Whether it was the other side's wish."""
    return isinstance(error.__cause__, PeerError) and error.__cause__.code is Code.CANCELLED
