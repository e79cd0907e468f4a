"""Sizes: what is read, what is refused, and how a number of bytes is shown."""

from __future__ import annotations

import pytest

from multifd.cli.sizes import format_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("17B", 17),
        ("512KiB", 512 * 1024),
        ("512kib", 512 * 1024),
        ("512K", 512 * 1024),
        ("4GiB", 4 * 2**30),
        (" 4 GiB ", 4 * 2**30),
        ("4g", 4 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("2MB", 2_000_000),
        ("2kB", 2000),
        ("0.1kB", 100),
        ("1TiB", 2**40),
        ("1TB", 10**12),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """A number and a unit in any case: binary units and bare letters are powers of 1024, kB and its like of 1000."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GiB",
        "-1",
        "+1",
        "1e9",
        "1,5GiB",
        "4 GiB free",
        "4Gi",
        "4PiB",
        "0x10",
        "1_000",
        ".5GiB",
        "1.GiB",
        "inf",
        "nan",
        "٤GiB",
        "0.3B",
        "0.0001KiB",
        "9000000TiB",
        str(2**63),
        "9" * 5000,
        "0." + "1" * 5000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """What is not a size raises `ValueError` with the text in its words, nothing else."""
    with pytest.raises(ValueError, match=r"is not a |is more than ") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 * 1024, "512 KiB"),
        (1024**2 - 1, "1 MiB"),
        (12.34 * 2**30, "12.3 GiB"),
        (999 * 2**30, "999 GiB"),
        (2**60, "1048576 TiB"),
        (-1536, "-1.5 KiB"),
    ],
)
def test_bytes_are_shown(size: float, text: str) -> None:
    """Three digits and the unit that leaves fewest of them before the point."""
    assert format_bytes(size) == text
