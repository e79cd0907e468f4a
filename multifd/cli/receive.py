"""`multifd receive`: files from a `multifd send` into a directory."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from multifd import Destination, DestinationOptions, Listener, Tls, listen
from multifd.cli.arguments import add_json, address
from multifd.cli.display import FILES, Display, open_display
from multifd.cli.ending import EXIT_CODES_HELP, Ending, UsageError
from multifd.cli.files_report import files_ending
from multifd.cli.incoming import IncomingFiles
from multifd.cli.names import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, printable
from multifd.cli.open_files import allow_many_files
from multifd.cli.running import follow, run_command
from multifd.cli.tls import add_tls_server, server_tls
from multifd.cli.wording import Wording

LINGER_NOTE_S = 1.0  # closing takes no time, unless a source has to be answered still
DESCRIPTION = """\
Wait for one `multifd send` and take its files into a directory. They get their
names all together, once all of them are whole, checked and on the disk; until
then, and after a failure, nothing is there under these names. A file that
exists is never overwritten: the sender is refused. The first line on stderr
says which address it listens on (port 0 takes a free one).

example:
  multifd receive --listen tcp://0.0.0.0:7000 --into incoming
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `receive` to the parser."""
    parser = commands.add_parser(
        "receive",
        help="receive files from a `multifd send`",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen", type=address, required=True, metavar="ADDRESS", help="tcp://HOST:PORT or unix:///PATH"
    )
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="an existing directory")
    add_tls_server(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Ending:
    """Receive files once."""
    if not arguments.into.is_dir():
        raise UsageError(f"{printable(str(arguments.into))} is not a directory; make it first")
    tls = server_tls(arguments.tls_dir)
    allow_many_files()
    with IncomingFiles(arguments.into) as incoming:
        leftovers = unfinished(arguments.into)
        return run_command(receive(arguments.listen, incoming, open_display(view=FILES), leftovers, tls))


def unfinished(directory: Path) -> int:
    """How many temporary files of other receives lie in `directory`."""
    names = (entry.name for entry in directory.iterdir())
    return sum(name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX) for name in names)


def leftovers_note(count: int, directory: Path) -> str:
    """What to say about them."""
    several, them = ("1 unfinished file", "it") if count == 1 else (f"{count} unfinished files", "them")
    pattern = f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"
    return (
        f'{several} ({pattern}) of an earlier receive in "{directory}"; remove {them}, unless another receive is '
        "running there"
    )


async def receive(
    where: str, incoming: IncomingFiles, display: Display, leftovers: int = 0, tls: Tls | None = None
) -> Ending:
    """Listen, and take one session's files. `leftovers`: how many unfinished files lay there before."""
    listener = await listen(where, tls)
    try:
        display.note(f"listening on {listener.address}")
        if leftovers:
            display.note(leftovers_note(leftovers, incoming.directory))
        destination = Destination(
            listener,
            blocks=incoming.provide,
            devices=[],
            kinds=[],
            owner=incoming,
            options=DestinationOptions(channels_max=64, end_if_refused=True),
        )
        wording = Wording(
            peer="the sender", interrupted=f'interrupted; nothing was kept in "{incoming.directory}"', block="file"
        )
        report = await follow(destination, display, may_wait_for_peer=True, wording=wording)
    finally:
        await close(listener, display)
    return files_ending("received", incoming.published, report)


async def close(listener: Listener, display: Display) -> None:
    """Close it. A signal ends the wait for a source that has not confirmed the end: what has arrived has arrived."""
    closing = asyncio.ensure_future(listener.close())
    with contextlib.suppress(asyncio.CancelledError):
        done, _ = await asyncio.wait([closing], timeout=LINGER_NOTE_S)
        if not done:
            display.note("the source has not confirmed the end: staying to answer it; a signal ends that")
        await closing
