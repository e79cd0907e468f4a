"""`multifd send`: files to a `multifd receive`."""

from __future__ import annotations

import argparse

from multifd import Source, SourceOptions
from multifd.cli.arguments import add_json, add_transfer, address, positive_size
from multifd.cli.display import FILES, Display, open_display
from multifd.cli.ending import EXIT_CODES_HELP, Ending
from multifd.cli.files_report import files_ending
from multifd.cli.open_files import allow_many_files
from multifd.cli.outgoing import OutgoingFiles
from multifd.cli.running import follow, run_command
from multifd.cli.tls import add_tls_client, client_tls
from multifd.cli.wording import Wording
from multifd.limits import SECONDS_MAX

WORDING = Wording(peer="the receiver", interrupted="interrupted; the receiver keeps nothing of it", block="file")
DESCRIPTION = """\
Send files to a `multifd receive` that is waiting. They appear there under
their names all together, and only once all of them are whole, checked and on
the disk; nothing is overwritten. Holes in sparse files stay holes.

example:
  multifd send disk.img notes.txt --to tcp://there:7000
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `send` to the parser."""
    parser = commands.add_parser(
        "send",
        help="send files to a `multifd receive`",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="regular files; each goes under its base name")
    parser.add_argument(
        "--to", type=address, required=True, metavar="ADDRESS", help="where it waits: tcp://HOST:PORT or unix:///PATH"
    )
    add_transfer(parser)
    add_tls_client(parser)
    parser.add_argument(
        "--bandwidth-limit",
        type=positive_size,
        metavar="SIZE",
        help="payload a second over all channels, e.g. 100MiB (default: none)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Ending:
    """Send the files."""
    allow_many_files()
    options = SourceOptions(
        channels=arguments.channels,
        codec=arguments.codec,
        bandwidth_limit=arguments.bandwidth_limit,
        deadline_s=SECONDS_MAX,  # nobody writes to files: it converges, however slow the link is
        tls=client_tls(arguments.tls_dir, arguments.tls_hostname, arguments.to),
    )
    with OutgoingFiles(arguments.files) as outgoing:
        return run_command(send(outgoing, arguments.to, options, open_display(view=FILES)))


async def send(outgoing: OutgoingFiles, to: str, options: SourceOptions, display: Display) -> Ending:
    """Send the files that are open."""
    files = {file.name: file.length for file in outgoing.files}
    source = Source(to, blocks=outgoing.blocks(), devices=[], feeds=[], owner=outgoing, options=options)
    report = await follow(source, display, wording=WORDING)
    return files_ending("sent", files, report)
