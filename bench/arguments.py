"""Values of the benches' options, checked, and the options that several benches have."""

from __future__ import annotations

import argparse

from bench import contents
from bench.scenario import MEMORY
from multifd.cli import arguments
from multifd.cli.sizes import format_bytes
from multifd.codec import NONE
from multifd.limits import SLOT_BYTES, SLOT_BYTES_MAX

PORT = 5202  # next to iperf3's


def channel_counts(text: str) -> tuple[int, ...]:
    """Channel counts to measure, `1,2,4`; one that comes twice is measured once."""
    return tuple(dict.fromkeys(arguments.channels(part.strip()) for part in text.split(",")))


def slot_size(text: str) -> int:
    """Bytes, up to what the protocol allows."""
    size = arguments.positive_size(text)
    if size > SLOT_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"must be at most {format_bytes(SLOT_BYTES_MAX)}")
    return size


def slots_size(text: str) -> int:
    """Bytes, at least one slot."""
    size = arguments.positive_size(text)
    if size < SLOT_BYTES:
        raise argparse.ArgumentTypeError(f"must be at least {format_bytes(SLOT_BYTES)}")
    return size


def times(text: str) -> int:
    """How often: a whole number from 1."""
    if arguments.count(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return arguments.count(text)


def address(text: str) -> str:
    """`HOST`, `HOST:PORT` or `tcp://HOST:PORT`."""
    if "://" not in text:
        host, colon, port = text.rpartition(":")
        text = f"tcp://{text}" if colon and host and port.isdigit() else f"tcp://{text}:{PORT}"
    return arguments.address(text)


def add_memory(parser: argparse.ArgumentParser, *, size: int, channels: tuple[int, ...], repeat: int) -> None:
    """What is moved, over how many channels and how often, with these defaults."""
    counts = ",".join(map(str, channels))
    add = parser.add_argument
    add(
        "--size", type=arguments.positive_size, default=size,
        help=f"memory to move in one run (default {format_bytes(size)})",
    )  # fmt: skip
    add("--channels", type=channel_counts, default=channels, metavar="N,N,...", help=f"counts (default {counts})")
    add("--slot", type=slot_size, default=SLOT_BYTES, help="bytes in a slot of ours (default 1MiB)")
    add("--repeat", type=times, default=repeat, help=f"runs of each in each scenario (default {repeat})")
    add_congestion(parser)


def add_congestion(parser: argparse.ArgumentParser) -> None:
    """`--congestion`."""
    parser.add_argument("--congestion", default="cubic", help="TCP congestion control of all of them (default cubic)")


def add_work(parser: argparse.ArgumentParser) -> None:
    """What the memory holds, and what is done with it on its way."""
    add = parser.add_argument
    add(
        "--work", choices=contents.WORKS, default=MEMORY,
        help="what the memory holds; all but `memory` with detection of zeros (default memory: random bytes)",
    )  # fmt: skip
    add("--codec", type=arguments.codec, default=NONE, help=f"of ours: {arguments.CODEC_HELP}")
    add_tls_and_cold(parser)


def add_tls_and_cold(parser: argparse.ArgumentParser) -> None:
    """`--tls` and `--cold`."""
    parser.add_argument("--tls", action="store_true", help="under TLS, with certificates of both sides")
    parser.add_argument(
        "--cold", action="store_true", help="the destination's memory is not populated before the start"
    )
