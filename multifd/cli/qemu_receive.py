"""`multifd qemu receive`: a machine from a stock QEMU into a saved machine."""

from __future__ import annotations

import argparse
import asyncio
import threading
from pathlib import Path

from multifd.cli.arguments import add_json, address, amount, positive_size
from multifd.cli.display import Display, View, open_display, rate_and_waits, sent_fraction
from multifd.cli.ending import EXIT_CODES_HELP, Ending, ExitCode, InterruptedByUserError, UsageError
from multifd.cli.names import printable
from multifd.cli.qemu_arguments import COMPRESSIONS, compression, qemu_channels
from multifd.cli.running import follow, raise_if_in_doubt, run_command
from multifd.cli.sizes import format_bytes, format_part
from multifd.cli.tls import add_tls_server, server_tls
from multifd.cli.wording import Wording
from multifd.engine.session_run import to_its_end, wait_out
from multifd.engine.tls import Tls
from multifd.limits import SECONDS_MAX
from multifd.qemu.common_options import CHANNELS
from multifd.qemu.destination import QemuDestination
from multifd.qemu.destination_options import QemuDestinationOptions
from multifd.qemu.listener import QemuListener
from multifd.qemu.report import QemuReport
from multifd.qemu.saved import SavingMachine
from multifd.session.qemu_ack import CHOICES
from multifd.stats import Outcome, Progress

WORDING = Wording(peer="the QEMU", interrupted="interrupted; nothing was kept, and the guest runs on at the source")
DESCRIPTION = """\
Be the destination of a QEMU's multifd migration, and save the machine: its
RAM, the state of its devices, all that is needed to let it run again. PATH
becomes a folder with a file that a QEMU from 9.0 on loads by itself, and a
manifest; `multifd qemu send` gives it to any QEMU. It is there when all of it
is verified and on the disk, and not before: only then the source is told that
it has been given up. Until then any failure leaves the guest running there.

The source needs the capabilities `multifd` and `return-path`, and the same
`multifd-channels` and `multifd-compression`. The first line on stderr says
which address this listens on (port 0 takes a free one).

example:
  multifd qemu receive --listen tcp:0.0.0.0:4444 --into guest.saved
  (qemu) migrate -d tcp:HOST:4444
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `receive` to the parser of `multifd qemu`."""
    parser = commands.add_parser(
        "receive",
        help="receive a machine from a QEMU and save it",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen", type=address, required=True, metavar="ADDRESS", help="tcp:HOST:PORT or unix:PATH, as QEMU writes it"
    )
    parser.add_argument("--into", type=Path, required=True, metavar="PATH", help="what to save it as; must not exist")
    parser.add_argument(
        "--channels",
        type=qemu_channels,
        default=CHANNELS,
        metavar="N",
        help="the source's multifd-channels (default %(default)s, as is QEMU's)",
    )
    parser.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default="none",
        help="the source's multifd-compression (default %(default)s)",
    )
    _add_acknowledgement(parser)
    parser.add_argument(
        "--reserve",
        type=positive_size,
        metavar="SIZE",
        help="have storage for so much RAM before the source is let in: faster, and a full disk is known at once",
    )
    parser.add_argument(
        "--no-vmdesc",
        action="store_true",
        help="the source's machine has suppress-vmdesc=on: its state ends the stream",
    )
    parser.add_argument(
        "--allow-ignore-shared",
        action="store_true",
        help="take a stream with x-ignore-shared, which does not carry the main memory (otherwise refused)",
    )
    parser.add_argument("--no-digests", action="store_true", help="make no SHA-256 of the RAM blocks afterwards")
    add_tls_server(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_acknowledgement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--switchover-ack",
        choices=CHOICES,
        default="off",
        help="on if the source has this capability: it then waits for acknowledgements, one in all (legacy, machine "
        "types up to 11.0) or one for each request of a device (counted, from 11.1 on); on goes by the machine type "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--hold-ack",
        type=amount,
        default=0.0,
        metavar="SECONDS",
        help="hold each acknowledgement back for so long: the source goes on copying meanwhile",
    )


def run(arguments: argparse.Namespace) -> Ending:
    """Receive one machine."""
    _check_acknowledgement(arguments)
    options = QemuDestinationOptions(
        channels=arguments.channels,
        compression=compression(arguments.compression),
        switchover_ack=arguments.switchover_ack,
        hold_ack_s=arguments.hold_ack,
        description=not arguments.no_vmdesc,
        allow_ignore_shared=arguments.allow_ignore_shared,
        digests=not arguments.no_digests,
    )
    tls = server_tls(arguments.tls_dir)
    display = open_display(view=VIEW)
    return run_command(
        receive(arguments.listen, arguments.into, options, tls=tls, reserve=arguments.reserve, display=display)
    )


