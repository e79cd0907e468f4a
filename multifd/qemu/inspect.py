"""What is in a captured stream or a saved machine, and which rules it breaks: `multifd qemu inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multifd import elements as e
from multifd.errors import RemoteProtocolError, StorageError
from multifd.qemu.capture import Capture
from multifd.qemu.lint import Linter, Violation
from multifd.qemu.report import ChannelTally
from multifd.qemu.saved import SavedMachine
from multifd.session.qemu_machine_type import machine_type
from multifd.session.qemu_sections import first_difference
from multifd.wire.qemu_description import described_sections

Done = Callable[[int], None]
"""Hears of every piece of RAM that was hashed, bytes."""


@dataclass(frozen=True, slots=True)
class BlockContents:
    """One RAM block; `sha256` of its final contents, empty if they are not there."""

    name: str
    bytes: int
    sha256: str


@dataclass(slots=True)
class Inspection:
    """What was found. `violations` is empty when all is well."""

    path: str
    kind: str
    """capture or saved machine."""
    machine: str = ""
    page_size: int = e.PAGE_BYTES
    uuid: str = ""
    channels: int = 0
    dialect: dict[str, str] = field(default_factory=dict)
    """sync, ack, zero_pages, compression: in the words of the options; empty where nothing shows it."""
    blocks: list[BlockContents] = field(default_factory=list)
    sections: list[dict[str, Any]] = field(default_factory=list)
    """name, instance, bytes of each, in their order."""
    sync_points: int = 0
    packets: dict[str, int] = field(default_factory=dict)
    return_path: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As one object."""
        return asdict(self)


def inspect(path: Path, done: Done = lambda _: None, *, ack: str | None = None, description: bool = True) -> Inspection:
    """Look at a captured stream, a saved machine or a mapped-ram file of QEMU's. Reads all of it, which takes a while.

    `ack` and `description` are for captures: see `Linter`. Raises `StorageError` if it is none of these or can't be
    read.
    """
    if Capture.is_capture(path):
        return _inspect_capture(path, done, ack=ack, description=description)
    if not path.exists():
        raise StorageError(f'there is no "{path}"')
    return _inspect_saved(path, done)


def _inspect_capture(path: Path, done: Done, *, ack: str | None, description: bool) -> Inspection:
    capture = Capture(path)
    linter = Linter(capture, ack=ack, description=description)
    linter.run()
    session, state = linter.session, linter.state
    found = Inspection(str(path), "capture", channels=capture.channels)
    if session.configuration is not None:
        found.machine, found.page_size = session.configuration.machine, session.configuration.page_size
    found.uuid = session.uuid.hex()
    tally = ChannelTally.total([channel.tally for channel in linter.channels])
    found.dialect = {
        "sync": session.sync.value if session.sync else "",
        "ack": session.acks.mode.value,
        "zero_pages": _zero_pages(tally.zero_pages, linter.zero_records),
        "compression": linter.compression.name.lower() if linter.compression is not None else "",
    }
    digests = linter.machine.digest(done) if state is not None else {}
    missing = {block.name for block in session.blocks if session.without_ram and block.name not in _sent(linter)}
    found.blocks = [
        BlockContents(block.name, block.length, "" if block.name in missing else digests.get(block.name, ""))
        for block in session.blocks
    ]
    found.sections = _section_rows(session.sections.in_order)
    found.sync_points = session.marks
    found.packets = {
        "packets": tally.packets,
        "syncs": tally.syncs,
        "normal_pages": tally.normal_pages,
        "zero_pages": tally.zero_pages,
        "device": sum(channel.device_packets for channel in linter.channels),
        "zero_records": linter.zero_records,
        "page_records": linter.page_records,
    }
    found.return_path = [_reply_words(each) for each in linter.replies]
    found.notes, found.violations = session.notes, linter.violations
    return found


def _sent(linter: Linter) -> set[str]:
    """Blocks of which any page came."""
    return {name for name, block in linter.machine.blocks.items() if block.present.any()}


def _zero_pages(listed: int, records: int) -> str:
    words = [word for word, count in (("multifd", listed), ("legacy", records)) if count]
    return "+".join(words) or "none"


def _inspect_saved(path: Path, done: Done) -> Inspection:
    saved = SavedMachine.open(path)
    try:
        state = saved.state
        kind = machine_type(state.configuration.machine)
        found = Inspection(str(path), "saved machine", state.configuration.machine, state.configuration.page_size)
        found.uuid = state.uuid.hex()
        found.dialect = {
            "sync": kind.sync.value,
            "ack": kind.ack.value if kind.ack else "",
            "zero_pages": kind.zero_pages.value,
            "compression": "",
        }
        digests = saved.digest(done)
        found.blocks = [BlockContents(each.name, each.length, digests.get(each.name, "")) for each in state.blocks]
        found.sections = _section_rows([*state.early, *state.sections])
        found.violations = _differences(state, digests, saved.digests)
        if not saved.digests:
            found.notes.append("no digests were stored with it: nothing tells whether RAM is still what was received")
        return found
    finally:
        saved.close()


def _differences(state: e.MachineState, found: Mapping[str, str], stored: Mapping[str, str]) -> list[Violation]:
    violations = [
        Violation("digest", name, f"the contents have SHA-256 {found.get(name, 'none')}, stored is {digest}")
        for name, digest in stored.items()
        if found.get(name) != digest
    ]
    if state.description is None:
        return violations
    try:
        difference = first_difference([*state.early, *state.sections], described_sections(state.description))
    except RemoteProtocolError as error:
        difference = str(error)
    return violations + ([Violation("sections", "VM description", difference)] if difference else [])


def _section_rows(sections: Sequence[e.Section]) -> list[dict[str, Any]]:
    return [
        {"name": each.header.name, "instance": each.header.instance, "phase": each.phase.name, "bytes": len(each.body)}
        for each in sections
    ]


def _reply_words(reply: e.ReturnMessage) -> str:
    match reply:
        case e.Pong(value=value):
            return f"PONG {value}"
        case e.Shut(status=status):
            return f"SHUT {status}"
        case _:
            return "SWITCHOVER_ACK"
