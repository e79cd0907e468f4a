"""What happens after the first sweep: large and small rounds, whole precopies, a look where nobody wrote."""

from __future__ import annotations

import argparse

from bench import dirty_rounds, idle, namespace, outputs, precopy
from bench.arguments import add_congestion, channel_counts, slot_size, times
from bench.half import HalfSettings
from bench.result import Result
from bench.scenario import LOOPBACK
from multifd.cli import arguments
from multifd.cli.demo_state import PAGE_BYTES
from multifd.cli.sizes import format_bytes
from multifd.limits import GIB, SLOT_BYTES, SWITCHOVER_FIXED_S

Works = argparse._SubParsersAction
DOWNTIME_FLOOR_MS = SWITCHOVER_FIXED_S * 1000  # what is counted for the stop itself: no limit below it can be met


def add_works(parser: argparse.ArgumentParser) -> None:
    """A subcommand for each work; each sets `make`, what makes its result."""
    works = parser.add_subparsers(dest="work", required=True)
    _add_pages(works)
    _add_small(works)
    _add_precopy(works)
    _add_idle(works)


def _add(
    works: Works[argparse.ArgumentParser], name: str, words: str, description: str | None, *, size: int, repeat: int
) -> argparse.ArgumentParser:
    """With the options that all of them have."""
    one = works.add_parser(
        name, help=words, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    outputs.add_options(one)
    add = one.add_argument
    add("--size", type=_pages_size, default=size, help=f"memory (default {format_bytes(size)})")
    add("--repeat", type=times, default=repeat, help=f"how often (default {repeat})")
    return one


def _add_network(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--channels", type=channel_counts, default=(2,), metavar="N,N,...", help="channel counts (default 2)"
    )
    to.add_argument(
        "--link", choices=namespace.LINKS, default=LOOPBACK,
        help="over a loopback of the bench's own that takes no more (default: as much as it can)",
    )  # fmt: skip
    add_congestion(to)


def _add_dirty_rounds(
    works: Works[argparse.ArgumentParser], name: str, words: str, *, size: int, repeat: int, rounds: int
) -> argparse.ArgumentParser:
    one = _add(works, name, words, dirty_rounds.__doc__, size=size, repeat=repeat)
    _add_network(one)
    one.add_argument("--slot", type=slot_size, default=SLOT_BYTES, help="bytes in a slot (default 1MiB)")
    one.add_argument("--rounds", type=times, default=rounds, help=f"rounds of each in a session (default {rounds})")
    one.set_defaults(make=_dirty_rounds)
    return one


def _add_pages(works: Works[argparse.ArgumentParser]) -> None:
    words = "one round with half of the memory in single pages: pages a second"
    one = _add_dirty_rounds(works, "pages", words, size=2 * GIB, repeat=5, rounds=1)
    one.set_defaults(works=(dirty_rounds.SINGLE, dirty_rounds.RANDOM))


def _add_small(works: Works[argparse.ArgumentParser]) -> None:
    words = "rounds with 1 % of the memory, one after the other: median and 99th percentile"
    one = _add_dirty_rounds(works, "small", words, size=4 * GIB, repeat=1, rounds=100)
    one.set_defaults(works=(dirty_rounds.SMALL,))


def _dirty_rounds(chosen: argparse.Namespace) -> Result:
    if chosen.link != LOOPBACK:
        namespace.enter(chosen.congestion, chosen.link)
    settings = HalfSettings(size=chosen.size, slot_bytes=chosen.slot, congestion=chosen.congestion)
    return dirty_rounds.local(
        dirty_rounds.Plan(
            settings=settings,
            works=chosen.works,
            channels=chosen.channels,
            rounds=chosen.rounds,
            repeat=chosen.repeat,
            link=chosen.link,
        )
    )


def _add_precopy(works: Works[argparse.ArgumentParser]) -> None:
    words = "whole migrations of a workload that writes, and of one that does not: downtime and time"
    one = _add(works, "precopy", words, precopy.__doc__, size=GIB, repeat=10)
    _add_network(one)
    one.add_argument(
        "--dirty-mib-per-s", type=arguments.amount, default=200.0, metavar="MIB",
        help="how fast the workload writes to pages (default %(default)g)",
    )  # fmt: skip
    one.add_argument(
        "--downtime-limit-ms", type=_downtime_limit, default=300.0, metavar="MS",
        help=f"more than {DOWNTIME_FLOOR_MS:g} (default %(default)g)",
    )  # fmt: skip
    one.set_defaults(make=_precopy)


def _precopy(chosen: argparse.Namespace) -> Result:
    namespace.enter(chosen.congestion, chosen.link)  # the demo's stage leaves the congestion control to the system
    return precopy.local(
        precopy.Plan(
            size=chosen.size,
            channels=chosen.channels,
            repeat=chosen.repeat,
            dirty_mib_per_s=chosen.dirty_mib_per_s,
            downtime_limit_ms=chosen.downtime_limit_ms,
            congestion=chosen.congestion,
            link=chosen.link,
        )
    )


def _add_idle(works: Works[argparse.ArgumentParser]) -> None:
    words = "what the kernel's tracker takes where nothing was written"
    one = _add(works, "idle", words, idle.__doc__, size=16 * GIB, repeat=100)
    one.set_defaults(make=lambda chosen: idle.local(idle.Plan(size=chosen.size, repeat=chosen.repeat)))


def _pages_size(text: str) -> int:
    """Bytes, in whole pages, four at least: half of them and 1 % are some."""
    size = arguments.positive_size(text)
    if size % PAGE_BYTES or size < 4 * PAGE_BYTES:
        raise argparse.ArgumentTypeError(f"must be a multiple of {PAGE_BYTES}, from {4 * PAGE_BYTES}")
    return size


def _downtime_limit(text: str) -> float:
    """Milliseconds that a stop can keep to."""
    limit_ms = arguments.amount(text)
    if limit_ms <= DOWNTIME_FLOOR_MS:
        raise argparse.ArgumentTypeError(f"must be more than {DOWNTIME_FLOOR_MS:g}")
    return limit_ms
