"""Which block names may become file names. Pure; knows nothing of files that exist.

The names come from the peer: whatever they are, no path outside the chosen directory may come of them.
"""

from __future__ import annotations

TEMPORARY_PREFIX = ".multifd-"
TEMPORARY_SUFFIX = ".part"
FILE_NAME_BYTES_MAX = 255  # NAME_MAX of Linux's file systems


def name_fault(name: str) -> str | None:
    """Why `name` can't be the name of a received file, in words; None if it can."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "the name is not valid UTF-8"
    faults = (
        (not name, "the name is empty"),
        (name in {".", ".."}, "the name stands for a directory"),
        ("/" in name, 'the name contains "/", so it could leave the directory'),
        ("\0" in name, "the name contains a NUL byte"),
        (
            length > FILE_NAME_BYTES_MAX,
            f"the name has {length} bytes; a file name has at most {FILE_NAME_BYTES_MAX}",
        ),
        (
            name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX),
            "the name has the form of multifd's own unfinished files",
        ),
    )
    return next((words for is_so, words in faults if is_so), None)


def printable(text: str) -> str:
    """`text` for a terminal: control characters and lone surrogates, which may come from the peer, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
