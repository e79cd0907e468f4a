"""A source for stock QEMUs, step by step: the order on main, sync points, the return path, completeness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from qemu_pair import BLOCKS, DEVICES, EARLY, OPENING, RAM, UUID, command, describe, machine

from multifd import elements as e
from multifd import limits
from multifd.elements import CommandNumber, Phase, SyncDialect, ZeroPages
from multifd.errors import (
    InDoubtError,
    LocalProtocolError,
    MultifdError,
    RefusedError,
    StorageError,
    TransportError,
)
from multifd.session import qemu_actions as a
from multifd.session.qemu_source import QemuSourceSession, SourceRules
from multifd.session.qemu_states import QemuSourceState

S = QemuSourceState
IN_ORDER = [S.NEW, S.OPENING, S.START, S.PAGES, S.PART, S.WAITING]


def session(state: e.MachineState | None = None, channels: int = 2, **rules: Any) -> QemuSourceSession:
    return QemuSourceSession(state or machine(), SourceRules(channels, **rules), describe)


def asked(it: QemuSourceSession) -> list[a.QemuSourceAction]:
    """What the machine asks for now."""
    actions = []
    while (action := it.poll_action()) is not None:
        actions.append(action)
    return actions


def source_in(state: S, **rules: Any) -> QemuSourceSession:
    """A session in this state at time 0; what it asked for is done."""
    it = session(**rules)
    steps = [it.start, it.handle_opened, it.handle_sync_sent, it.handle_pages_sent, it.handle_sync_sent]
    for step in steps[: IN_ORDER.index(state)]:
        step(0.0)
    assert it.state is state
    asked(it)
    return it


def run(it: QemuSourceSession) -> list[a.QemuSourceAction]:
    """All that is asked for, each done at once, up to the wait for SHUT."""
    it.start(0.0)
    actions: list[a.QemuSourceAction] = []
    answers = {a.OpenChannels: it.handle_opened, a.SendPages: it.handle_pages_sent, a.SyncChannels: it.handle_sync_sent}
    while (action := it.poll_action()) is not None:
        actions.append(action)
        if type(action) in answers:
            answers[type(action)](0.0)
    return actions


def failure(it: QemuSourceSession) -> MultifdError:
    """The error of a session that has failed, with nothing else to do."""
    assert it.state is S.FAILED
    (finished,) = asked(it)
    assert isinstance(finished, a.Finished)
    assert finished.error is not None
    assert it.wake_at is None
    return finished.error


def test_the_order_of_things_per_round() -> None:
    """Header at once, channels, return path, early sections, START, pages in one PART, END, devices, description; SYNC
    packets before each mark, and none for END.
    """
    state = machine()
    assert state.description is not None
    assert run(session(state)) == [
        a.Write((state.configuration,)),
        a.OpenChannels(2, UUID),
        a.Write((*OPENING, EARLY, e.RamBegins(Phase.START, RAM), e.BlockList(BLOCKS))),
        a.SyncChannels(),
        a.Write((e.SyncMark(), e.RamEnds(Phase.START), e.RamBegins(Phase.PART, RAM))),
        a.SendPages(ZeroPages.MULTIFD),
        a.SyncChannels(),
        a.Write((e.SyncMark(), e.RamEnds(Phase.PART))),
        a.Write((command(CommandNumber.SWITCHOVER_START),)),
        a.Write((e.RamBegins(Phase.END, RAM),)),
        a.Write((e.RamEnds(Phase.END), *DEVICES, e.EndOfState(), e.Description(state.description)), last=True),
    ]


def test_the_order_of_things_per_section() -> None:
    """To an old machine each end of a section is a mark, that of END too; no mark has a record of its own."""
    state = machine("pc-q35-7.2", switchover_start=False, early=(), description=None)
    assert run(session(state)) == [
        a.Write((state.configuration,)),
        a.OpenChannels(2, UUID),
        a.Write((*OPENING, e.RamBegins(Phase.START, RAM), e.BlockList(BLOCKS))),
        a.SyncChannels(),
        a.Write((e.RamEnds(Phase.START), e.RamBegins(Phase.PART, RAM))),
        a.SendPages(ZeroPages.LEGACY),
        a.SyncChannels(),
        a.Write((e.RamEnds(Phase.PART),)),
        a.Write((e.RamBegins(Phase.END, RAM),)),
        a.SyncChannels(),
        a.Write((e.RamEnds(Phase.END), *DEVICES, e.EndOfState()), last=True),
    ]


@pytest.mark.parametrize(
    ("name", "rules", "sync", "zero_pages"),
    [
        ("pc-q35-8.0", {}, SyncDialect.PER_SECTION, ZeroPages.LEGACY),
        ("pc-q35-8.1", {}, SyncDialect.PER_ROUND, ZeroPages.LEGACY),
        ("pc-q35-9.0", {}, SyncDialect.PER_ROUND, ZeroPages.MULTIFD),
        ("pc-q35-9.0", {"zero_pages": ZeroPages.NONE}, SyncDialect.PER_ROUND, ZeroPages.NONE),
        ("pc-q35-9.0", {"sync": SyncDialect.PER_SECTION}, SyncDialect.PER_SECTION, ZeroPages.MULTIFD),
        ("microvm", {}, SyncDialect.PER_ROUND, ZeroPages.LEGACY),
    ],
)
def test_dialects_follow_the_machine_type(
    name: str, rules: dict[str, Any], sync: SyncDialect, zero_pages: ZeroPages
) -> None:
    """The machine type decides where nothing is said."""
    it = session(machine(name), **rules)
    assert (it.sync, it.zero_pages) == (sync, zero_pages)
    assert bool(it.notes) is (name == "microvm")


@pytest.mark.parametrize(("name", "noted"), [("pc-q35-8.2", True), ("microvm", True), ("pc-q35-9.0", False)])
def test_zero_pages_that_an_old_destination_would_lose_are_noted(name: str, noted: bool) -> None:
    """In packets a QEMU before 9.0 does not see them, and completes."""
    notes = session(machine(name), zero_pages=ZeroPages.MULTIFD).notes
    assert any("before 9.0 ignores" in note for note in notes) is noted


def test_what_belongs_to_a_file_is_left_out() -> None:
    """A machine that comes from a mapped-ram file is sent as one for a socket; other capabilities stay."""
    mapped = e.RamBlock("pc.ram", 4096, mapped=e.MappedRam(4096, 1, 1 << 20))
    for capabilities, sent in (
        (("mapped-ram",), None),
        (("x-ignore-shared", "mapped-ram"), ("x-ignore-shared",)),
        (None, None),
    ):
        state = replace(machine(), configuration=e.Configuration("pc-q35-10.0", capabilities=capabilities))
        it = session(replace(state, blocks=(mapped,)))
        writes = [action for action in run(it) if isinstance(action, a.Write)]
        assert writes[0].elements == (e.Configuration("pc-q35-10.0", capabilities=sent),)
        assert writes[1].elements[-1] == e.BlockList((e.RamBlock("pc.ram", 4096),))
        assert any("without its main RAM" in note for note in it.notes) is (sent is not None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sections": DEVICES[:2]}, r"cpu 1 with 4 bytes of the VM description did not come\): save it again"),
        ({"early": ()}, "section 1 is timer"),
        ({"sections": (), "description": None}, "no device sections"),
        ({"blocks": ()}, "no RAM"),
        ({"ram": e.SectionHeader(2, "other", 0, 4)}, "no RAM"),
        ({"description": b"nonsense"}, "can't be read"),
    ],
)
def test_an_incomplete_machine_is_not_sent(changes: dict[str, Any], words: str) -> None:
    """A QEMU would not notice what is missing, so it is found before anything is connected."""
    with pytest.raises(StorageError, match=words):
        session(replace(machine(), **changes))


@pytest.mark.parametrize("rules", [{"channels": 0}, {"channels": 256}, {"shut_deadline_s": 0.0}])
def test_rules_that_cant_be(rules: dict[str, Any]) -> None:
    """They are found before anything happens."""
    with pytest.raises(LocalProtocolError):
        session(**rules)


def test_without_a_description_that_is_noted() -> None:
    """Nobody can tell then whether all sections are there."""
    assert "nothing tells whether all sections" in session(machine(description=None)).notes[0]


def test_shut_0_completes() -> None:
    """PONG and acks are noted, and SHUT 0 after the last byte is the end."""
    it = source_in(S.WAITING)
    for message in (e.SwitchoverAck(), e.Pong(1), e.Shut(0)):
        it.handle_return(message, 0.0)
    assert (it.state, it.pongs, it.acks) == (S.COMPLETED, [1], 1)
    assert asked(it) == [a.Finished(None)]
    it.handle_main_ended(None, 0.0)
    it.handle_return(e.Shut(1), 0.0)
    assert not it.cancel("late", 0.0)
    assert asked(it) == []


@pytest.mark.parametrize("state", [S.START, S.PAGES, S.PART])
def test_shut_0_too_early(state: S) -> None:
    """A destination that commits before it has everything is wrong, and is not believed."""
    it = source_in(state)
    it.handle_return(e.Shut(0), 0.0)
    assert "SHUT 0 too early" in str(failure(it))


@pytest.mark.parametrize("state", [S.START, S.PAGES, S.PART, S.WAITING])
def test_shut_1_is_a_refusal(state: S) -> None:
    """Whenever it comes, the destination's own log has the reason."""
    it = source_in(state)
    it.handle_return(e.Shut(1), 0.0)
    assert "the destination refused the machine (SHUT 1): see its own log" in str(failure(it))


