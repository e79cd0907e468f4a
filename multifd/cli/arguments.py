"""Values of command-line options, checked: what argparse is given as `type`."""

from __future__ import annotations

import argparse
import math
import re

from multifd.cli.sizes import parse_size
from multifd.codec import AUTO, CHOICES, NONE, check_choice
from multifd.engine.transport import Address
from multifd.limits import CHANNELS_MAX

PORT_MAX = 65535
CODEC_HELP = f"{CHOICES}, or {AUTO} for whatever is quickest, slot by slot (default %(default)s)"


def size(text: str) -> int:
    """Bytes, as in `1GiB`, `100MB`, `4096`."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def codec(text: str) -> str:
    """A codec's name, or `auto`."""
    try:
        check_choice(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive_size(text: str) -> int:
    """As `size`, but not zero."""
    value = size(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be more than zero")
    return value


def number_to(maximum: int, text: str, what: str = "channels") -> int:
    """A number of `what`, from 1 to `maximum`."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= maximum:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}: 1 to {maximum}")
    return int(text)


def channels(text: str) -> int:
    """A number of channels."""
    return number_to(CHANNELS_MAX, text)


def amount(text: str) -> float:
    """A finite number from zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value


def count(text: str) -> int:
    """A whole number from zero."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def address(text: str) -> str:
    """An address to listen on or to connect to."""
    try:
        Address.parse(text)
    except ValueError as error:
        port = re.fullmatch(r"tcp://.+:([0-9]{1,30})/?", text)
        if port is not None and int(port[1]) > PORT_MAX:
            raise argparse.ArgumentTypeError(f"a port is 0 to {PORT_MAX}, not {port[1]}") from error
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every command has."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end, and nothing else, on stdout"
    )


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """Options of every command that sends."""
    parser.add_argument(
        "--channels",
        type=channels,
        default=4,
        metavar="N",
        help=f"data channels, 1 to {CHANNELS_MAX} (default %(default)s)",
    )
    parser.add_argument(
        "--codec", type=codec, default=NONE, metavar="CODEC", help=f"compress slots that shrink: {CODEC_HELP}"
    )
