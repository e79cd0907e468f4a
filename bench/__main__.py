"""`python -m bench`: choose a scenario and its size. Sizes are 4GiB, 512KiB; addresses tcp://HOST:PORT."""

from __future__ import annotations

import argparse
import os
import sys

from bench import auto, qemu, throughput
from bench.half import HalfSettings
from multifd.cli import arguments
from multifd.cli.qemu_arguments import COMPRESSIONS, qemu_channels
from multifd.cli.sizes import format_bytes
from multifd.limits import GIB, SLOT_BYTES, SLOT_BYTES_MAX


def channel_counts(text: str) -> tuple[int, ...]:
    """Channel counts to measure, `1,2,4`."""
    return tuple(arguments.channels(part.strip()) for part in text.split(","))


def slot_size(text: str) -> int:
    """Bytes, up to what the protocol allows."""
    size = arguments.positive_size(text)
    if size > SLOT_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"must be at most {format_bytes(SLOT_BYTES_MAX)}")
    return size


def times(text: str) -> int:
    """How often: a whole number from 1."""
    if arguments.count(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return arguments.count(text)


PORT = 5202  # next to iperf3's


def address(text: str) -> str:
    """`HOST`, `HOST:PORT` or `tcp://HOST:PORT`."""
    if "://" not in text:
        host, colon, port = text.rpartition(":")
        text = f"tcp://{text}" if colon and host and port.isdigit() else f"tcp://{text}:{PORT}"
    return arguments.address(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    scenarios = top.add_subparsers(dest="scenario", required=True)
    one = scenarios.add_parser(
        "throughput",
        help="memory to memory between two processes over TCP loopback, with iperf3 beside it",
        description=throughput.__doc__,
    )
    add = one.add_argument
    add("--size", type=arguments.positive_size, default=4 * GIB, help="memory to move in one run (default 4GiB)")
    add("--channels", type=channel_counts, default=(1, 2, 4), metavar="N,N,...", help="channel counts (default 1,2,4)")
    add("--slot", type=slot_size, default=SLOT_BYTES, help="bytes in a slot (default 1MiB)")
    add("--repeat", type=times, default=3, help="runs of each channel count (default 3)")
    add("--congestion", default="cubic", help="TCP congestion control of ours and iperf3 (default cubic)")
    add("--json", action="store_true", help="one JSON object on stdout in place of the table")
    hosts = one.add_mutually_exclusive_group()
    hosts.add_argument(
        "--listen", type=address, nargs="?", const=f"tcp://0.0.0.0:{PORT}", metavar="HOST[:PORT]",
        help=f"be the destination for another host, at this address (default: any, port {PORT})",
    )  # fmt: skip
    hosts.add_argument(
        "--connect", type=address, metavar="HOST[:PORT]", help=f"be the source, to a destination there (port {PORT})"
    )
    _add_qemu(scenarios)
    _add_auto(scenarios)
    return top


def _add_qemu(scenarios: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = scenarios.add_parser(
        "qemu",
        help="a guest's RAM between two stock QEMUs, and between each and ours",
        description=qemu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = one.add_argument
    add("--size", type=arguments.positive_size, default=4 * GIB, help="the guest's RAM (default 4GiB)")
    add("--channels", type=qemu_channels, default=4, metavar="N", help="multifd-channels (default 4)")
    add("--compression", choices=COMPRESSIONS, default="none", help="multifd-compression (default none)")
    add("--repeat", type=times, default=5, help="runs of each pair (default 5)")
    add("--congestion", default="cubic", help="TCP congestion control of all of them (default cubic)")
    add("--qemu", default="", metavar="VERSION", help="such as 10.0 (default: the newest there is)")
    add("--json", action="store_true", help="one JSON object on stdout in place of the table")


def _add_auto(scenarios: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = scenarios.add_parser(
        "auto",
        help="codec auto beside every fixed choice, on simulated links",
        description=auto.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = one.add_argument
    add("--size", type=slots_size, default=4 * GIB, help="state to move in each cell (default 4GiB)")
    add("--channels", type=channel_counts, default=(2, 4), metavar="N,N,...", help="channel counts (default 2,4)")
    add("--json", action="store_true", help="one JSON object on stdout in place of the table")


def slots_size(text: str) -> int:
    """Bytes, at least one slot."""
    size = arguments.positive_size(text)
    if size < SLOT_BYTES:
        raise argparse.ArgumentTypeError(f"must be at least {format_bytes(SLOT_BYTES)}")
    return size


def _run_qemu(chosen: argparse.Namespace) -> int:
    plan = qemu.Plan(
        chosen.size, chosen.channels, chosen.repeat, chosen.compression, chosen.congestion, version=chosen.qemu
    )
    try:
        return qemu.local(plan, as_json=chosen.json)
    except qemu.QemuBenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def main() -> int:
    """Run what the command line asks for. Returns the exit status."""
    chosen = parser().parse_args()
    if chosen.scenario == "qemu":
        return _run_qemu(chosen)
    if chosen.scenario == "auto":
        compared = auto.Plan(chosen.size, chosen.channels, len(os.sched_getaffinity(0)))
        return auto.local(compared, as_json=chosen.json)
    settings = HalfSettings(size=chosen.size, slot_bytes=chosen.slot, congestion=chosen.congestion)
    plan = throughput.Plan(settings, channels=chosen.channels, repeat=chosen.repeat)
    try:
        if chosen.listen:
            return throughput.listen(plan, chosen.listen, as_json=chosen.json)
        if chosen.connect:
            return throughput.connect(plan, chosen.connect, as_json=chosen.json)
        return throughput.local(plan, as_json=chosen.json)
    except throughput.BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