@pytest.mark.parametrize("messages", [(e.Pong(2),), (e.Pong(1), e.Pong(1))])
def test_pongs_answer_pings(messages: tuple[e.Pong, ...]) -> None:
    """There was one PING: another value, or a second answer, is wrong."""
    it = source_in(S.START)
    for message in messages:
        it.handle_return(message, 0.0)
    assert "return path: PONG" in str(failure(it))


def test_nothing_before_the_return_path_is_open() -> None:
    """A destination that speaks before it was asked to is wrong."""
    it = source_in(S.OPENING)
    it.handle_return(e.SwitchoverAck(), 0.0)
    assert "nothing before OPEN_RETURN_PATH" in str(failure(it))


@pytest.mark.parametrize(
    ("state", "silence", "seconds", "words"),
    [
        (S.OPENING, False, limits.QEMU_SETUP_DEADLINE_S, "the channels to be connected"),
        (S.START, True, limits.QEMU_STALL_DEADLINE_S, "the destination to take more bytes"),
        (S.PAGES, True, limits.QEMU_STALL_DEADLINE_S, "the destination to take more bytes"),
        (S.PART, True, limits.QEMU_STALL_DEADLINE_S, "the destination to take more bytes"),
        (S.WAITING, True, 7.0, "SHUT; look at its log and at query-status"),
    ],
)
def test_every_wait_ends(state: S, silence: bool, seconds: float, words: str) -> None:
    """Destinations hang without an error: each wait has its deadline, put off by progress where bytes can move."""
    it = source_in(state, shut_deadline_s=7.0)
    assert it.wake_at == seconds
    it.handle_progress(5.0)
    assert it.wake_at == seconds + (5.0 if silence else 0.0)
    it.handle_timer(it.wake_at - 0.1)
    assert it.state is state
    it.handle_timer(it.wake_at)
    assert words in str(failure(it))


