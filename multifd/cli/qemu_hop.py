"""`multifd qemu relay` as one of two back to back: `--to-relay` beside the source's QEMU, `--listen-relay` beside the
one that takes the machine. Between them is the native dialect.
"""

from __future__ import annotations

import argparse

from multifd.cli.arguments import CODEC_HELP, address, codec, number_to
from multifd.cli.display import Display, View, waits
from multifd.cli.ending import Ending, ExitCode, UsageError
from multifd.cli.names import printable
from multifd.cli.running import follow
from multifd.cli.sizes import format_bytes
from multifd.cli.wording import Wording
from multifd.codec import NONE
from multifd.engine.listener import listen
from multifd.engine.tls import Tls
from multifd.limits import CHANNELS_MAX
from multifd.qemu.common_options import CHANNELS
from multifd.qemu.hop_far import FarRelay
from multifd.qemu.hop_options import NearOptions
from multifd.qemu.hop_report import FarReport, NearReport
from multifd.qemu.relay_options import QemuRelayOptions
from multifd.stats import Progress

WORDING = Wording(peer="the other side", interrupted="interrupted; the guest runs on at the source")
RELAY_CHANNELS = NearOptions().relay_channels
DESCRIPTION = """\
Two relays back to back speak multifd's own dialect with each other, over a WAN
say: with checksums, compression (--codec) and TLS, over any number of
connections. The one beside the source is told --to-relay and what the source
was told; the other one --listen-relay, and --out-compression where its QEMU
was told another compression.

  multifd qemu relay --listen-relay tcp:0.0.0.0:5555 --to tcp:127.0.0.1:4444 \\
    --tls-dir tls --out-qmp unix:/run/qemu.qmp
  multifd qemu relay --listen tcp:127.0.0.1:4444 --to-relay tcp:there:5555 \\
    --channels 4 --codec zstd --out-tls-dir tls
"""


def add_arguments(
    parser: argparse.ArgumentParser, come: argparse._MutuallyExclusiveGroup, go: argparse._MutuallyExclusiveGroup
) -> None:
    """Add what only two relays have. `come` and `go` say where the migration comes from and where it goes."""
    come.add_argument(
        "--listen-relay",
        type=address,
        metavar="ADDRESS",
        help="be the second of two relays: take what another one sends (--to-relay)",
    )
    go.add_argument(
        "--to-relay",
        type=address,
        metavar="ADDRESS",
        help="be the first of two relays: where the other one listens (--listen-relay)",
    )
    parser.add_argument(
        "--relay-channels",
        type=_relay_channels,
        default=RELAY_CHANNELS,
        metavar="N",
        help="with --to-relay: connections to the other relay, whatever --channels is (default %(default)s)",
    )
    parser.add_argument(
        "--codec",
        type=codec,
        default=NONE,
        metavar="CODEC",
        help=f"with --to-relay: compression between the relays: {CODEC_HELP}",
    )


def check(arguments: argparse.Namespace) -> None:
    """Raise `UsageError` for options that are of no use to the relay that was asked for."""
    if arguments.listen_relay and arguments.to_relay:
        raise UsageError(
            "a relay has a QEMU on one side at least: --listen-relay goes with --to, --to-relay with --listen"
        )
    if arguments.listen_relay:
        changed = {
            "--channels": arguments.channels != CHANNELS,
            "--compression": arguments.compression != "none",
            "--no-vmdesc": arguments.no_vmdesc,
            "--in-qmp": arguments.in_qmp is not None,
        }
        _refuse(changed, "the relay beside the source")
    if arguments.to_relay:
        changed = {
            "--out-compression": arguments.out_compression is not None,
            "--out-qmp": arguments.out_qmp is not None,
        }
        _refuse(changed, "the relay beside the far end")
    else:
        changed = {"--codec": arguments.codec != NONE, "--relay-channels": arguments.relay_channels != RELAY_CHANNELS}
        _refuse(changed, "a relay that is given --to-relay")


async def far(where: str, to: str, options: QemuRelayOptions, *, tls: Tls | None, display: Display) -> Ending:
    """Take one migration from a relay and pass it on to a QEMU."""
    listener = await listen(where, tls)
    try:
        display.note(f"listening on {listener.address}")
        report = await follow(FarRelay(listener, to, options), display, may_wait_for_peer=True, wording=WORDING)
    finally:
        await listener.close()
    assert isinstance(report, FarReport)
    return Ending(ExitCode.COMPLETED, report.to_json(), describe_far(report))


def describe_hop(report: NearReport | FarReport) -> str:
    """For people: what was between the relays."""
    hop = report.hop
    return (
        f"{format_bytes(hop.bytes)} went as {format_bytes(hop.wire_bytes)} over {hop.channels} connections "
        f"({hop.codec}, {hop.security}) between the relays"
    )


def describe_far(report: FarReport) -> str:
    """For people: a few lines of it."""
    lines = [
        f"passed {report.machine} on to {report.to}: guest {report.guest}",
        f"{format_bytes(report.main_bytes + report.channel_bytes)} over main and {report.out_channels} channels "
        f"({report.out_security}) in {report.transfer_s:.2f} s",
        describe_hop(report),
        *(f"note: {note}" for note in report.notes),
    ]
    return "\n".join(printable(line) for line in lines)


def _refuse(changed: dict[str, bool], whose: str) -> None:
    named = [name for name, is_given in changed.items() if is_given]
    if named:
        raise UsageError(f"{', '.join(named)}: for {whose}")


def _relay_channels(text: str) -> int:
    return number_to(CHANNELS_MAX, text, "connections")


def _words(progress: Progress) -> list[str]:
    words = [progress.state]
    if progress.bytes_sent:
        words.append(f"{format_bytes(progress.bytes_sent)} came")
    if progress.rate > 0:
        words.append(f"{format_bytes(progress.rate)}/s")
    return [*words, *filter(None, [waits(progress)])]


def _fraction(_progress: Progress) -> float:
    return 0.0


FAR_VIEW = View(_words, _fraction)
