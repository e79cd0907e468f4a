"""`multifd qemu`: commands that talk to stock QEMUs in their own dialect, and those for what came of it."""

from __future__ import annotations

import argparse

from multifd.cli import qemu_inspect, qemu_receive, qemu_relay, qemu_send

COMMANDS = (qemu_receive, qemu_send, qemu_relay, qemu_inspect)
DESCRIPTION = """\
Be the destination or the source of a stock QEMU's multifd migration (7.2 to
11.1), or stand between two.
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `qemu`, with its commands, to the parser."""
    parser = commands.add_parser(
        "qemu",
        help="receive, send and inspect machines of stock QEMUs",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_command(inner)