def test_a_missing_description_is_a_likely_reason() -> None:
    """If none is sent, the text asks for the destination's property."""
    it = session(machine(description=None))
    run(it)
    it.handle_timer(limits.QEMU_SHUT_DEADLINE_S)
    assert "suppress-vmdesc=on" in str(failure(it))


@pytest.mark.parametrize("state", [S.PAGES, S.WAITING])
def test_main_ends(state: S) -> None:
    """A destination that goes without a word before the last byte has left has failed."""
    it = source_in(state)
    it.handle_main_ended(RefusedError((), "reset"), 0.0)
    error = failure(it)
    assert "before everything was sent" in str(error)
    assert "(reset)" in str(error)
    assert isinstance(error, TransportError)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda it: it.handle_main_ended(RefusedError((), "reset"), 0.0), "main ended before SHUT"),
        (lambda it: it.handle_timer(limits.QEMU_SHUT_DEADLINE_S), "the destination's SHUT"),
        (lambda it: it.handle_failure(RefusedError((), "lost"), 0.0), "lost; the destination may have the machine"),
        (lambda it: it.handle_return(e.Pong(7), 0.0), "PONG"),
        (lambda it: it.cancel("enough", 0.0), "enough; the destination may have the machine"),
    ],
)
def test_every_end_but_shut_is_in_doubt_when_all_was_sent(
    end: Callable[[QemuSourceSession], object], words: str
) -> None:
    """The destination may run the guest, so one looks before it is sent again; what happened is the cause behind."""
    it = source_in(S.WAITING)
    it.handle_all_sent(0.0)
    end(it)
    error = failure(it)
    assert isinstance(error, InDoubtError)
    assert isinstance(error.__cause__, MultifdError)
    assert words in str(error)
    assert str(error).count("look at its log and at query-status before it is sent again") == 1


@pytest.mark.parametrize(("status", "state"), [(0, S.COMPLETED), (1, S.FAILED)])
def test_shut_leaves_no_doubt(status: int, state: S) -> None:
    """Whatever it says."""
    it = source_in(S.WAITING)
    it.handle_all_sent(0.0)
    it.handle_return(e.Shut(status), 0.0)
    assert it.state is state
    (finished,) = asked(it)
    assert isinstance(finished, a.Finished)
    assert not isinstance(finished.error, InDoubtError)


@pytest.mark.parametrize("state", IN_ORDER)
def test_failure_and_cancel_end_it_anywhere(state: S) -> None:
    """What was asked for and not begun is taken back, and whatever is reported later changes nothing."""
    it = source_in(state)
    it.handle_failure(RefusedError((), "one"), 0.0)
    it.handle_failure(RefusedError((), "two"), 0.0)
    assert str(failure(it)) == "one"
    other = source_in(state)
    assert other.cancel("enough", 0.0)
    assert other.state is S.CANCELLED
    for late in (other.handle_opened, other.handle_pages_sent, other.handle_sync_sent, other.handle_progress):
        late(0.0)
    assert [type(each) for each in asked(other)] == [a.Finished]


def test_what_was_asked_for_and_not_begun_is_taken_back() -> None:
    """Nothing is written for a session that was called off before the engine got to it."""
    it = session()
    it.start(0.0)
    it.cancel("enough", 0.0)
    assert [type(each) for each in asked(it)] == [a.Finished]


def test_reports_out_of_turn_are_ours() -> None:
    """Reporting what was not asked for is a fault of this side."""
    it = source_in(S.PAGES)
    with pytest.raises(LocalProtocolError, match="sync sent"):
        it.handle_sync_sent(0.0)
    with pytest.raises(LocalProtocolError, match="QEMU source state"):
        it.handle_opened(0.0)