def _check_acknowledgement(arguments: argparse.Namespace) -> None:
    if arguments.hold_ack and arguments.switchover_ack == "off":
        raise UsageError("--hold-ack has nothing to hold back without acknowledgements; add --switchover-ack on")
    if arguments.hold_ack > SECONDS_MAX:
        raise UsageError(f"--hold-ack takes at most {SECONDS_MAX:g} seconds, not {arguments.hold_ack:g}")


async def receive(
    where: str,
    into: Path,
    options: QemuDestinationOptions,
    *,
    tls: Tls | None = None,
    reserve: int | None = None,
    display: Display,
) -> Ending:
    """Listen, and take one machine. Whatever goes wrong before the source is done, nothing is left behind."""
    listener: QemuListener | None = None
    destination: QemuDestination | None = None
    saving = SavingMachine(into)  # on the loop, where a signal is a cancellation and comes at an await
    try:
        saving.received |= {
            "channels": options.channels,
            "compression": options.compression.name.lower(),
            "tls": tls is not None,
        }
        if reserve is not None:
            await _reserve(saving, reserve, display)
        listener = QemuListener.open(where, tls)
        display.note(f"listening on {listener.uri}")
        destination = QemuDestination(listener, saving, options, path=str(saving.path))
        report = await _received(destination, display)
    finally:
        if listener is not None:
            await listener.close()
        if destination is None or not _is_kept(destination):
            await to_its_end(asyncio.to_thread(saving.abort))
    return Ending(ExitCode.COMPLETED, report.to_json(), describe(report))


async def _received(destination: QemuDestination, display: Display) -> QemuReport:
    """Run it to its end. Signals that come after SHUT 0 end only what is left to do: the machine is nowhere else."""
    try:
        await follow(destination, display, wording=WORDING)
    except InterruptedByUserError:
        raise_if_in_doubt(destination.report)
        if not _is_kept(destination):
            raise
    assert destination.report is not None
    return destination.report


def _is_kept(destination: QemuDestination) -> bool:
    """The source was told that it is here, or nobody knows."""
    return destination.report is not None and destination.report.outcome in (Outcome.COMPLETED, Outcome.IN_DOUBT)


async def _reserve(saving: SavingMachine, length: int, display: Display) -> None:
    display.note(f"reserving {format_bytes(length)}")
    enough = threading.Event()
    reserving = asyncio.to_thread(saving.reserve, length, lambda: not enough.is_set())
    work = asyncio.ensure_future(reserving)
    try:
        await asyncio.shield(work)
    finally:
        enough.set()
        await wait_out(work)


def describe(report: QemuReport) -> str:
    """For people: a few lines of it."""
    packets, dialect = report.packets, report.dialect
    ram = f"{format_bytes(sum(report.blocks.values()))} of RAM"
    if report.without_ram:
        ram = "without its main memory (x-ignore-shared)"
    rate = f"{format_bytes(report.bytes_sent / report.transfer_s)}/s" if report.transfer_s > 0 else "at once"
    tls = f", {report.security}" if report.security not in ("", "plain") else ""
    lines = [
        f"received {report.machine}, {ram}, {len(report.sections)} device sections: {report.path}",
        f"{packets.normal_pages + report.page_records} pages in {packets.packets} packets, "
        f"{packets.zero_pages + report.zero_records} more of them zero; "
        f"{report.syncs} sync points {dialect.sync}, compression {dialect.compression}",
        f"{format_bytes(report.bytes_sent + report.main_bytes)} on the wire over {report.channels} channels "
        f"in {report.transfer_s:.2f} s, {rate}{tls}",
    ]
    if dialect.ack != "off":
        lines.append(
            f"acknowledgements ({dialect.ack}): {report.acks.given} given of {report.acks.owed} owed, "
            f"held back for {report.acks.held_s:.1f} s"
        )
    if report.stop_s is not None and report.commit_s is not None:
        lines.append(
            f"the guest was stopped for {report.stop_s * 1e3:.0f} ms; of that, {report.commit_s * 1e3:.0f} ms to have "
            "all of it verified and on the disk"
        )
    lines += [f"sha256 {digest}  {name}" for name, digest in report.digests.items()]
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(printable(line) for line in lines)


def _words(progress: Progress) -> list[str]:
    words = [progress.state]
    if progress.state == "digesting":
        words.append(format_part(progress.bytes_sent, progress.bytes_total))
    elif progress.bytes_sent:
        words.append(f"{format_bytes(progress.bytes_sent)} received")
    return words + rate_and_waits(progress)


VIEW = View(_words, sent_fraction)
