"""`multifd qemu inspect`: what is in a captured stream or a saved machine, and which rules of the wire it breaks."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from multifd.cli.arguments import add_json
from multifd.cli.display import Display, open_display
from multifd.cli.ending import EXIT_CODES_HELP, Ending, ExitCode
from multifd.cli.names import printable
from multifd.cli.running import run_command
from multifd.cli.sizes import format_bytes
from multifd.errors import CalledOffError
from multifd.qemu.inspect import Inspection, inspect
from multifd.session.qemu_ack import CHOICES

NOTE_INTERVAL_S = 1.0
DESCRIPTION = """\
Read a saved machine (what `multifd qemu receive` makes, or a mapped-ram file
of QEMU's own), or a captured stream (a folder with main.bin, channel0.bin,
... and return-path.bin, each perhaps with .zst), and say what is in it and
every rule of the wire that it breaks. Exits with 1 if it breaks any.

example:
  multifd qemu inspect guest.saved
  multifd qemu inspect proto/vectors/qemu/10.0-none-switchover-ack
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect` to the parser of `multifd qemu`."""
    parser = commands.add_parser(
        "inspect",
        help="say what is in a saved machine or a captured stream, and what is wrong with it",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH|CAPTURE", help="a saved machine, or the folder of a capture")
    parser.add_argument(
        "--switchover-ack",
        choices=CHOICES,
        help="of a capture: what the destination was told (default: on if it gave an acknowledgement)",
    )
    parser.add_argument("--no-vmdesc", action="store_true", help="of a capture: the machine sends no VM description")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Ending:
    """Inspect one."""
    return run_command(_inspect(arguments))


async def _inspect(arguments: argparse.Namespace) -> Ending:
    display = open_display()
    hashed = Hashed(display)
    try:
        found = await asyncio.to_thread(
            inspect,
            arguments.path,
            hashed.add,
            ack=arguments.switchover_ack,
            description=not arguments.no_vmdesc,
        )
    finally:
        hashed.end()
        display.close()
    broken = len(found.violations)
    fault = f"{broken} {'rule is' if broken == 1 else 'rules are'} broken; see the list" if broken else ""
    return Ending(ExitCode.FAILED if broken else ExitCode.COMPLETED, found.to_json(), describe(found), fault)


class Hashed:
    """Tells about once a second how much was hashed, until that is not wanted any more."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._bytes = 0
        self._ended = False
        self._next_at = time.monotonic() + NOTE_INTERVAL_S

    def add(self, count: int) -> None:
        """*pool*: so many bytes more. Raises `CalledOffError` after `end`: its thread can't be cancelled."""
        if self._ended:
            raise CalledOffError("nobody waits for it any more")
        self._bytes += count
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + NOTE_INTERVAL_S
            self._display.note(f"{format_bytes(self._bytes)} of RAM hashed")

    def end(self) -> None:
        """*loop*: nothing more need be hashed."""
        self._ended = True


def describe(found: Inspection) -> str:
    """For people: a page of it."""
    dialect = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found.dialect.items() if value)
    lines = [f"{found.kind} {found.path}", f"machine    {found.machine or 'unknown'}"]
    lines += [f"dialect    {dialect}"] if dialect else []
    lines += [f"channels   {found.channels}, {found.sync_points} sync points"] if found.channels else []
    if any(found.packets.values()):
        counts = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in found.packets.items() if value)
        lines.append(f"packets    {counts}")
    lines += [f"replies    {', '.join(found.return_path)}"] if found.return_path else []
    lines.append(f"blocks     {len(found.blocks)}, {format_bytes(sum(block.bytes for block in found.blocks))}")
    lines += [f"  {each.name:34} {format_bytes(each.bytes):>10}  {each.sha256 or 'not sent'}" for each in found.blocks]
    lines.append(f"sections   {len(found.sections)}, {format_bytes(sum(each['bytes'] for each in found.sections))}")
    lines += [f"  {each['name']:34} {each['instance']:>3} {each['bytes']:>8} bytes" for each in found.sections]
    lines += [f"note       {note}" for note in found.notes]
    lines += [f"violation  {each.rule}: {each.where}: {each.text}" for each in found.violations]
    lines += [] if found.violations else ["clean: no rule is broken"]
    return "\n".join(printable(line) for line in lines)
