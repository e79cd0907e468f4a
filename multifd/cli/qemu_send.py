"""`multifd qemu send`: a saved machine to a stock QEMU that waits for it, where its guest goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from multifd.cli.arguments import add_json, address
from multifd.cli.display import Display, View, open_display, rate_and_waits
from multifd.cli.ending import EXIT_CODES_HELP, Ending, ExitCode, InterruptedByUserError
from multifd.cli.names import printable
from multifd.cli.qemu_arguments import COMPRESSIONS, compression, qemu_channels
from multifd.cli.running import follow, raise_if_in_doubt, run_command
from multifd.cli.sizes import format_bytes
from multifd.cli.tls import add_tls_client, client_tls
from multifd.cli.wording import Wording
from multifd.elements import SyncDialect, ZeroPages
from multifd.qemu.common_options import CHANNELS
from multifd.qemu.report import QemuReport
from multifd.qemu.saved import SavedMachine
from multifd.qemu.source import QemuSource
from multifd.qemu.source_options import QemuSourceOptions
from multifd.stats import Progress

AUTO = "auto"
WORDING = Wording(
    peer="the QEMU",
    interrupted="interrupted before all of it was sent; the saved machine is as it was",
)
DESCRIPTION = """\
Send a saved machine (what `multifd qemu receive` makes, or a mapped-ram file
of QEMU's own) to a QEMU that waits for it. Its guest goes on there, as it was
when it was saved; the saved machine stays.

That QEMU needs the same machine type, memory, block names and devices, was
started with `-incoming defer`, and was given the capability `multifd` and the
same `multifd-channels` and `multifd-compression` before `migrate-incoming`.

example:
  multifd qemu send guest.saved --to tcp:there:4444 --channels 4
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `send` to the parser of `multifd qemu`."""
    parser = commands.add_parser(
        "send",
        help="send a saved machine to a QEMU that waits for it",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a saved machine")
    parser.add_argument(
        "--to", type=address, required=True, metavar="ADDRESS", help="where it waits: tcp:HOST:PORT or unix:PATH"
    )
    parser.add_argument(
        "--channels",
        type=qemu_channels,
        default=CHANNELS,
        metavar="N",
        help="its multifd-channels (default %(default)s, as is QEMU's)",
    )
    parser.add_argument(
        "--compression", choices=COMPRESSIONS, default="none", help="its multifd-compression (default %(default)s)"
    )
    parser.add_argument(
        "--zero-pages",
        choices=(AUTO, *(each.value for each in ZeroPages)),
        default=AUTO,
        help="how pages of zeros travel: in the channels' packets (multifd, for 9.0 and later), as records on main "
        "(legacy), or like any other (none); auto goes by the machine type",
    )
    parser.add_argument(
        "--sync",
        choices=(AUTO, *(each.value for each in SyncDialect)),
        default=AUTO,
        help="what marks sync points on main; auto goes by the machine type",
    )
    add_tls_client(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Ending:
    """Send it."""
    options = QemuSourceOptions(
        channels=arguments.channels,
        compression=compression(arguments.compression),
        zero_pages=None if arguments.zero_pages == AUTO else ZeroPages(arguments.zero_pages),
        sync=None if arguments.sync == AUTO else SyncDialect(arguments.sync),
        tls=client_tls(arguments.tls_dir, arguments.tls_hostname, arguments.to),
    )
    with SavedMachine.open(arguments.path) as machine:
        return run_command(send(machine, arguments.path, arguments.to, options, open_display(view=VIEW)))


async def send(machine: SavedMachine, path: Path, to: str, options: QemuSourceOptions, display: Display) -> Ending:
    """Send a saved machine that is open."""
    source = QemuSource(to, machine, options, path=str(path))
    try:
        report = await follow(source, display, wording=WORDING)
    except InterruptedByUserError:
        raise_if_in_doubt(source.report)
        raise
    assert isinstance(report, QemuReport)
    return Ending(ExitCode.COMPLETED, report.to_json(), describe(report))


def describe(report: QemuReport) -> str:
    """For people: a few lines of it."""
    packets = report.packets
    wire = report.bytes_sent + report.main_bytes
    ram = format_bytes(sum(report.blocks.values()))
    zero = packets.zero_pages + report.zero_records
    tls = f", {report.security}" if report.security not in ("", "plain") else ""
    rate = f"{format_bytes(report.bytes_sent / report.transfer_s)}/s" if report.transfer_s > 0 else "at once"
    lines = [
        f"sent {report.machine}, {ram} of RAM, {len(report.sections)} device sections: its guest goes on there",
        f"{packets.normal_pages} pages in {packets.packets} packets, {zero} more of them zero; "
        f"sync points {report.dialect.sync}, compression {report.dialect.compression}",
        f"{format_bytes(wire)} on the wire over {report.channels} channels in {report.elapsed_s:.2f} s, {rate}{tls}",
        *(f"note: {note}" for note in report.notes),
    ]
    return "\n".join(printable(line) for line in lines)


def _words(progress: Progress) -> list[str]:
    """What is left counts pages with contents alone, and so is of no use as a part of all RAM."""
    words = [progress.state]
    if progress.state == "pages":
        words.append(f"{format_bytes(progress.bytes_sent)} sent, {format_bytes(progress.bytes_left)} of pages left")
    return words + rate_and_waits(progress)


def _fraction(progress: Progress) -> float:
    return 1.0 - progress.bytes_left / progress.bytes_total if progress.bytes_total else 0.0


VIEW = View(_words, _fraction)
