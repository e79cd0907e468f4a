"""A tied process runs what it was given, and ends with whoever started it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from multifd.testing.process import start_tied

PARENT = """
import sys
from pathlib import Path
from multifd.testing.process import start_tied
child = start_tied(["/bin/sleep", "60"], errors=Path(sys.argv[1]))
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_output_and_descriptors_are_passed(tmp_path: Path) -> None:
    """What it says goes to the file, and descriptors keep their numbers."""
    reader, writer = os.pipe()
    process = start_tied(
        ["/bin/sh", "-c", f"echo said; echo through >/dev/fd/{writer}"], errors=tmp_path / "log", fds=[writer]
    )
    os.close(writer)
    assert process.wait(10) == 0
    with os.fdopen(reader) as through:
        assert through.read() == "through\n"
    assert (tmp_path / "log").read_text() == "said\n"


@pytest.mark.slow
def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Nobody is there to clean up, and still nothing is left."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert not select.select([watched], [], [], 0)[0]
            parent.kill()
            assert select.select([watched], [], [], 10)[0]
        finally:
            os.close(watched)
