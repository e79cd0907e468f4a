"""A child process that does not outlive the thread which started it, whatever ends that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Run by the child before it becomes the program: the kernel is asked to kill it when its parent dies (1 is
# PR_SET_PDEATHSIG), and if the parent died before that, there is nothing to start. A `preexec_fn` would do the same,
# but not safely in a process that has threads.
_TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_tied(command: Sequence[str | Path], *, errors: Path, fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a command that dies with us; its stdout and stderr go to the file `errors`, `fds` keep their numbers."""
    with errors.open("ab") as log:
        return subprocess.Popen(  # noqa: S603  # no shell
            [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=tuple(fds),
            start_new_session=True,  # so that Ctrl-C reaches us only, who then end it in order
        )  # fmt: skip
