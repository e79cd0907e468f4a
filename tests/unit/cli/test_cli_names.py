"""No block name leads out of the directory or to a surprise, and nothing that a peer wrote steers the terminal."""

import pytest

from multifd.cli.names import name_fault, printable


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        (".", "directory"),
        ("..", "directory"),
        ("../evil", "leave"),
        ("/etc/passwd", "leave"),
        ("a/b", "leave"),
        ("a\0b", "NUL"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("bad\udcff", "UTF-8"),
        (".multifd-00.part", "unfinished"),
    ],
)
def test_what_can_not_be_a_file_name_is_refused_with_the_reason(name: str, words: str) -> None:
    """Each rule names itself."""
    assert words in (name_fault(name) or "")


@pytest.mark.parametrize(
    "name", ["a", "...", ".hidden", "x" * 255, "é" * 127, "two words.txt", "новый файл", "-rf", "a\\b", "x\ny"]
)
def test_what_linux_takes_is_taken(name: str) -> None:
    """Odd names are names."""
    assert name_fault(name) is None


def test_control_characters_and_surrogates_are_shown_as_escapes() -> None:
    """A name can't move the cursor or start a new line."""
    assert printable("a\x1b[31mb\nc\udcffd é") == "a\\x1b[31mb\\nc\\udcffd é"
