"""Errors say who, where and what would have been right; each has the code that the peer is told."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from multifd import errors
from multifd.errors import (
    Code,
    DeadlineError,
    DeviceError,
    LocalProtocolError,
    MigrationError,
    MultifdError,
    PeerError,
    RefusedError,
    RemoteProtocolError,
)
from multifd.messages import Refusal, What
from multifd.stats import Report

CONTROL = Path(__file__).resolve().parents[2] / "proto" / "control.md"
CLASSES: dict[str, type[MultifdError]] = {
    name: each for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, MultifdError)
}


def test_the_tree_is_that_of_the_docstring() -> None:
    """Every class stands in it, below its base, and nothing else does."""
    stack: list[str] = []
    shown: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)", line)
        if found:
            depth = len(found[1]) // 4
            del stack[depth:]
            shown[found[2]] = stack[-1] if stack else None
            stack.append(found[2])
    real = {name: each.__mro__[1].__name__ if each is not MultifdError else None for name, each in CLASSES.items()}
    assert shown == real


def test_codes_are_those_of_the_specification() -> None:
    """Numbers and names of proto/control.md section 4, and every class has one of them."""
    section = CONTROL.read_text(encoding="utf-8").partition("## 4. Reason codes")[2]
    listed = {int(number): name for number, name in re.findall(r"(\d+) ([a-z]+)[,.]", section)}
    assert {int(code): code.name.lower() for code in Code} == listed
    assert all(isinstance(each.code, Code) for each in CLASSES.values())


@pytest.mark.parametrize(("error", "whose"), [(LocalProtocolError, "this side"), (RemoteProtocolError, "the peer")])
def test_protocol_errors_say_whose_fault_it_is(error: type[errors.ProtocolError], whose: str) -> None:
    """Where, what would have been right, and what came."""
    raised = error("SYNC.round", "3", 7)
    assert str(raised) == f"{whose} broke the protocol at SYNC.round: expected 3, got 7"
    assert (raised.where, raised.expected, raised.got) == ("SYNC.round", "3", 7)
    assert raised.code is Code.PROTOCOL
    assert str(error("SYNC", "none here")) == f"{whose} broke the protocol at SYNC: expected none here"


def test_what_a_peer_sent_is_shown_in_part() -> None:
    """However long it is: it may be meant to fill a log."""
    assert len(str(RemoteProtocolError("INVENTORY", "a name", "x" * 100_000))) < 200


def test_all_refusals_are_told() -> None:
    """One after the other; without any it still says what happened."""
    refusals = (
        Refusal(What.BLOCK, "ram0", Code.REFUSED, "there is no such block here"),
        Refusal(What.DEVICE, "nic/0", Code.DEVICE, "another model"),
    )
    error = RefusedError(refusals)
    assert str(error) == "block ram0: there is no such block here; device nic/0: another model"
    assert error.refusals == refusals
    assert str(RefusedError(())) == "refused"


def test_errors_carry_what_programs_ask_for() -> None:
    """Not only text: the device, the peer's code, what was waited for, the report."""
    assert DeviceError("nic/0", "no").device == "nic/0"
    assert str(DeviceError("nic/0", "no")) == "device nic/0: no"
    assert PeerError(Code.STORAGE, "full").code is Code.STORAGE
    assert PeerError.code is Code.INTERNAL
    late = DeadlineError("the owner to stop", 30.0)
    assert (late.waited_for, str(late)) == ("the owner to stop", "gave up after 30 s waiting for the owner to stop")
    report = Report(side="source")
    assert MigrationError("why", report).report is report
