"""Sizes as people write and read them: `4GiB`, `512 KiB`, `1.5G`. The one place for it, for the command line and the
benchmarks.
"""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1024**power for power, letter in enumerate("kmgt", 1) for unit in (letter, f"{letter}ib")},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)")
_BYTES_MAX = 2**63 - 1  # what an offset in a file or a mapping can be


def parse_size(text: str) -> int:
    """Bytes. Units: B, KiB MiB GiB TiB and their letters alone (1024), kB MB GB TB (1000), in any case; none is bytes.

    Raise `ValueError` for anything else, for a fraction of a byte, and for more than 2^63 - 1.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size such as 512KiB, 4GiB or 1.5 GB")
    size = Fraction(match[1]) * unit
    if size.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    if size > _BYTES_MAX:
        raise ValueError(f"{text!r} is more than 2^63 - 1 bytes")
    return int(size)


def format_part(part: float, whole: float) -> str:
    """`part` of `whole`, the unit once if it is the same: `1.44 of 2 GiB`, `700 MiB of 2 GiB`."""
    shown, of = format_bytes(part), format_bytes(whole)
    number, unit = shown.split()
    return f"{number if unit == of.split()[1] else shown} of {of}"


def format_bytes(size: float) -> str:
    """`size` with three digits and a unit of 1024, `1.5 GiB`; a whole number below 1024 is plain bytes, `17 B`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    value, power = float(size), 0
    # 1023.5 would read as 1024 in three digits, which is one of the next unit.
    while abs(value) >= 1023.5 and power < len(units) - 1:
        value /= 1024
        power += 1
    digits = 0 if power == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    shown = f"{value:.{digits}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return f"{shown} {units[power]}"
