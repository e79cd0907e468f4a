"""`multifd qemu relay`: one live migration between two stock QEMUs, through this process."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from multifd.cli import qemu_hop
from multifd.cli.arguments import add_json, address
from multifd.cli.display import Display, View, open_display, rate_and_waits, sent_fraction
from multifd.cli.ending import EXIT_CODES_HELP, Ending, ExitCode, InterruptedByUserError
from multifd.cli.names import printable
from multifd.cli.qemu_arguments import COMPRESSIONS, compression, qemu_channels
from multifd.cli.running import follow, run_command
from multifd.cli.sizes import format_bytes
from multifd.cli.tls import add_tls_client, add_tls_server, client_tls, server_tls
from multifd.cli.wording import Wording
from multifd.engine.tls import Tls
from multifd.errors import MigrationInDoubtError
from multifd.qemu.common_options import CHANNELS
from multifd.qemu.hop_near import NearRelay
from multifd.qemu.hop_options import NearOptions
from multifd.qemu.hop_report import NearReport
from multifd.qemu.listener import QemuListener
from multifd.qemu.relay import QemuRelay
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.qemu.relay_report import RelayReport
from multifd.stats import Outcome, Progress

WORDING = Wording(peer="the other side", interrupted="interrupted; the guest runs on at the source")
DOUBT = (
    "interrupted when the far end had everything: the guest may run at the source, at the far end, or at both; "
    "compare query-status there, and stop one of them"
)
DESCRIPTION = """\
Stand between two QEMUs: take the migration of the one that connects here, and
pass it on, live, to the one that waits at ADDRESS: N channels in, N out. Each
side may have its own compression and TLS. Until the far end has the last byte
any failure, also of this process, leaves the guest running at the source.

Start the far end with -S and give its monitor by --out-qmp: its guest is then
let run only when the source is done with it, so that it never runs twice.

example:
  multifd qemu relay --listen tcp:0.0.0.0:4444 --to tcp:there:4444 \\
    --channels 4 --out-compression zstd --out-qmp unix:/run/there.qmp

"""
DESCRIPTION += qemu_hop.DESCRIPTION


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `relay` to the parser of `multifd qemu`."""
    parser = commands.add_parser(
        "relay",
        help="pass a live migration on from one QEMU to another",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    come = parser.add_mutually_exclusive_group(required=True)
    come.add_argument("--listen", type=address, metavar="ADDRESS", help="tcp:HOST:PORT or unix:PATH, as QEMU writes it")
    go = parser.add_mutually_exclusive_group(required=True)
    go.add_argument("--to", type=address, metavar="ADDRESS", help="where the far end's QEMU waits")
    parser.add_argument(
        "--channels",
        type=qemu_channels,
        default=CHANNELS,
        metavar="N",
        help="multifd-channels of both (default %(default)s, as is QEMU's)",
    )
    parser.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default="none",
        help="multifd-compression of the source (default %(default)s)",
    )
    parser.add_argument(
        "--out-compression",
        choices=COMPRESSIONS,
        help="that of the far end (default: the same; packets go on as they are)",
    )
    parser.add_argument(
        "--out-qmp",
        type=address,
        metavar="ADDRESS",
        help="the far end's monitor (QMP), unix:PATH or tcp:HOST:PORT; it was started with -S, and gets `cont` when "
        "the source is done",
    )
    parser.add_argument(
        "--in-qmp",
        type=address,
        metavar="ADDRESS",
        help="the source's monitor: whether it is done is then asked there (a migrate_cancel in the last moment looks "
        "the same on the wire)",
    )
    parser.add_argument(
        "--no-vmdesc",
        action="store_true",
        help="the machine has suppress-vmdesc=on: its state ends the stream",
    )
    qemu_hop.add_arguments(parser, come, go)
    add_tls_server(parser)
    add_tls_client(parser, "--out-tls")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Ending:
    """Pass one migration on."""
    qemu_hop.check(arguments)
    out = arguments.out_compression
    to = arguments.to_relay or arguments.to
    given: dict[str, Any] = {
        "channels": arguments.channels,
        "compression": compression(arguments.compression),
        "out_compression": None if out is None else compression(out),
        "description": not arguments.no_vmdesc,
        "out_tls": client_tls(arguments.out_tls_dir, arguments.out_tls_hostname, to, "--out-tls"),
        "out_qmp": arguments.out_qmp,
        "in_qmp": arguments.in_qmp,
    }
    tls = server_tls(arguments.tls_dir)
    if arguments.listen_relay:
        display = open_display(view=qemu_hop.FAR_VIEW)
        return run_command(
            qemu_hop.far(arguments.listen_relay, to, QemuRelayOptions(**given), tls=tls, display=display)
        )
    if arguments.to_relay:
        near = NearOptions(**given, codec=arguments.codec, relay_channels=arguments.relay_channels)
        return run_command(relay(arguments.listen, lambda listener: NearRelay(listener, to, near), tls=tls))
    options = QemuRelayOptions(**given)
    return run_command(relay(arguments.listen, lambda listener: QemuRelay(listener, to, options), tls=tls))


async def relay(where: str, made: Callable[[QemuListener], QemuRelay], *, tls: Tls | None) -> Ending:
    """Listen, and have the relay that is `made` pass one migration on."""
    display = open_display(view=VIEW)
    listener = QemuListener.open(where, tls)
    try:
        display.note(f"listening on {listener.uri}")
        report = await _passed(made(listener), display)
    finally:
        await listener.close()
    return Ending(ExitCode.COMPLETED, report.to_json(), describe(report))


async def _passed(side: QemuRelay, display: Display) -> RelayReport:
    """Run it to its end. A second signal may end it when only the far end could have told how it ends."""
    try:
        report = await follow(side, display, wording=WORDING)
    except InterruptedByUserError as error:
        if side.report is None or side.report.outcome is not Outcome.IN_DOUBT:
            raise
        raise MigrationInDoubtError(DOUBT, side.report) from error
    assert isinstance(report, RelayReport)
    return report


def describe(report: RelayReport) -> str:
    """For people: a few lines of it."""
    came, out = report.packets, report.out_packets
    lines = [
        f"passed {report.machine} on to {report.to}: guest {report.guest}",
        f"{came.normal_pages} pages in {came.packets} packets over {report.channels} channels, "
        f"{came.zero_pages + report.zero_records} more of them zero; "
        f"{report.syncs} sync points {report.dialect.sync}",
        f"in {format_bytes(report.bytes_sent)} ({report.dialect.compression}, {report.security}), "
        f"out {format_bytes(out.wire_bytes)} ({report.out_compression}, {report.out_security}) "
        f"in {report.transfer_s:.2f} s",
    ]
    if report.stop_s is not None:
        until = "until it ran at the far end" if report.continued else "until the source was told"
        lines.append(f"the guest stood still for about {report.stop_s * 1e3:.0f} ms {until}")
    if isinstance(report, NearReport):
        lines.append(qemu_hop.describe_hop(report))
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(printable(line) for line in lines)


def _words(progress: Progress) -> list[str]:
    words = [progress.state]
    if progress.bytes_sent:
        words.append(f"{format_bytes(progress.bytes_sent)} passed on")
    return words + rate_and_waits(progress)


VIEW = View(_words, sent_fraction)
