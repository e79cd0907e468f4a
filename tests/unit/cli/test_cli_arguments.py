"""Arguments are checked before anything is opened, with a sentence that says what would do."""

import argparse
from collections.abc import Callable

import pytest

from multifd.cli.arguments import address, amount, channels, count, positive_size, size
from multifd.limits import GIB


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (size, "1GiB", GIB),
        (size, "0", 0),
        (positive_size, "4096", 4096),
        (channels, "1", 1),
        (channels, "64", 64),
        (amount, "0.5", 0.5),
        (count, "0", 0),
        (address, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
        (address, "tcp://[::1]:99", "tcp://[::1]:99"),
        (address, "unix:///tmp/x", "unix:///tmp/x"),
    ],
)
def test_what_makes_sense_is_taken(kind: Callable[[str], object], text: str, value: object) -> None:
    """Value for value."""
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (size, ["", "many", "-1", "1XiB"]),
        (positive_size, ["0"]),
        (channels, ["0", "65", "-1", "four", "1.5", "٣"]),
        (amount, ["-1", "nan", "inf", "soon"]),
        (count, ["-1", "1.5", ""]),
        (address, ["127.0.0.1:99", "tcp://host", "http://host:1", "unix://", "tcp://host:99999"]),
    ],
)
def test_what_makes_none_is_told(kind: Callable[[str], object], texts: list[str]) -> None:
    """As argparse wants it."""
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


def test_a_port_out_of_bounds_is_told_as_such() -> None:
    """The address is right but for that."""
    with pytest.raises(argparse.ArgumentTypeError, match="a port is 0 to 65535, not 70000"):
        address("tcp://[::1]:70000")
