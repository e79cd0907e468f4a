"""Sizes under any text, and any size as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from multifd.cli.sizes import format_bytes, parse_size


@given(st.text(alphabet="0123456789.,-+ kKmMgGtTiIbBeE\n\u0664"))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text gives anything but a size from 0 to 2^63 - 1, or a `ValueError`."""
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 <= size < 2**63


@given(st.integers(0, 2**50))
def test_what_is_shown_can_be_read(size: int) -> None:
    """Formatting loses at most half of the third digit, and its number and unit are what is read."""
    number, unit = format_bytes(size).split()
    shown = float(number) * parse_size(f"1{unit}")
    assert abs(shown - size) <= max(size * 0.006, 0.5)
