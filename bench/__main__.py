"""`python -m bench`: choose a bench and its size. Sizes are 4GiB, 512KiB; addresses tcp://HOST:PORT."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TypeAlias

from bench import auto, compare, namespace, outputs, qemu, result, rounds, standard, throughput
from bench.arguments import (
    PORT,
    add_congestion,
    add_memory,
    add_tls_and_cold,
    add_work,
    address,
    channel_counts,
    slots_size,
    times,
)
from bench.contents import GUEST_WORKS
from bench.errors import BenchError
from bench.half import HalfSettings
from bench.peers import every
from bench.result import Result
from bench.scenario import LOOPBACK, NETWORK, PLAIN, RAM, TLS
from multifd.cli import arguments
from multifd.cli.qemu_arguments import COMPRESSIONS, qemu_channels
from multifd.limits import GIB

Benches: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser() -> argparse.ArgumentParser:
    """The command line: each bench is a subcommand that sets `make`, what makes its result."""
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    benches = top.add_subparsers(dest="bench", required=True)
    _add_standard(benches)
    _add_throughput(benches)
    _add_peers(benches)
    _add_qemu(benches)
    _add_rounds(benches)
    _add_compare(benches)
    _add_auto(benches)
    _add_show(benches)
    return top


def _add(benches: Benches, name: str, words: str, description: str | None) -> argparse.ArgumentParser:
    one = benches.add_parser(
        name, help=words, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    outputs.add_options(one)
    return one


def _add_link(to: argparse._ActionsContainer) -> None:
    to.add_argument(
        "--link", choices=namespace.LINKS, default=LOOPBACK,
        help="over a loopback of the bench's own that takes no more (default: as much as it can)",
    )  # fmt: skip


def _add_throughput(benches: Benches) -> None:
    words = "memory to memory between two processes over TCP, beside a C program and iperf3"
    one = _add(benches, "throughput", words, throughput.__doc__)
    add_memory(one, size=4 * GIB, channels=(1, 2, 4), repeat=3)
    add_work(one)
    where = one.add_mutually_exclusive_group()
    _add_link(where)
    where.add_argument(
        "--listen", type=address, nargs="?", const=f"tcp://0.0.0.0:{PORT}", metavar="HOST[:PORT]",
        help=f"be the destination for another host, at this address (default: any, port {PORT})",
    )  # fmt: skip
    where.add_argument(
        "--connect", type=address, metavar="HOST[:PORT]", help=f"be the source, to a destination there (port {PORT})"
    )
    one.set_defaults(make=_throughput)


def _throughput(chosen: argparse.Namespace) -> Result:
    if (chosen.listen or chosen.connect) and chosen.tls:
        raise BenchError("the certificates are made here and for here: measure between hosts without --tls")
    if chosen.listen:
        return throughput.listen(_plan(_work(chosen), chosen, NETWORK), chosen.listen)
    if chosen.connect:
        return throughput.connect(_plan(_work(chosen), chosen, NETWORK), chosen.connect)
    if chosen.link != LOOPBACK:
        namespace.enter(chosen.congestion, chosen.link)
    return throughput.local(_plan(_work(chosen), chosen, chosen.link))


def _add_peers(benches: Benches) -> None:
    words = "as `throughput`, and beside it others that move bytes: streams, pyzmq, gloo, NIXL, MPI"
    one = _add(benches, "peers", words, every.__doc__)
    add_memory(one, size=4 * GIB, channels=(1, 2, 4), repeat=3)
    add_work(one)
    _add_link(one)
    one.set_defaults(make=_peers)


def _peers(chosen: argparse.Namespace) -> Result:
    namespace.enter(chosen.congestion, chosen.link)  # most of them can't choose their congestion control
    return throughput.local(_plan(_work(chosen), chosen, chosen.link), every.EVERY)


def _add_standard(benches: Benches) -> None:
    one = _add(benches, "standard", "what `make bench` runs: `throughput`, then `qemu`; one table", standard.__doc__)
    add_memory(one, size=4 * GIB, channels=(1, 2, 4), repeat=3)
    one.set_defaults(make=_standard)


def _standard(chosen: argparse.Namespace) -> Result:
    guest = qemu.Plan(chosen.size, channels=4, repeat=chosen.repeat, congestion=chosen.congestion)
    return standard.local(_plan(_settings(chosen), chosen, LOOPBACK), guest)


def _add_compare(benches: Benches) -> None:
    one = _add(benches, "compare", "two revisions of the library, and whether they differ", compare.__doc__)
    one.add_argument("revisions", nargs=2, metavar=("REV_A", "REV_B"), help="what git calls them, such as main")
    add_memory(one, size=GIB, channels=(2,), repeat=10)
    add_work(one)
    _add_link(one)
    one.set_defaults(make=_compare)


def _compare(chosen: argparse.Namespace) -> Result:
    if chosen.link != LOOPBACK:
        namespace.enter(chosen.congestion, chosen.link)
    first, second = chosen.revisions
    return compare.local(_plan(_work(chosen), chosen, chosen.link), (first, second))


def _settings(chosen: argparse.Namespace) -> HalfSettings:
    return HalfSettings(size=chosen.size, slot_bytes=chosen.slot, congestion=chosen.congestion)


def _work(chosen: argparse.Namespace) -> HalfSettings:
    """With what `add_work` has asked for."""
    security = TLS if chosen.tls else PLAIN
    return dataclasses.replace(
        _settings(chosen), work=chosen.work, codec=chosen.codec, security=security, cold=chosen.cold
    )


def _plan(settings: HalfSettings, chosen: argparse.Namespace, link: str) -> throughput.Plan:
    return throughput.Plan(settings, channels=chosen.channels, repeat=chosen.repeat, link=link)


def _add_qemu(benches: Benches) -> None:
    one = _add(benches, "qemu", "a guest's RAM between two stock QEMUs, and between each and ours", qemu.__doc__)
    add = one.add_argument
    add("--size", type=arguments.positive_size, default=4 * GIB, help="the guest's RAM (default 4GiB)")
    add("--channels", type=qemu_channels, default=4, metavar="N", help="multifd-channels (default 4)")
    add("--compression", choices=COMPRESSIONS, default="none", help="multifd-compression (default none)")
    add("--repeat", type=times, default=5, help="runs of each pair (default 5)")
    add("--qemu", default="", metavar="VERSION", help="such as 10.0 (default: the newest there is)")
    add("--work", choices=GUEST_WORKS, default=RAM, help="what the guest's RAM holds (default ram: random bytes)")
    add("--only-stock", action="store_true", help="stock QEMU to stock QEMU alone")
    add_tls_and_cold(one)
    add_congestion(one)
    _add_link(one)
    one.set_defaults(make=_qemu)


def _qemu(chosen: argparse.Namespace) -> Result:
    return qemu.local(
        qemu.Plan(
            size=chosen.size,
            channels=chosen.channels,
            repeat=chosen.repeat,
            compression=chosen.compression,
            congestion=chosen.congestion,
            version=chosen.qemu,
            link=chosen.link,
            work=chosen.work,
            security=TLS if chosen.tls else PLAIN,
            cold=chosen.cold,
            only_stock=chosen.only_stock,
        )
    )


def _add_rounds(benches: Benches) -> None:
    words = "what happens after the first sweep: `pages`, `small`, `precopy`, `idle`"
    rounds.add_works(benches.add_parser("rounds", help=words, description=rounds.__doc__))


def _add_show(benches: Benches) -> None:
    one = _add(benches, "show", "table, page and plot of a result that --json wrote", "Shows a result again.")
    one.add_argument("file", type=Path, metavar="FILE.json", help="what a bench wrote with --json")
    one.set_defaults(make=lambda chosen: result.read(chosen.file))


def _add_auto(benches: Benches) -> None:
    """Its result is a grid of decisions, not of runs: it shows that itself, and says whether it is good enough."""
    one = benches.add_parser(
        "auto",
        help="codec auto beside every fixed choice, on simulated links",
        description=auto.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = one.add_argument
    add("--size", type=slots_size, default=4 * GIB, help="state to move in each cell (default 4GiB)")
    add("--channels", type=channel_counts, default=(2, 4), metavar="N,N,...", help="channel counts (default 2,4)")
    add("--json", action="store_true", help="one JSON object on stdout in place of the table")
    one.set_defaults(run=_auto)


def _auto(chosen: argparse.Namespace) -> int:
    plan = auto.Plan(chosen.size, chosen.channels, len(os.sched_getaffinity(0)))
    return auto.local(plan, as_json=chosen.json)


def main() -> int:
    """Run what the command line asks for. Returns the exit status."""
    chosen = parser().parse_args()
    if "run" in chosen:
        status: int = chosen.run(chosen)
        return status
    try:
        outputs.check(chosen)
        outputs.deliver(chosen.make(chosen), chosen)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
