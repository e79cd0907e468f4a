"""Stock QEMUs on this machine: where they are, and of which version.

`MULTIFD_QEMU` names them, separated by colons; without it, whatever the caller proposes, and `qemu-system-x86_64` on
PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from multifd.errors import MultifdError

VARIABLE = "MULTIFD_QEMU"
PROGRAM = "qemu-system-x86_64"
VERSION_DEADLINE_S = 20.0  # it takes 50 ms; more on a machine that is busy with other tests

_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")


class QemuError(MultifdError):
    """A QEMU could not be started, said no, or did not do what was waited for; the text has its own last words."""


@dataclass(frozen=True, order=True)
class QemuBinary:
    """A QEMU that can be run. Ordered by version."""

    version: tuple[int, int, int]
    text: str
    """What it says of itself: version and package."""
    path: Path

    def __str__(self) -> str:
        """`10.0`: the version as machine types tell it."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def q35(self) -> str:
        """The newest q35 that it has, by full name: two QEMUs agree only on full names."""
        return f"pc-q35-{self}"

    @property
    def i440fx(self) -> str:
        """The newest i440fx that it has, by full name."""
        return f"pc-i440fx-{self}"


def inspect_binary(path: Path) -> QemuBinary:
    """Ask a QEMU for its version. Raise `QemuError` if it can't be run or is none."""
    try:
        answer = subprocess.run(  # noqa: S603  # what whoever runs the tests has named
            [path, "-version"], capture_output=True, text=True, timeout=VERSION_DEADLINE_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise QemuError(f"{path} can't be run: {error}") from error
    found = _VERSION.search(answer)
    if found is None:
        raise QemuError(f"{path} is no QEMU: it says {answer[:80]!r}")
    major, minor, micro = map(int, found.groups())
    return QemuBinary((major, minor, micro), answer.splitlines()[0].partition("version ")[2], path)


def find_binaries(proposed: Iterable[Path] = ()) -> tuple[QemuBinary, ...]:
    """All QEMUs to be tested, oldest first; of several builds of one version the first that was named.

    Raise `QemuError` if one that `MULTIFD_QEMU` names can't be run; others that can't are left out.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted:
        binaries = [inspect_binary(Path(path)) for path in wanted.split(os.pathsep) if path]
    else:
        on_path = shutil.which(PROGRAM)
        paths = [*proposed, *([Path(on_path)] if on_path else [])]
        binaries = [binary for path in paths if (binary := _inspect_or_none(path)) is not None]
    first: dict[str, QemuBinary] = {}
    for binary in binaries:
        first.setdefault(binary.text, binary)
    return tuple(sorted(first.values()))


def _inspect_or_none(path: Path) -> QemuBinary | None:
    try:
        return inspect_binary(path)
    except QemuError:
        return None
